//! Takes out of a report what would tell whose machine it is: serial numbers, addresses, unique numbers, the names of the host and of the
//! home folder. It errs on the side of taking out too much.

use std::{net::Ipv4Addr, net::Ipv6Addr, path::Path};

use serde_json::Value;

const ADDRESS: &str = "<address>";
const NUMBER: &str = "<number>";
/// Words in the name of a value that is nobody's business.
const PRIVATE_WORDS: [&str; 6] = ["uid", "uuid", "guid", "gid", "udid", "ecid"];
/// Parts of such words.
const PRIVATE_PARTS: [&str; 1] = ["serial"];
/// Digits of a unique number that is written with letters, and of any.
const MIN_HEX_DIGITS: usize = 12;
const MIN_DIGITS: usize = 16;
/// Shortest host name that is looked for.
const MIN_HOST_CHARS: usize = 3;

/// What is taken out.
pub(super) struct Privacy {
    /// Names, and what stands for them.
    names: Vec<(String, &'static str)>,
}

impl Privacy {
    pub(super) fn new(host: &str, home: Option<&Path>, scratch: &Path) -> Privacy {
        let mut names = vec![(scratch.to_string_lossy().into_owned(), "<scratch>")];
        let home = home.map(|home| home.to_string_lossy().into_owned());
        names.extend(home.filter(|home| home.len() > 1).map(|home| (home, "~")));
        let short = host.split('.').next().unwrap_or(host);
        for name in [host, short] {
            if name.len() >= MIN_HOST_CHARS && short != "localhost" {
                names.push((name.to_owned(), "<host>"));
            }
        }
        Privacy { names }
    }

    /// All texts of a value; a value of a private name goes whole.
    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(values) => values.iter().map(|value| self.value(value)).collect(),
            Value::Object(entries) => {
                let clean = |(key, value): (&String, &Value)| match value {
                    Value::String(_) | Value::Number(_) if is_private(key) => (key.clone(), NUMBER.into()),
                    _ => (self.text(key), self.value(value)),
                };
                Value::Object(entries.iter().map(clean).collect())
            }
            other => other.clone(),
        }
    }

    /// A text of one or more lines.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, stand_in) in &self.names {
            text = replace_word(&text, name, stand_in);
        }
        let lines: Vec<String> = text.split('\n').map(line).collect();
        lines.join("\n")
    }
}

/// What is known by its form goes; then, if it is `name: value` or `name = value` of a private name, the value.
fn line(line: &str) -> String {
    let clean = without_numbers(line);
    match clean.find([':', '=']).filter(|at| is_private(&clean[..*at])) {
        Some(at) => format!("{} {NUMBER}", &clean[..=at]),
        None => clean,
    }
}

fn without_numbers(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_run) {
        let len = rest[start..].find(|c| !is_run(c)).unwrap_or(rest.len() - start);
        let (before, run) = (&rest[..start], &rest[start..start + len]);
        clean += before;
        clean += stand_in(run).unwrap_or(run);
        rest = &rest[start + len..];
    }
    clean + rest
}

/// What addresses and unique numbers are written with.
fn is_run(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '-')
}

fn stand_in(run: &str) -> Option<&'static str> {
    let core = run.trim_matches([':', '.', '-']);
    // a path in a program, such as core::cell, has no digits
    let has_digit = run.contains(|c: char| c.is_ascii_digit());
    let is_v6 = has_digit && [run, core].into_iter().any(|text| text.parse::<Ipv6Addr>().is_ok());
    let is_v4 = core.split([':', '-']).any(|text| text.parse::<Ipv4Addr>().is_ok());
    if is_v4 || is_v6 || is_mac(core) {
        return Some(ADDRESS);
    }
    let is_number = is_uuid(core) || is_guid(core) || core.split([':', '-']).any(is_long);
    is_number.then_some(NUMBER)
}

/// Six pairs of digits; some tools leave out a leading 0.
fn is_mac(text: &str) -> bool {
    let colons: Vec<&str> = text.split(':').collect();
    let dashes: Vec<&str> = text.split('-').collect();
    let is_byte = |part: &&str| (1..=2).contains(&part.len());
    colons.len() == 6 && colons.iter().all(is_byte)
        || dashes.len() == 6 && dashes.iter().all(|p| p.len() == 2)
}

fn is_uuid(text: &str) -> bool {
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

/// Groups of four digits, as RDMA devices and parts of IPv6 addresses have them.
fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split(':').collect();
    groups.len() >= 4 && groups.iter().all(|group| group.len() == 4)
}

/// A long number in one piece; a decimal one has a point and is a measurement.
fn is_long(piece: &str) -> bool {
    let is_hex = piece.chars().all(|c| c.is_ascii_hexdigit());
    let has = |kind: fn(&char) -> bool| piece.chars().any(|c| kind(&c));
    let mixed = has(char::is_ascii_digit) && has(char::is_ascii_alphabetic);
    is_hex && (piece.len() >= MIN_DIGITS || piece.len() >= MIN_HEX_DIGITS && mixed)
}

fn is_private(name: &str) -> bool {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.any(|word| PRIVATE_WORDS.contains(&word) || PRIVATE_PARTS.iter().any(|part| word.contains(part)))
}

/// Replaces a name where it is not a part of a longer word.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric();
    let mut clean = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let end = at + word.len();
        let inside = rest[..at].ends_with(is_word)
            || at == 0 && clean.ends_with(is_word)
            || rest[end..].starts_with(is_word);
        clean += &rest[..at];
        clean += if inside { word } else { by };
        rest = &rest[end..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn privacy() -> Privacy {
        Privacy::new(
            "annas-studio.local",
            Some(Path::new("/Users/anna")),
            Path::new("/var/folders/x7/T/field"),
        )
    }

    #[test]
    fn addresses_and_numbers_go() {
        for (text, expected) in [
            ("Ethernet Address: 36:1a:c0:9f:40:00", "Ethernet Address: <address>"),
            ("at 0:1c:42:0:0:8 on en0", "at <address> on en0"),
            ("36-1A-C0-9F-40-00", "<address>"),
            ("eth0 UP 192.168.1.17/24 fe80::42:acff:fe11:2/64", "eth0 UP <address>/24 <address>/64"),
            ("inet6:fe80::1%en0 [2001:db8::7]:7700", "inet<address>%en0 [<address>]:7700"),
            ("lost 10.0.0.9:7700.", "lost <address>"),
            ("fe80:0000:0000:0000:0200:00ff:fe00:0001", "<address>"),
            ("id 7B9C1D52-0E4B-4F6A-9D3C-1F2E3D4C5B6A", "id <number>"),
            ("rdma_en2 \t 361ac0fffe9f4000", "rdma_en2 \t <number>"),
            ("0x05AC0F4E11223344", "0x<number>"),
            ("node GUID 0200:00ff:fe00:0000", "node GUID <number>"),
        ] {
            assert_eq!(privacy().text(text), expected);
        }
    }

    #[test]
    fn values_of_private_names_go() {
        for (text, expected) in [
            ("      Serial Number (system): C02XK1ZZJGH5", "      Serial Number (system): <number>"),
            ("\"IOPlatformSerialNumber\" = \"F4KE\"", "\"IOPlatformSerialNumber\" = <number>"),
            ("Hardware UUID: x", "Hardware UUID: <number>"),
            ("\tnode_guid:\t\t\t0200:00ff", "\tnode_guid: <number>"),
            ("\t\t\tGID[  0]:\t\tfe80", "\t\t\tGID[  0]: <number>"),
        ] {
            assert_eq!(privacy().text(text), expected);
        }
    }

    #[test]
    fn names_go_where_they_are_words() {
        let text = "/Users/anna/models on annas-studio.local, not /Users/annabel nor annas-studios; /var/folders/x7/T/field/m.gguf";
        let expected = "~/models on <host>, not /Users/annabel nor annas-studios; <scratch>/m.gguf";
        assert_eq!(privacy().text(text), expected);
        assert_eq!(privacy().text("annas-studio"), "<host>");
        let nobody = Privacy::new("localhost", None, Path::new("/tmp/field"));
        assert_eq!(nobody.text("localhost /Users/anna"), "localhost /Users/anna");
    }

    #[test]
    fn measurements_and_words_stay() {
        for text in [
            "value 3: expected 0.12345678901234567 ± 1.05e-5, found -1.2345678901234567e-05",
            "rank 1 of 2 at 14:30:20 on 2026-11-22, onefold 0.1.0, MLX 0.32.4, macOS 26.2",
            "hw.memsize 137438953472, Up to 80 Gb/s, layers 0..16, dead beef cafe facade",
            "Hardware Port: Thunderbolt Bridge\nDevice: bridge0",
            "thread 'main' panicked at crates/cli/src/main.rs:3:5: mlx::core::eval",
            "a valid guide to fluids: all of it",
        ] {
            assert_eq!(privacy().text(text), text);
        }
    }

    /// As `system_profiler -json SPThunderboltDataType` has been published by others, with made-up numbers.
    #[test]
    fn a_thunderbolt_tree_loses_its_numbers_and_keeps_its_speeds() {
        let tree = json!({"SPThunderboltDataType": [{
            "_name": "thunderboltusb4_bus_1",
            "device_name_key": "Mac Studio",
            "domain_uuid_key": "7B9C1D52-0E4B-4F6A-9D3C-1F2E3D4C5B6A",
            "receptacle_1_tag": {
                "current_speed_key": "Up to 80 Gb/s",
                "link_status_key": "0x2",
                "receptacle_status_key": "receptacle_connected",
            },
            "switch_uid_key": "0x05AC0F4E11223344",
            "_items": [{"device_id_key": "0x1", "serial_number": 17, "ports": 2}],
        }]});
        let clean = privacy().value(&tree);
        let bus = &clean["SPThunderboltDataType"][0];
        assert_eq!((&bus["domain_uuid_key"], &bus["switch_uid_key"]), (&json!(NUMBER), &json!(NUMBER)));
        assert_eq!(bus["receptacle_1_tag"], tree["SPThunderboltDataType"][0]["receptacle_1_tag"]);
        assert_eq!(bus["_items"], json!([{"device_id_key": "0x1", "serial_number": NUMBER, "ports": 2}]));
        assert_eq!(
            (&bus["_name"], &bus["device_name_key"]),
            (&json!("thunderboltusb4_bus_1"), &json!("Mac Studio"))
        );
    }
}
