//! `onefold doctor`: what stands between this machine and full speed, and the command that mends it. It changes no setting; what
//! counts as a finding is `hw`'s to say.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use base::Bytes;
use hw::{
    catalogue::Catalogue,
    diagnose::{Finding, diagnose},
    facts::{Facts, Linux, NvidiaGpu, Peer, System},
};
use node::Paths;
use serde_json::{Value, json};

use crate::{args::DoctorArgs, report};

/// Longest word of another machine, in bytes.
const MAX_PEER_BYTES: u64 = 4 << 20;
/// What makes such a file, for hints.
const MAKES_FILE: &str = "hint: on the other machine, onefold doctor --json > FILE makes it";

/// Looks, and reports. Findings are no failure.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let peers = args.beside.iter().map(|file| peer(file)).collect::<Result<Vec<Peer>>>()?;
    let catalogue = Catalogue::embedded()?;
    let mut facts = Facts::probe(&Paths::from_env().cache_dir);
    facts.peers = peers;
    let findings = diagnose(&facts, &catalogue);
    if args.json {
        return report::print(serde_json::to_string_pretty(&as_json(&facts, &findings))?);
    }
    report::print(describe(&facts))?;
    report::print(show(&findings))?;
    for why in &facts.unanswered {
        report::print(format_args!("not known: {why}"))?;
    }
    Ok(())
}

/// What another machine printed with `--json`.
fn peer(file: &Path) -> Result<Peer> {
    let read = || -> Result<Peer> {
        let mut text = String::new();
        File::open(file)?.take(MAX_PEER_BYTES + 1).read_to_string(&mut text)?;
        ensure!(text.len() as u64 <= MAX_PEER_BYTES, "expected at most {MAX_PEER_BYTES} bytes");
        let mut value: Value = serde_json::from_str(&text)?;
        Ok(serde_json::from_value(value["peer"].take())?)
    };
    read().with_context(|| format!("--beside: {} is no machine's word\n{MAKES_FILE}", file.display()))
}

/// The machine in a few lines; what is not known is left out.
fn describe(facts: &Facts) -> String {
    let machine = &facts.machine;
    let unknown = || "unknown".to_owned();
    let memory = machine.total_memory.map_or_else(unknown, |memory| memory.to_string());
    let mut lines = vec![
        machine.name.clone().unwrap_or_else(|| "this machine".to_owned()),
        format!(
            "  {}, {} cores ({}), {memory} of memory, {}",
            machine.cpu.clone().unwrap_or_else(unknown),
            machine.n_cores(),
            machine.vectors,
            machine.os.clone().unwrap_or_else(unknown),
        ),
    ];
    if let Some(speed) = facts.memory_gb_s {
        lines.push(format!("  the processor reads {speed:.1} GB/s from memory"));
    }
    if let System::Linux(Linux { gpus, .. }) = &facts.system {
        lines.extend(gpus.iter().map(gpu_line));
    }
    if !facts.power.is_empty() {
        let power: Vec<String> = facts.power.iter().map(|p| format!("{} {:.1} W", p.name, p.watts)).collect();
        lines.push(format!("  draws now: {}", power.join(", ")));
    }
    lines.join("\n")
}

fn gpu_line(gpu: &NvidiaGpu) -> String {
    let memory = gpu.memory.map(|memory| format!(", {memory} of memory")).unwrap_or_default();
    let watts = gpu.watts.map(|watts| format!(", draws {watts:.1} W")).unwrap_or_default();
    format!("  {}{memory}{watts}", gpu.name)
}

fn show(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "\nnothing stands in the way of full speed, as far as this machine can see\n".to_owned();
    }
    let mut text = String::new();
    for Finding { severity, what, cost, remedy, .. } in findings {
        let [what, cost, remedy] = [what, cost, remedy].map(|text| plain(text));
        text += &format!("\n{severity:6}  {what}\n        costs: {cost}\n        mend:  {remedy}\n");
    }
    text
}

/// Without what steers terminals: names come from whatever is plugged in, and from other machines.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn as_json(facts: &Facts, findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "id": finding.id,
            "severity": finding.severity.name(),
            "what": finding.what,
            "cost": finding.cost,
            "remedy": finding.remedy,
        })
    };
    let gpus = match &facts.system {
        System::Linux(linux) => linux.gpus.as_slice(),
        System::Mac(_) => &[],
    };
    let gpu = |gpu: &NvidiaGpu| {
        let bytes = |size: Option<Bytes>| size.map(|size| size.0);
        let (memory, used) = (bytes(gpu.memory), bytes(gpu.memory_used));
        json!({"name": gpu.name, "memory_bytes": memory, "memory_used_bytes": used, "watts": gpu.watts})
    };
    let watts = |power: &hw::sysfs::PowerReading| json!({"name": power.name, "watts": power.watts});
    json!({
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
        "memory_gb_s": facts.memory_gb_s,
        "power": facts.power.iter().map(watts).collect::<Vec<_>>(),
        "gpus": gpus.iter().map(gpu).collect::<Vec<_>>(),
        "unanswered": facts.unanswered,
        "peer": facts.as_peer(),
    })
}

#[cfg(test)]
mod tests {
    use hw::diagnose::Severity;

    use super::*;

    #[test]
    fn findings_are_shown_with_what_mends_them() {
        let finding = Finding {
            id: "hub-between",
            severity: Severity::Slow,
            what: "a\u{1b}[31m hub".to_owned(),
            cost: "time".to_owned(),
            remedy: "a cable".to_owned(),
        };
        assert_eq!(show(&[finding]), "\nslow    a[31m hub\n        costs: time\n        mend:  a cable\n");
        assert!(show(&[]).contains("nothing stands in the way"));
    }

    #[test]
    fn a_gpu_is_told_as_far_as_it_is_known() {
        let mut gpu = NvidiaGpu { name: "X 1".to_owned(), memory: None, memory_used: None, watts: None };
        assert_eq!(gpu_line(&gpu), "  X 1");
        (gpu.memory, gpu.watts) = (Some(Bytes(32_000_000_000)), Some(41.25));
        assert_eq!(gpu_line(&gpu), "  X 1, 32.0 GB of memory, draws 41.2 W");
    }
}
