//! A size in bytes that prints the way people read sizes (decimal units, as files and links are sold).

use std::{fmt, iter::Sum, ops};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
        let n = self.0 as f64;
        match UNITS.iter().find(|(_, size)| n >= *size) {
            Some((unit, size)) => f.pad(&format!("{:.1} {unit}", n / size)),
            None => f.pad(&format!("{} B", self.0)),
        }
    }
}

impl ops::Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes(0), ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_decimal_units() {
        assert_eq!(Bytes(999).to_string(), "999 B");
        assert_eq!(Bytes(98_362_432).to_string(), "98.4 MB");
        assert_eq!(Bytes(594_200_000_000).to_string(), "594.2 GB");
    }
}
