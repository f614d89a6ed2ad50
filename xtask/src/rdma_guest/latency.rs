//! What the guest measured: the latency of the verbs link beside that of the system's own tool. Each turn is a median; of the
//! turns the least counts, for whatever else the machine does only makes them slower. On an emulated processor the times
//! mean nothing, and their ratio something.

use std::collections::BTreeMap;

/// Times in microseconds, by bytes: the system's and ours.
#[derive(Default)]
pub(crate) struct Latencies(BTreeMap<u32, Vec<(f64, f64)>>);

impl Latencies {
    /// Takes a line of the guest's; others than `latency of N bytes: system US ours US` are none.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some((bytes, times)) = parse(line) {
            self.0.entry(bytes).or_default().push(times);
        }
    }

    /// A line for each size.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(bytes, turns)| {
            let system = turns.iter().map(|turn| turn.0).fold(f64::INFINITY, f64::min);
            let ours = turns.iter().map(|turn| turn.1).fold(f64::INFINITY, f64::min);
            let ratio = ours / system;
            format!(
                "{bytes} bytes one way: ib_send_lat -c UC {system:.1} us, ours {ours:.1} us, ratio {ratio:.2}"
            )
        })
    }
}

fn parse(line: &str) -> Option<(u32, (f64, f64))> {
    let (bytes, times) = line.strip_prefix("latency of ")?.split_once(" bytes: system ")?;
    let (system, ours) = times.split_once(" ours ")?;
    Some((bytes.parse().ok()?, (system.trim().parse().ok()?, ours.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_whole_lines_is_told() {
        let mut latencies = Latencies::default();
        for line in [
            "latency of 64 bytes: system 10.0 ours 12.0",
            "latency of 64 bytes: system 30.0 ours 9.5",
            "latency of 64 bytes: system 20.0 ours 22.0",
            "latency of 64 bytes: system  ours 22.0",
            "latency of 4000 bytes: system 1 ours 2",
            "test a ... ok",
        ] {
            latencies.read(line);
        }
        let lines: Vec<String> = latencies.lines().collect();
        let expected = [
            "64 bytes one way: ib_send_lat -c UC 10.0 us, ours 9.5 us, ratio 0.95",
            "4000 bytes one way: ib_send_lat -c UC 1.0 us, ours 2.0 us, ratio 2.00",
        ];
        assert_eq!(lines, expected);
    }
}
