//! The memory of a link: one file without a name, mapped by both ends, that cannot be made shorter while they live.
//! Holds two rings; knows their places, not what is in them.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{fstat, ftruncate};

use super::ring::{Name, Shared, Word};

/// Bytes of each ring: what is copied in is copied out again before it leaves the cores' caches.
pub(super) const RING_BYTES: usize = 1 << 20;

/// Bytes between words of different owners: a cache line, and the neighbour that processors fetch along with it.
const APART_BYTES: usize = 128;
/// Where a ring's words end and the other's begin.
const WORDS_BYTES: usize = 4 * APART_BYTES;
/// Bytes before the first ring's bytes: the words of both, and a whole page on every system.
const HEAD_BYTES: usize = 16 << 10;
/// Bytes of the file.
const FILE_BYTES: usize = HEAD_BYTES + 2 * RING_BYTES;

const _: () = assert!(2 * WORDS_BYTES <= HEAD_BYTES && RING_BYTES.is_power_of_two());

/// The memory, mapped.
pub(super) struct Memory(MmapRaw);

/// One of the rings.
pub(super) struct Ring {
    memory: Arc<Memory>,
    /// Where its words are.
    words: usize,
    /// Where its bytes are.
    bytes: usize,
}

/// A ring, by who writes into it.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// The end that made the memory.
    Maker,
    /// The other.
    Guest,
}

impl Memory {
    /// Makes the memory, all zero, and the descriptor by which somebody else can map it too.
    pub(super) fn make() -> io::Result<(Arc<Memory>, OwnedFd)> {
        let file = nameless_file()?;
        ftruncate(&file, FILE_BYTES as u64)?;
        seal(&file)?;
        Ok((Memory::map(&file)?, file))
    }

    /// Maps what another process made, once it is certain that nobody can take it away.
    pub(super) fn open(file: OwnedFd) -> io::Result<Arc<Memory>> {
        check_sealed(&file)?;
        let found = fstat(&file)?.st_size;
        if u64::try_from(found).ok() != Some(FILE_BYTES as u64) {
            let why = format!("shared memory of another size: expected {FILE_BYTES} bytes, found {found}");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        Memory::map(&file)
    }

    fn map(file: &OwnedFd) -> io::Result<Arc<Memory>> {
        // populated: the first messages shall not wait for pages
        let map = MmapOptions::new().len(FILE_BYTES).populate().map_raw(file)?;
        Ok(Arc::new(Memory(map)))
    }

    pub(super) fn ring(self: &Arc<Memory>, by: By) -> Ring {
        let (words, bytes) = match by {
            By::Maker => (0, HEAD_BYTES),
            By::Guest => (WORDS_BYTES, HEAD_BYTES + RING_BYTES),
        };
        Ring { memory: Arc::clone(self), words, bytes }
    }
}

impl Ring {
    /// Address of byte `at`, of which `n` more are wanted.
    fn bytes(&self, at: usize, n: usize) -> *mut u8 {
        assert!(at <= RING_BYTES && n <= RING_BYTES - at, "{n} bytes at {at} of a ring of {RING_BYTES}");
        // SAFETY: the ring's bytes lie inside the map, and `at` inside the ring.
        unsafe { self.memory.0.as_mut_ptr().add(self.bytes + at) }
    }
}

impl Shared for Ring {
    type Word = AtomicU64;

    fn n_bytes(&self) -> usize {
        RING_BYTES
    }

    fn word(&self, name: Name) -> &AtomicU64 {
        // the flags change rarely, so they share a line that both cores keep
        let at = match name {
            Name::Tail => 0,
            Name::Head => APART_BYTES,
            Name::WriterSleeps => 2 * APART_BYTES,
            Name::ReaderSleeps => 2 * APART_BYTES + size_of::<AtomicU64>(),
        };
        // SAFETY: the word lies inside the map, which lives as long as `self` and starts at a page; all offsets are
        // multiples of eight. Both processes touch it as an atomic only; one that does not can change its value,
        // which is never believed.
        unsafe { AtomicU64::from_ptr(self.memory.0.as_mut_ptr().add(self.words + at).cast()) }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let to = self.bytes(at, bytes.len());
        // SAFETY: `to` starts as many bytes inside the map, of which no Rust reference exists. An honest reader leaves
        // them alone until the tail says so; what a dishonest one does there changes only what it reads itself.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn get(&self, at: usize, out: &mut [u8]) {
        let from = self.bytes(at, out.len());
        // SAFETY: as in `put`. A dishonest writer can change the bytes while they are copied; then any bytes come out,
        // all of which are valid, and only the copy is looked at.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) }
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
}

#[cfg(target_os = "linux")]
fn nameless_file() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("onefold link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

#[cfg(target_os = "linux")]
fn seal(file: impl AsFd) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    Ok(fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?)
}

/// A file that can be made shorter kills with SIGBUS whoever touches what is gone.
#[cfg(target_os = "linux")]
fn check_sealed(file: impl AsFd) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_get_seals};
    // a file that knows no seals is refused with the system's own words
    match fcntl_get_seals(file)? {
        found if found.contains(SealFlags::SHRINK) => Ok(()),
        found => {
            let why = format!("shared memory that can shrink: expected seals with SHRINK, found {found:?}");
            Err(io::Error::new(ErrorKind::InvalidData, why))
        }
    }
}

/// A name is only needed for a moment; a Mac has no memory without.
#[cfg(not(target_os = "linux"))]
fn nameless_file() -> io::Result<OwnedFd> {
    use rustix::{fs::Mode, io::Errno, shm};
    const MAX_NAMES: u32 = 1000;
    let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
    for n in 0..MAX_NAMES {
        let name = format!("/onefold-{}-{n}", std::process::id());
        match shm::open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return shm::unlink(&name).map(|()| file).map_err(io::Error::from),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Shared memory on a Mac takes its first size for good.
#[cfg(not(target_os = "linux"))]
fn seal(_file: impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Only shared memory may be mapped: a file on a disk could be made shorter.
#[cfg(not(target_os = "linux"))]
fn check_sealed(file: impl AsFd) -> io::Result<()> {
    // only shared memory refuses another size than the one it has
    match ftruncate(file, 2 * FILE_BYTES as u64) {
        Err(rustix::io::Errno::INVAL) => Ok(()),
        found => {
            let why = format!("shared memory whose size can change: expected EINVAL, found {found:?}");
            Err(io::Error::new(ErrorKind::InvalidData, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_rings_share_nothing() {
        let (memory, _file) = Memory::make().unwrap();
        let (ours, theirs) = (memory.ring(By::Maker), memory.ring(By::Guest));
        for (i, name) in
            [Name::Tail, Name::Head, Name::WriterSleeps, Name::ReaderSleeps].into_iter().enumerate()
        {
            ours.word(name).store(10 + i as u64, Ordering::Relaxed);
            theirs.word(name).store(20 + i as u64, Ordering::Relaxed);
            assert_eq!(ours.word(name).load(Ordering::Relaxed), 10 + i as u64);
        }
        ours.put(0, &vec![1; RING_BYTES]);
        theirs.put(0, &vec![2; RING_BYTES]);
        let mut out = vec![0; RING_BYTES];
        ours.get(0, &mut out);
        assert!(out.iter().all(|b| *b == 1));
        assert_eq!(ours.word(Name::Tail).load(Ordering::Relaxed), 10);
    }

    #[test]
    #[should_panic(expected = "bytes at")]
    fn a_place_beyond_the_ring_is_never_touched() {
        Memory::make().unwrap().0.ring(By::Guest).put(RING_BYTES - 1, &[0; 2]);
    }

    #[test]
    fn the_memory_keeps_its_size_whoever_tries() {
        let (memory, file) = Memory::make().unwrap();
        for n in [0, FILE_BYTES / 2, FILE_BYTES * 2] {
            assert!(ftruncate(&file, n as u64).is_err(), "now {n} bytes");
        }
        memory.ring(By::Guest).put(RING_BYTES - 1, &[7]);
        assert!(Memory::open(file).is_ok());
    }

    #[test]
    fn memory_that_could_be_taken_away_is_refused() {
        let e = Memory::open(tempfile::tempfile().unwrap().into()).err().unwrap();
        assert_ne!(e.to_string(), "");
        let file = nameless_file().unwrap();
        #[cfg(target_os = "linux")]
        {
            ftruncate(&file, FILE_BYTES as u64).unwrap();
            let e = Memory::open(file.try_clone().unwrap()).err().unwrap();
            assert!(e.to_string().contains("expected seals with SHRINK"), "{e}");
            ftruncate(&file, FILE_BYTES as u64 / 2).unwrap();
        }
        #[cfg(not(target_os = "linux"))]
        ftruncate(&file, FILE_BYTES as u64 / 2).unwrap();
        seal(&file).unwrap();
        let e = Memory::open(file).err().unwrap();
        assert!(e.to_string().contains("of another size"), "{e}");
    }
}
