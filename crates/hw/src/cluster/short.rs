//! The short form of a cluster, for a command line. It does not know which ports machines have.

use crate::catalogue::{Catalogue, MachineKind};

use super::{Cluster, ClusterError, ClusterLink, check_size, members};

/// What stands between the machines and the link.
const OVER: &str = "over";

pub(super) fn parse(text: &str, catalogue: &Catalogue) -> Result<Cluster, ClusterError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let expected = |expected, found: &str| ClusterError::Short {
        text: text.to_owned(),
        expected,
        found: found.to_owned(),
    };
    let (machines, link) = match words.iter().position(|word| *word == OVER) {
        None => (&words[..], None),
        Some(at) => match &words[at + 1..] {
            [link] => (&words[..at], Some(*link)),
            rest => return Err(expected("one kind of link after \"over\"", &rest.join(" "))),
        },
    };
    let joined = machines.join(" ");
    let groups = joined.split('+').map(|part| {
        let (count, name) = counted(part.trim()).ok_or_else(|| expected("COUNTx MACHINE", part.trim()))?;
        Ok((count, catalogue.machine(name)?))
    });
    let groups: Vec<(u32, &MachineKind)> = groups.collect::<Result<_, ClusterError>>()?;
    check_size(groups.iter().map(|(count, _)| *count))?;
    let members: Vec<_> =
        merged(groups).into_iter().flat_map(|(count, kind)| members(&kind.name, count, kind, None)).collect();
    let link = link.map(|name| catalogue.link(name)).transpose()?;
    let links = match link {
        None if members.len() > 1 => {
            return Err(expected("\"over\" and a kind of link after several machines", text));
        }
        Some(kind) if members.len() > 1 => vec![ClusterLink {
            kind: kind.clone(),
            among: (0..members.len()).collect(),
            n_cables: 1,
            price_usd: None,
        }],
        _ => Vec::new(),
    };
    Ok(Cluster { members, links })
}

/// Groups of the same kind become one, so that names stay unique.
fn merged(groups: Vec<(u32, &MachineKind)>) -> Vec<(u32, &MachineKind)> {
    let mut merged: Vec<(u32, &MachineKind)> = Vec::new();
    for (count, kind) in groups {
        match merged.iter_mut().find(|(_, known)| known.name == kind.name) {
            Some((sum, _)) => *sum += count, // checked together before
            None => merged.push((count, kind)),
        }
    }
    merged
}

/// Count and name out of `4x NAME`, `4 x NAME`, `4 NAME` or `NAME`; a count is at least 1.
fn counted(part: &str) -> Option<(u32, &str)> {
    if !part.starts_with(|c: char| c.is_ascii_digit()) {
        return is_name(part).then_some((1, part));
    }
    let n_digits = part.find(|c: char| !c.is_ascii_digit())?;
    let count = part[..n_digits].parse().ok().filter(|count| *count > 0)?;
    let rest = part[n_digits..].trim_start();
    let name = rest.strip_prefix(['x', 'X', '×']).unwrap_or(rest).trim_start();
    is_name(name).then_some((count, name))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_whitespace)
}
