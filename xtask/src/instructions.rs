//! `cargo xtask instructions`: counts the instructions of the CPU kernels' operations under valgrind and compares with
//! the counts that are kept in the repository, for a count shows a regression where every time is noise. It does not
//! know the operations, and fewer instructions are not always faster ones.

use std::{
    fmt, fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;

use crate::tidy;

/// The counts that are kept, relative to the repository.
const KEPT: &str = "bench/instructions.txt";
/// Its first line.
const HEADING: &str = "# Instructions per call with AVX2, by `cargo xtask instructions --bless`";
/// A rise up to this passes: a compiler moves some instructions about.
const TOLERANCE_PERCENT: u64 = 2;
/// Calls of the two runs whose difference is taken, so that whatever comes before the first call drops out.
const N_CALLS: [u64; 2] = [1, 5];

/// What to do with differences.
#[derive(Args)]
pub(crate) struct InstructionsArgs {
    /// Keep the new counts
    #[arg(long)]
    bless: bool,
}

/// Counts, prints a table, compares or keeps. Without valgrind it says that, and is no failure.
pub(crate) fn run(args: &InstructionsArgs) -> Result<ExitCode> {
    if let Err(why) = valgrind() {
        println!("SKIPPED (1): instructions counted nothing: {why:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let metadata = tidy::metadata()?;
    let folder = |name: &str| metadata[name].as_str().with_context(|| format!("cargo names no {name}"));
    let kept_path = Path::new(folder("workspace_root")?).join(KEPT);
    let kept = read(&fs::read_to_string(&kept_path).unwrap_or_default())?;
    let counts = count(&Path::new(folder("target_directory")?).join("release/examples/count"))?;
    let changes = compare(&kept, &counts);
    changes.iter().for_each(|change| println!("{change}"));
    let n_bad = changes.iter().filter(|change| change.is_bad()).count();
    if args.bless {
        fs::create_dir_all(kept_path.parent().context("the file has no folder")?)?;
        fs::write(&kept_path, written(&counts))?;
        println!("instructions: {} operations kept in {KEPT}", counts.len());
    } else if n_bad == 0 {
        println!("instructions: {} operations cost what they should", counts.len());
    } else {
        println!("instructions: {n_bad} of {} operations do not cost what they should", changes.len());
        println!("hint: if it is meant, `cargo xtask instructions --bless`");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is a valgrind, and a processor whose instructions the kept counts are.
fn valgrind() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the counts are those of x86-64");
    let version = output(Command::new("valgrind").arg("--version"));
    version.map(drop).map_err(|why| anyhow!("{why:#}\nhint: `apt-get install valgrind` as root"))
}

/// An operation and its instructions per call.
type Count = (String, u64);

/// Builds the example and counts each of its operations.
fn count(example: &Path) -> Result<Vec<Count>> {
    let build = ["build", "--release", "--quiet", "--package", "kernels", "--example", "count"];
    let status = Command::new("cargo").args(build).status().context("cannot start cargo")?;
    ensure!(status.success(), "the build of the example ended with {status}");
    let names = output(&mut Command::new(example))?;
    ensure!(!names.is_empty(), "{} names no operations", example.display());
    names.lines().map(|name| Ok((name.to_owned(), per_call(example, name)?))).collect()
}

fn per_call(example: &Path, name: &str) -> Result<u64> {
    let mut counts = [0; 2];
    for (count, n_calls) in counts.iter_mut().zip(N_CALLS) {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(example);
        let report = output(valgrind.args([name, &n_calls.to_string()]))?;
        *count = collected(&report).with_context(|| format!("expected a count, found: {report}"))?;
    }
    Ok(counts[1].saturating_sub(counts[0]) / (N_CALLS[1] - N_CALLS[0]))
}

/// The number of `==123== Collected : 456`.
fn collected(report: &str) -> Option<u64> {
    report.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// What a command printed, also what it reports of itself; why it failed otherwise.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "{program} failed: {}", text.trim());
    Ok(text)
}

fn read(text: &str) -> Result<Vec<Count>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let count = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    lines
        .map(|l| count(l).with_context(|| format!("{KEPT}: expected a name and a number, found {l}")))
        .collect()
}

fn written(counts: &[Count]) -> String {
    let lines = counts.iter().map(|(name, count)| format!("{name:24}{count:>10}\n"));
    format!("{HEADING}\n{}", lines.collect::<String>())
}

/// An operation whose counts are compared.
struct Change {
    name: String,
    kept: Option<u64>,
    found: Option<u64>,
}

/// Every operation that is kept or found, once.
fn compare(kept: &[Count], found: &[Count]) -> Vec<Change> {
    let of = |counts: &[Count], name: &str| counts.iter().find(|(n, _)| n == name).map(|(_, count)| *count);
    let gone = kept.iter().filter(|(name, _)| of(found, name).is_none());
    let change =
        |(name, _): &Count| Change { name: name.clone(), kept: of(kept, name), found: of(found, name) };
    found.iter().chain(gone).map(change).collect()
}

impl Change {
    /// What is not in both lists is not looked after.
    fn is_bad(&self) -> bool {
        self.kept.zip(self.found).is_none_or(|(kept, found)| is_above(found, kept))
    }
}

/// Whether a count is above another by more than passes.
fn is_above(count: u64, other: u64) -> bool {
    count * 100 > other * (100 + TOLERANCE_PERCENT)
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: Option<u64>| count.map_or_else(|| "none".to_owned(), |count| count.to_string());
        write!(f, "{:24}{:>10} -> {:>10}", self.name, count(self.kept), count(self.found))?;
        let Some((kept, found)) = self.kept.zip(self.found) else { return write!(f, "  NOT IN BOTH") };
        let percent = 100.0 * found.abs_diff(kept) as f64 / kept as f64;
        match (is_above(found, kept), is_above(kept, found)) {
            (true, _) => write!(f, "  ROSE by {percent:.1} %"),
            (_, true) => write!(f, "  fell by {percent:.1} %"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> Vec<Count> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn rises_and_unknown_operations_are_bad_and_falls_are_told() {
        let kept = counts(&[("same", 1000), ("up", 1000), ("little", 1000), ("down", 1000), ("gone", 7)]);
        let found = counts(&[("same", 1000), ("up", 1021), ("little", 1020), ("down", 500), ("new", 7)]);
        let changes = compare(&kept, &found);
        let bad: Vec<_> = changes.iter().filter(|c| c.is_bad()).map(|c| c.name.as_str()).collect();
        assert_eq!(bad, ["up", "new", "gone"]);
        let told: Vec<_> = changes.iter().map(Change::to_string).collect();
        assert!(told[0].ends_with("1000") && told[2].ends_with("1020"), "{told:?}");
        assert!(told[1].ends_with("ROSE by 2.1 %") && told[3].ends_with("fell by 50.0 %"), "{told:?}");
        assert!(told[4].ends_with("NOT IN BOTH") && told[5].contains("none"), "{told:?}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let some =
            counts(&[("matmul-q4_0-32-rows", 526_882), ("rope", 1), ("a-name-longer-than-its-column", 2)]);
        assert_eq!(read(&written(&some)).unwrap(), some);
        assert_eq!(read("").unwrap(), []);
        assert!(read("rope many").is_err() && read("rope").is_err());
    }

    #[test]
    fn the_count_is_found_in_a_report() {
        assert_eq!(collected("==7== \n==7== Events    : Ir\n==7== Collected : 337573\n"), Some(337_573));
        assert_eq!(collected("==7== Collected : \n"), None);
    }
}
