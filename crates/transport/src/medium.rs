//! What lies between two ends that a test joins inside a process: how fast it is, how steady, and what befalls messages on
//! their way. All of it follows from numbers and a seed. Knows neither bytes nor clocks: the time is handed in.

use std::time::{Duration, Instant};

/// A kind of connection. Rates are one direction's; both have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its name, for people.
    pub name: &'static str,
    /// From one end to the other, for the first byte of a message.
    pub latency: Duration,
    /// At most so much more, another time for every message.
    pub jitter: Duration,
    /// Bytes in a second; 0 where nothing takes time.
    pub bytes_per_s: u64,
}

impl Medium {
    /// Takes no time at all.
    pub const INSTANT: Medium =
        Medium { name: "memory", latency: Duration::ZERO, jitter: Duration::ZERO, bytes_per_s: 0 };
    /// Thunderbolt 5 between two Macs, by RDMA: 75 Gb/s, 4.2 us.
    pub const TB5_RDMA: Medium = Medium::new("TB5 RDMA", 4, 2, 75_000);
    /// Thunderbolt 5, by IP: round trips of 0.3 to 0.95 ms.
    pub const TB5_IP: Medium = Medium::new("TB5 IP", 150, 325, 50_000);
    /// Thunderbolt 4, by IP.
    pub const TB4_IP: Medium = Medium::new("TB4 IP", 150, 325, 16_000);
    /// Thunderbolt through a hub, or Ethernet of that rate.
    pub const HUB_10G: Medium = Medium::new("10 Gb/s hub", 150, 325, 10_000);
    /// Ethernet as most houses have it; its latency is a usual one, not measured.
    pub const ETHERNET_1G: Medium = Medium::new("1 GbE", 100, 100, 1_000);
    /// A good Wi-Fi that others use too; its figures are usual ones, not measured.
    pub const WIFI: Medium = Medium::new("Wi-Fi", 1_500, 6_000, 600);
    /// All of them but memory.
    pub const CATALOGUE: [Medium; 6] = [
        Medium::TB5_RDMA,
        Medium::TB5_IP,
        Medium::TB4_IP,
        Medium::HUB_10G,
        Medium::ETHERNET_1G,
        Medium::WIFI,
    ];

    const fn new(name: &'static str, latency_us: u64, jitter_us: u64, mbit_per_s: u64) -> Medium {
        let (latency, jitter) = (Duration::from_micros(latency_us), Duration::from_micros(jitter_us));
        Medium { name, latency, jitter, bytes_per_s: mbit_per_s * 1_000_000 / 8 }
    }

    /// Bytes that are on their way while the first of them travels.
    pub(crate) fn n_in_flight(&self) -> usize {
        let longest = self.latency + self.jitter;
        (u128::from(self.bytes_per_s) * longest.as_nanos() / 1_000_000_000) as usize
    }

    fn time_for(&self, n_bytes: usize) -> Duration {
        match self.bytes_per_s {
            0 => Duration::ZERO,
            rate => Duration::from_nanos((n_bytes as u128 * 1_000_000_000 / u128::from(rate)) as u64),
        }
    }
}

/// One direction of a medium: when what is sent now will be there. What was sent first is there first.
pub(crate) struct Way {
    pub(crate) medium: Medium,
    dice: Dice,
    /// The jitter of the current message.
    late: Duration,
    /// When all that was sent has left.
    free_at: Option<Instant>,
    /// When all that was sent is there.
    there_at: Option<Instant>,
}

impl Way {
    pub(crate) fn new(medium: Medium, seed: u64) -> Way {
        Way { medium, dice: Dice::new(seed), late: Duration::ZERO, free_at: None, there_at: None }
    }

    /// A message begins: it has a jitter of its own.
    pub(crate) fn begin(&mut self) {
        self.late = self.medium.jitter.mul_f64(self.dice.throw());
    }

    /// When the last of these bytes is there.
    pub(crate) fn arrival(&mut self, now: Instant, n_bytes: usize) -> Instant {
        let left_at = self.free_at.map_or(now, |free| free.max(now)) + self.medium.time_for(n_bytes);
        let arrival = left_at + self.medium.latency + self.late;
        let arrival = self.there_at.map_or(arrival, |there| there.max(arrival));
        (self.free_at, self.there_at) = (Some(left_at), Some(arrival));
        arrival
    }
}

/// Something that happens to a share of all messages.
#[derive(Default)]
pub(crate) struct Chance {
    share: f64,
    dice: Dice,
}

impl Chance {
    pub(crate) fn new(share: f64, seed: u64) -> Chance {
        Chance { share, dice: Dice::new(seed) }
    }

    /// Whether it happens to the next one.
    pub(crate) fn strikes(&mut self) -> bool {
        self.share > 0.0 && self.dice.throw() < self.share
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Default)]
pub(crate) struct Dice {
    seed: u64,
    n_thrown: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice { seed, n_thrown: 0 }
    }

    /// The next number, in `0.0..1.0`.
    pub(crate) fn throw(&mut self) -> f64 {
        self.n_thrown += 1;
        let bytes = [self.seed.to_le_bytes(), self.n_thrown.to_le_bytes()].concat();
        (rapidhash::v3::rapidhash_v3(&bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn bytes_leave_one_after_the_other_and_travel_together() {
        let medium = Medium { name: "", latency: 50 * US, jitter: Duration::ZERO, bytes_per_s: 1_000_000 };
        let (mut way, now) = (Way::new(medium, 1), Instant::now());
        assert_eq!(way.arrival(now, 10), now + 60 * US);
        assert_eq!(way.arrival(now, 30), now + 90 * US);
        // after a pause the way is free
        assert_eq!(way.arrival(now + 100 * US, 1), now + 151 * US);
        assert_eq!(medium.n_in_flight(), 50);
    }

    #[test]
    fn jitter_is_the_seeds_and_overtakes_nothing() {
        let medium = Medium { name: "", latency: US, jitter: 1000 * US, bytes_per_s: 0 };
        let arrivals = |seed| {
            let (mut way, start) = (Way::new(medium, seed), Instant::now());
            let mut at = |_| {
                way.begin();
                way.arrival(start, 1).duration_since(start)
            };
            (0..100).map(&mut at).collect::<Vec<_>>()
        };
        let first = arrivals(7);
        assert!(first.is_sorted() && first[0] >= US && first[99] <= 1001 * US && first[0] < first[99]);
        assert_eq!(first, arrivals(7));
        assert_ne!(first, arrivals(8));
    }

    #[test]
    fn a_share_is_struck() {
        let n_struck = |share| {
            let mut chance = Chance::new(share, 3);
            (0..10_000).filter(|_| chance.strikes()).count()
        };
        assert_eq!([n_struck(0.0), n_struck(1.0)], [0, 10_000]);
        assert!((2_300..2_700).contains(&n_struck(0.25)), "{}", n_struck(0.25));
    }
}
