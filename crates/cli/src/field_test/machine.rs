//! What machine this is and what day, for the report's head and its file's name. The host's name is in no report.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hw::Machine;
use serde_json::{Value, json};

/// Longest part of a host's name in the report's, in characters.
const MAX_HOST_CHARS: usize = 40;
const SECONDS_PER_DAY: u64 = 86_400;

/// A minute, in the time of Greenwich.
pub(super) struct Date {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
}

/// What the report says about the machine.
pub(super) fn describe(machine: &Machine) -> Value {
    json!({
        "cpu": machine.cpu,
        "cores": machine.n_cores(),
        "vectors": machine.vectors,
        "memory_bytes": machine.total_memory.map(|bytes| bytes.0),
        "available_memory_bytes": machine.available_memory.map(|bytes| bytes.0),
        "os": machine.os,
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    })
}

/// Where the report goes unless somebody says otherwise.
pub(super) fn file_name(host: &str, date: &Date) -> String {
    let first = host.split('.').next().unwrap_or(host);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let host: String = first.chars().take(MAX_HOST_CHARS).map(plain).collect();
    let Date { year, month, day, hour, minute } = date;
    format!("onefold-field-test-{host}-{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}.md")
}

impl Date {
    /// Days since 1970 as a date: Hinnant, "chrono-compatible low-level date algorithms" (2013), `civil_from_days`.
    pub(super) fn of(time: SystemTime) -> Date {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let minutes = seconds % SECONDS_PER_DAY / 60;
        let days = seconds / SECONDS_PER_DAY + 719_468; // since the first of March of year 0
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Date { year, month, day, hour: minutes / 60, minute: minutes % 60 }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Date { year, month, day, hour, minute } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        let date = |seconds| Date::of(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 - 1), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(date(1_798_761_540), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn file_names_are_plain() {
        let date = Date::of(UNIX_EPOCH + Duration::from_secs(1_798_761_540));
        let name = |host| file_name(host, &date);
        assert_eq!(name("studio.local"), "onefold-field-test-studio-2026-12-31-2359.md");
        assert_eq!(name("Ann's/../Mac"), "onefold-field-test-Ann-s--2026-12-31-2359.md");
    }
}
