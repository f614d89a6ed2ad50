//! RDMA devices inside the process, two at the ends of one cable, that obey the rules of Apple's driver and do with packets
//! what it does: hand them over, or lose them without a word. The whole verbs link runs over them on any machine, with
//! what it would do wrong on a Mac: a broken rule is refused, noted, and fails the test that broke it.
//!
//! ```
//! use transport::{Medium, verbs::{Rules, twin}};
//!
//! let (devices, cable) = twin::devices(Rules::APPLE, Medium::TB5_RDMA, 1);
//! // hand each device to its end's `upgrade`; then
//! cable.lose(0.01, 7);
//! cable.pull();
//! # drop(devices);
//! assert_eq!(cable.take_violations(), [""; 0]);
//! ```

mod board;
mod calls;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use self::board::Board;
use super::Device;
use crate::{Medium, medium::Chance};

/// What a driver bears. More is refused or, worse, lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Queue pairs of a device.
    pub n_queue_pairs: usize,
    /// Protection domains of a device.
    pub n_domains: usize,
    /// Registered regions of a device.
    pub n_regions: usize,
    /// Requests of a queue pair, sends and receives together.
    pub n_requests: u32,
    /// Receives that are posted at once on a queue pair.
    pub n_receives: usize,
    /// Bytes of a message.
    pub max_message_bytes: usize,
    /// Bytes of a page: where regions begin, and what they are multiples of.
    pub page_bytes: usize,
}

impl Rules {
    /// Apple's, over Thunderbolt. How many domains there can be is not known but to be few: one for each queue pair here.
    pub const APPLE: Rules = Rules {
        n_queue_pairs: 10,
        n_domains: 10,
        n_regions: 100,
        n_requests: 4095,
        n_receives: 63,
        max_message_bytes: 16_773_120,
        page_bytes: 16 << 10,
    };
}

/// Two devices at the ends of a cable, and a hand on it. Jitter follows from `seed`. When both devices are gone and a rule
/// was broken, or something they made was not given back, that is a panic.
pub fn devices(rules: Rules, medium: Medium, seed: u64) -> ([Arc<Device>; 2], Cable) {
    let bench = Arc::new(Bench(Mutex::new(Board::new(rules, medium, seed))));
    (calls::devices(&bench, ["twin0", "twin1"]), Cable(bench))
}

/// A hand on a cable and the devices at its ends.
#[derive(Clone)]
pub struct Cable(Arc<Bench>);

impl Cable {
    /// Pulls it: the ports at both ends are down, and packets on their way are lost.
    pub fn pull(&self) {
        self.0.board().plug(false);
    }

    /// Plugs it in again.
    pub fn plug_in(&self) {
        self.0.board().plug(true);
    }

    /// This share of all packets from now on is lost, by a seed.
    pub fn lose(&self, share: f64, seed: u64) {
        self.0.board().loss = Chance::new(share, seed);
    }

    /// This share of all packets from now on is overtaken by the next one, by a seed.
    pub fn reorder(&self, share: f64, seed: u64) {
        self.0.board().reorder = Chance::new(share, seed);
    }

    /// This share of all packets from now on has a bit turned over, by a seed.
    pub fn damage(&self, share: f64, seed: u64) {
        self.0.board().damage = Chance::new(share, seed);
    }

    /// Lets a packet arrive that nobody sent, as if from the device `from`.
    pub fn forge(&self, from: usize, bytes: &[u8]) {
        self.0.board().forge(from, bytes.to_vec());
    }

    /// Messages that each device sent so far, in the driver's sense: one for each send that was posted.
    pub fn n_sent(&self) -> [u64; 2] {
        self.0.board().n_sent
    }

    /// Bytes that each device sent so far.
    pub fn n_bytes_sent(&self) -> [u64; 2] {
        self.0.board().n_bytes_sent
    }

    /// The rules that were broken so far, in words. They are forgotten with this.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.0.board().violations)
    }
}

/// What both devices share.
pub(super) struct Bench(Mutex<Board>);

impl Bench {
    /// The board, after everything that is due has happened.
    fn board(&self) -> MutexGuard<'_, Board> {
        // it is whole between any two of its methods, so a panic elsewhere leaves nothing to fear
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.run(Instant::now());
        board
    }
}

/// Outlives the devices, and then says what they noted.
struct Judge(Arc<Bench>);

impl Drop for Judge {
    fn drop(&mut self) {
        let broken = std::mem::take(&mut self.0.board().violations);
        if !thread::panicking() {
            assert!(broken.is_empty(), "the device's rules were broken:\n{}", broken.join("\n"));
        }
    }
}

#[cfg(test)]
mod tests;
