//! Dates as chat templates write them: `strftime` of a moment in UTC. It reads no clock.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY_S: u64 = 86_400;

/// `format` filled in for `unix_s`, seconds since 1970. `None` if it has a directive that is not known here.
pub(crate) fn strftime(format: &str, unix_s: u64) -> Option<String> {
    let (days, second) = (unix_s / DAY_S, unix_s % DAY_S);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[((days + 4) % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let written = match chars.next()? {
            'Y' => write!(out, "{year:04}"),
            'y' => write!(out, "{:02}", year % 100),
            'm' => write!(out, "{month:02}"),
            'd' => write!(out, "{day:02}"),
            'B' => write!(out, "{month_name}"),
            'b' => write!(out, "{}", &month_name[..3]),
            'A' => write!(out, "{day_name}"),
            'a' => write!(out, "{}", &day_name[..3]),
            'H' => write!(out, "{hour:02}"),
            'I' => write!(out, "{:02}", (hour + 11) % 12 + 1),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'M' => write!(out, "{minute:02}"),
            'S' => write!(out, "{:02}", second % 60),
            'j' => write!(out, "{:03}", day_of_year(year, days)),
            '%' => write!(out, "%"),
            _ => return None,
        };
        written.ok()?;
    }
    Some(out)
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day is
/// the last of its year and months have a regular length (153 days in five).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

fn day_of_year(year: u64, days: u64) -> u64 {
    let mut first = days.saturating_sub(366);
    while civil(first).0 < year {
        first += 1;
    }
    days - first + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let full = "%Y-%m-%d %H:%M:%S %A %a %B %b %y %I %p %j %%";
        assert_eq!(strftime(full, 0).unwrap(), "1970-01-01 00:00:00 Thursday Thu January Jan 70 12 AM 001 %");
        assert_eq!(
            strftime(full, 1_709_210_096).unwrap(),
            "2024-02-29 12:34:56 Thursday Thu February Feb 24 12 PM 060 %"
        );
        assert_eq!(strftime("%d %b %Y, %j", 4_102_444_799).unwrap(), "31 Dec 2099, 365");
        assert_eq!(strftime("%Q", 0), None);
        assert_eq!(strftime("%", 0), None);
    }
}
