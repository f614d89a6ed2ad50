//! Names that look like what somebody typed. It knows strings only.

/// Names told at most.
const MAX_NAMES: usize = 3;
/// How alike a name must be, from 0 to 1 (Jaro and Winkler's measure).
const LEAST_LIKENESS: f64 = 0.8;

/// The names most like `typed`, nearest first, as long as they are like it at all.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let typed = typed.to_lowercase();
    let mut alike: Vec<(f64, &str)> = names
        .map(|name| (strsim::jaro_winkler(&typed, name), name))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    alike.into_iter().take(MAX_NAMES).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_strangers_not_at_all() {
        let names = ["tb5-rdma", "tb5-ip", "tb4-ip", "wifi"];
        assert_eq!(nearest("tb5_rdma", names.into_iter())[0], "tb5-rdma");
        assert_eq!(nearest("WIFI", names.into_iter()), ["wifi"]);
        assert!(nearest("zzz", names.into_iter()).is_empty());
        assert!(nearest("", names.into_iter()).is_empty());
    }
}
