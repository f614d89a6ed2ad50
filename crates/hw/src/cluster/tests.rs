//! Descriptions and what becomes of them, in both forms.

use proptest::prelude::*;

use super::*;

fn short(text: &str) -> Result<Cluster, ClusterError> {
    Cluster::from_short(text, &Catalogue::embedded().unwrap())
}

fn file(text: &str) -> Result<Cluster, ClusterError> {
    Cluster::from_toml(text, &Catalogue::embedded().unwrap())
}

fn says(result: Result<Cluster, ClusterError>, texts: &[&str]) {
    let shown = result.unwrap_err().to_string();
    assert!(texts.iter().all(|text| shown.contains(text)), "expected {texts:?} in {shown}");
}

#[test]
fn the_short_form_counts_machines() {
    let cluster = short("4x mac-studio-m3-ultra-512 over tb5-rdma").unwrap();
    let names: Vec<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(
        (names.len(), names[0], names[3]),
        (4, "mac-studio-m3-ultra-512-1", "mac-studio-m3-ultra-512-4")
    );
    assert_eq!(cluster.links.len(), 1);
    assert_eq!((cluster.links[0].kind.name.as_str(), cluster.links[0].among.len()), ("tb5-rdma", 4));
    assert_eq!(cluster.links_between(0, 3).count(), 1);
    assert_eq!(cluster.links_between(2, 2).count(), 0);
    assert_eq!(cluster.price_usd(), Some(4.0 * 9499.0));
    for same in [
        "4 mac-studio-m3-ultra-512 over tb5-rdma",
        " 4 x  mac-studio-m3-ultra-512  over tb5-rdma",
        "4× mac-studio-m3-ultra-512 over tb5-rdma",
        "mac-studio-m3-ultra-512 + 3xmac-studio-m3-ultra-512 over tb5-rdma",
    ] {
        assert_eq!(short(same).unwrap(), cluster, "{same}");
    }
}

#[test]
fn the_short_form_mixes_machines() {
    let cluster = short("2x mac-studio-m3-ultra-512 + 1x macbook-pro-m4-max-128 over tb5-ip").unwrap();
    assert_eq!(cluster.members[2].name, "macbook-pro-m4-max-128");
    assert_eq!(cluster.links[0].among, [0, 1, 2]);
    assert_eq!(cluster.price_usd(), None, "the laptop's is not known");
    let alone = short("dgx-spark").unwrap();
    assert_eq!((alone.members.len(), alone.links.len()), (1, 0));
    assert_eq!(short("1x dgx-spark over 10gbe").unwrap(), alone);
}

#[test]
fn what_is_wrong_with_the_short_form_is_told() {
    says(
        short("4x mac-studio-m3-ultra-500 over tb5-rdma"),
        &["mac-studio-m3-ultra-500", "hint", "mac-studio-m3-ultra-512"],
    );
    says(short("2x mac-mini-m4-16 over tb5-rmda"), &["link", "tb5-rmda", "did you mean tb5-rdma"]);
    says(short("2x mac-mini-m4-16"), &["over", "hint"]);
    says(short("2x mac-mini-m4-16 over"), &["one kind of link"]);
    says(short("2x mac-mini-m4-16 over 10gbe wifi"), &["one kind of link", "10gbe wifi"]);
    says(short(""), &["COUNTx MACHINE"]);
    says(short("0x mac-mini-m4-16"), &["COUNTx MACHINE", "0x"]);
    says(short("mac-mini-m4-16 +"), &["COUNTx MACHINE"]);
    says(short("4096x mac-mini-m4-16 + 1x mac-mini-m4-24 over 10gbe"), &["4096", "4097"]);
    says(short("99999999999x mac-mini-m4-16 over 10gbe"), &["COUNTx MACHINE"]);
    says(short("2x mac-mini-m4-16 over shm"), &["shm", "inside a machine"]);
    says(short(&"x".repeat(MAX_TEXT_BYTES + 1)), &["bytes"]);
}

#[test]
fn ports_limit_a_mesh() {
    says(
        short("2x mac-mini-m4-16 over tb5-rdma"),
        &["mac-mini-m4-16-1", "Thunderbolt 5", "Thunderbolt 4", "tb4-ip"],
    );
    says(short("2x rtx-5090 over tb4-ip"), &["no Thunderbolt port", "10gbe"]);
    assert!(short("4x mac-mini-m4-pro-64 over tb5-rdma").is_ok());
    says(
        short("5x mac-mini-m4-pro-64 over tb5-rdma"),
        &["mac-mini-m4-pro-64-1", "4 for tb5-rdma", "found 3"],
    );
    assert!(short("6x mac-studio-m3-ultra-512 over tb5-rdma").is_ok());
    says(short("7x mac-studio-m3-ultra-512 over tb5-rdma"), &["found 5"]);
    assert!(short("7x mac-studio-m3-ultra-512 over tb5-ip").is_ok(), "IP has the port beside Ethernet too");
    assert!(short("1000x mac-studio-m3-ultra-512 over 10gbe").is_ok());
    assert!(short("3x mac-mini-m1-16 over tb4-ip").is_ok(), "nobody told how many ports it has");
}

const FILE: &str = r#"
over = "10gbe"

[[machine]]
kind = "mac-studio-m3-ultra-512"
count = 2
name = "studio"
price_usd = 8000

[[machine]]
kind = "macbook-pro-m4-max-128"
name = "laptop"
price_usd = 4000.5

[[link]]
kind = "tb5-rdma"
between = ["studio"]
cables = 2
price_usd = 140

[[link]]
kind = "tb5-ip"
between = ["studio-2", "laptop"]
"#;

#[test]
fn a_file_has_machines_and_links() {
    let cluster = file(FILE).unwrap();
    let names: Vec<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["studio-1", "studio-2", "laptop"]);
    let kinds = |a, b| cluster.links_between(a, b).map(|link| link.kind.name.as_str()).collect::<Vec<_>>();
    assert_eq!(kinds(0, 1), ["tb5-rdma", "10gbe"]);
    assert_eq!(kinds(2, 1), ["tb5-ip", "10gbe"]);
    assert_eq!(kinds(0, 2), ["10gbe"]);
    assert_eq!(cluster.links[0].n_cables, 2);
    assert_eq!(cluster.price_usd(), Some(16_000.0 + 4000.5 + 140.0));
    let both = "[[link]]\nkind = \"tb5-ip\"\nbetween = [\"studio\"]\ncables = 2\n";
    assert!(file(&format!("{FILE}{both}")).is_ok(), "RDMA's cables carry IP");
    let short_form = short("2x mac-studio-m3-ultra-512 over tb5-rdma").unwrap();
    let same = "over = \"tb5-rdma\"\n[[machine]]\nkind = \"mac-studio-m3-ultra-512\"\ncount = 2";
    assert_eq!(file(same).unwrap(), short_form);
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let swapped = |from: &str, to: &str| {
        assert!(FILE.contains(from), "{from}");
        file(&FILE.replacen(from, to, 1))
    };
    says(file(""), &["from 1 to", "found 0"]);
    says(file("[[machine]]"), &["kind"]);
    says(swapped("count = 2", "count = 0"), &["studio", "at least 1"]);
    says(swapped("count = 2", "count = 5000"), &["found 5001"]);
    says(swapped("count = 2", "count = -1"), &["count"]);
    says(swapped("\"laptop\"\nprice", "\"studio-1\"\nprice"), &["studio-1", "twice"]);
    says(swapped("[\"studio\"]", "[\"studoi\"]"), &["tb5-rdma", "studoi", "did you mean studio"]);
    says(swapped("[\"studio\"]", "[\"studio-1\", \"studio-1\"]"), &["two machines", "found 1"]);
    says(swapped("cables = 2", "cables = 0"), &["tb5-rdma", "cables"]);
    says(swapped("cables = 2", "cables = 9"), &["studio-1", "9 for tb5-rdma", "found 5"]);
    let many = FILE.replace("cables = 2", "cables = 5").replace("\"laptop\"]", "\"laptop\"]\ncables = 2");
    says(file(&many), &["studio-2", "7 for Thunderbolt", "found 6"]);
    says(swapped("= 8000", "= nan"), &["studio", "price_usd"]);
    says(swapped("= 140", "= -1"), &["tb5-rdma", "price_usd"]);
    says(swapped("cables = 2", "cable = 2"), &["cable", "unknown field"]);
    says(swapped("\"macbook-pro-m4-max-128\"", "\"macbook-pro-m4-128\""), &["hint", "macbook-pro-m4"]);
    says(swapped("\"10gbe\"", "\"loopback\""), &["loopback", "inside"]);
}

proptest! {
    #[test]
    fn nothing_typed_panics(text in "([0-9]{0,3}x? ?(mac-mini-m4-16|dgx-spark|[a-z×+ ]{0,6}) ?[+]? ?){0,4}(over)? ?(tb4-ip|10gbe|.{0,4})") {
        if let Ok(cluster) = short(&text) {
            prop_assert!(!cluster.members.is_empty() && cluster.members.len() <= MAX_MEMBERS);
            let mut names: Vec<_> = cluster.members.iter().map(|member| &member.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), cluster.members.len());
        }
    }
}
