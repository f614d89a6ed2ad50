//! The ring in a model of memory that tries every order of two threads' steps and every value that a load may see: no
//! byte is lost, torn or read while it is written, and nobody sleeps for ever. And, on a single thread, a ring whose
//! other end lies.

use std::{cell::RefCell, io::IoSlice, sync::atomic::Ordering};

use loom::{
    cell::UnsafeCell,
    sync::{Arc, Condvar, Mutex, atomic},
    thread,
};
use proptest::prelude::*;

use super::{Name, Reader, Shared, Word, Writer};

/// Bytes of the model's ring: what is sent goes round it.
const N_BYTES: usize = 2;

#[derive(Clone)]
struct Modelled(Arc<Memory>);

struct Memory {
    words: [atomic::AtomicU64; 4],
    bytes: Vec<UnsafeCell<u8>>,
}

impl Modelled {
    fn new() -> Modelled {
        let words = [(); 4].map(|()| atomic::AtomicU64::new(0));
        Modelled(Arc::new(Memory { words, bytes: (0..N_BYTES).map(|_| UnsafeCell::new(0)).collect() }))
    }
}

impl Word for atomic::AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        atomic::AtomicU64::load(self, order)
    }
    fn store(&self, value: u64, order: Ordering) {
        atomic::AtomicU64::store(self, value, order);
    }
}

impl Shared for Modelled {
    type Word = atomic::AtomicU64;

    fn n_bytes(&self) -> usize {
        N_BYTES
    }
    fn word(&self, name: Name) -> &atomic::AtomicU64 {
        &self.0.words[name as usize]
    }
    fn put(&self, at: usize, bytes: &[u8]) {
        for (cell, byte) in self.0.bytes[at..].iter().zip(bytes) {
            // SAFETY: the pointer is the cell's own; that nobody else uses it now is what the model checks.
            cell.with_mut(|p| unsafe { *p = *byte });
        }
    }
    fn get(&self, at: usize, out: &mut [u8]) {
        for (cell, byte) in self.0.bytes[at..].iter().zip(out) {
            // SAFETY: as in `put`.
            *byte = cell.with(|p| unsafe { *p });
        }
    }
    fn fence() {
        atomic::fence(Ordering::SeqCst);
    }
}

/// What a socket is to one end: bytes that wait to be drained.
#[derive(Clone)]
struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    fn new() -> Bell {
        Bell(Arc::new((Mutex::new(false), Condvar::new())))
    }
    fn ring(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }
    fn wait_and_drain(&self) {
        let mut rung = self.0.0.lock().unwrap();
        while !*rung {
            rung = self.0.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Sends `message` through a ring, both ends sleeping whenever nothing moves.
fn pass(message: &'static [u8], piece: usize) {
    let shared = Modelled::new();
    let (to_reader, to_writer) = (Bell::new(), Bell::new());
    let (mut writer, mut reader) = (Writer::new(shared.clone()), Reader::new(shared));
    let (bell, reader_bell) = (to_writer.clone(), to_reader.clone());
    let sender = thread::spawn(move || {
        let mut left = message;
        while !left.is_empty() {
            let part = IoSlice::new(&left[..left.len().min(piece)]);
            let n = writer.write(&[part], || reader_bell.ring()).unwrap();
            left = &left[n..];
            if n == 0 && writer.sleeps() {
                bell.wait_and_drain();
                writer.is_awake();
            }
        }
    });
    let (mut found, mut out) = (Vec::new(), [0; N_BYTES]);
    while found.len() < message.len() {
        let n = reader.read(&mut out, || to_writer.ring()).unwrap();
        found.extend_from_slice(&out[..n]);
        if n == 0 && reader.sleeps() {
            to_reader.wait_and_drain();
            reader.is_awake();
        }
    }
    sender.join().unwrap();
    assert_eq!(found, message);
}

fn every_order(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // more forced switches than this find nothing new in a ring of two bytes, and take minutes
    model.preemption_bound = Some(3);
    model.check(f);
}

#[test]
fn bytes_arrive_whole_and_nobody_sleeps_for_ever() {
    every_order(|| pass(b"abc", 1));
}

#[test]
fn a_full_ring_wakes_its_writer() {
    every_order(|| pass(b"abcde", 5));
}

/// A ring of one thread, whose words anybody may overwrite.
struct Open {
    words: [std::sync::atomic::AtomicU64; 4],
    bytes: RefCell<Vec<u8>>,
}

impl Open {
    fn new(n_bytes: usize) -> Open {
        Open { words: Default::default(), bytes: RefCell::new(vec![0; n_bytes]) }
    }
}

impl Shared for &Open {
    type Word = std::sync::atomic::AtomicU64;

    fn n_bytes(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn word(&self, name: Name) -> &Self::Word {
        &self.words[name as usize]
    }
    fn put(&self, at: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn get(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes.borrow()[at..at + out.len()]);
    }
    fn fence() {}
}

proptest! {
    #[test]
    fn any_sizes_of_reads_and_writes_keep_the_order(
        steps in prop::collection::vec((0..200_000usize, 0..3_000usize, 0..200_000usize), 1..30),
    ) {
        let open = Open::new(1 << 16);
        let (mut writer, mut reader) = (Writer::new(&open), Reader::new(&open));
        let (mut n_written, mut n_read) = (0usize, 0usize);
        let bytes = |from: usize, n: usize| (from..from + n).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<_>>();
        for (head, body, read) in steps {
            let parts = [bytes(n_written, head), bytes(n_written + head, body)];
            n_written += writer.write(&parts.each_ref().map(|p| IoSlice::new(p)), || ()).unwrap();
            let mut out = vec![0; read];
            let n = reader.read(&mut out, || ()).unwrap();
            prop_assert_eq!(n, read.min(n_written - n_read));
            prop_assert!(out[..n] == bytes(n_read, n));
            n_read += n;
        }
    }

    /// Whatever the other end makes of its counter, bytes inside the ring are moved or an error is given.
    #[test]
    fn a_lying_counter_is_an_error(lie in prop_oneof![0..200u64, any::<u64>()], written in 0..100usize) {
        let open = Open::new(64);
        let (mut writer, mut reader) = (Writer::new(&open), Reader::new(&open));
        let n = writer.write(&[IoSlice::new(&vec![1; written])], || ()).unwrap();
        open.word_of(Name::Head, lie);
        let inside = (n as u64).wrapping_sub(lie);
        prop_assert_eq!(writer.write(&[IoSlice::new(&[2; 64])], || ()).is_err(), inside > 64 && n > 0);
        open.word_of(Name::Tail, lie);
        prop_assert_eq!(reader.read(&mut [0; 100], || ()).is_err(), lie > 64);
    }
}

impl Open {
    fn word_of(&self, name: Name, value: u64) {
        self.words[name as usize].store(value, Ordering::Relaxed);
    }
}
