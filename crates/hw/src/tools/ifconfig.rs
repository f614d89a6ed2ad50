//! `ifconfig`: the state of a Mac's network interfaces and the members of its bridges. It does not know the ports behind them.

use std::net::Ipv4Addr;

use super::{ToolError, field};

const TOOL: &str = "ifconfig";

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// As in `en1`.
    pub name: String,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether something is at the other end, where it says so.
    pub is_active: Option<bool>,
    /// Its IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Interfaces that it joins, if it is a bridge.
    pub members: Vec<String>,
}

/// The interfaces, in the tool's order.
pub fn parse(text: &str) -> Result<Vec<Interface>, ToolError> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if !line.starts_with(char::is_whitespace) {
            interfaces.push(interface(line)?);
            continue;
        }
        let Some(last) = interfaces.last_mut() else {
            return Err(ToolError::new(TOOL, "an interface's name first", line));
        };
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("inet"), Some(address)) => last.ipv4.extend(address.parse::<Ipv4Addr>()),
            (Some("member:"), Some(member)) => last.members.push(member.to_owned()),
            _ => last.is_active = field(line, "status").map(|status| status == "active").or(last.is_active),
        }
    }
    if interfaces.is_empty() {
        return Err(ToolError::new(TOOL, "interfaces", text));
    }
    Ok(interfaces)
}

/// `en1: flags=8863<UP,BROADCAST,…> mtu 1500`.
fn interface(line: &str) -> Result<Interface, ToolError> {
    let (name, rest) =
        line.split_once(": flags=").ok_or_else(|| ToolError::new(TOOL, "NAME: flags=", line))?;
    let flags = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(flags, _)| flags);
    let flags = flags.ok_or_else(|| ToolError::new(TOOL, "flags in < and >", line))?;
    Ok(Interface {
        name: name.to_owned(),
        is_up: flags.split(',').any(|flag| flag == "UP"),
        is_active: None,
        ipv4: Vec::new(),
        members: Vec::new(),
    })
}
