//! Memory for weights: mappings of large pages, which matrices share out among themselves. Weights are read from end
//! to end, and small pages cost look-ups and stop the hardware's prefetching every 4 KiB: that makes a model of small
//! matrices a fifth slower. Knows nothing of what the bytes hold.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

const LINE_BYTES: usize = 64;
/// A large page of x86-64, and of aarch64 with 4 KiB pages.
const LARGE_PAGE_BYTES: usize = 2 << 20;
/// Least size of a mapping. What is not used of it is never touched and takes no memory.
const MAPPING_BYTES: usize = 64 << 20;

/// Gives out buffers. A mapping goes back to the system with the last buffer in it.
#[derive(Default)]
pub(crate) struct Arena {
    current: Option<Arc<MmapRaw>>,
    /// Where the free part of the current mapping begins.
    free: usize,
}

/// A fixed number of bytes, zeros at first, that begin at a cache line.
pub(crate) struct Buffer {
    /// None for no bytes.
    mapping: Option<Arc<MmapRaw>>,
    start: usize,
    len: usize,
}

impl Arena {
    pub(crate) fn zeroed(&mut self, len: usize) -> io::Result<Buffer> {
        if len == 0 {
            return Ok(Buffer { mapping: None, start: 0, len });
        }
        let fits = self.current.as_ref().filter(|m| m.len() - self.free >= len);
        let mapping = match fits {
            Some(mapping) => Arc::clone(mapping),
            None => self.map(len)?,
        };
        let start = self.free;
        self.free = mapping.len().min((start + len).next_multiple_of(LINE_BYTES));
        Ok(Buffer { mapping: Some(mapping), start, len })
    }

    /// A new current mapping with room for `len` bytes.
    fn map(&mut self, len: usize) -> io::Result<Arc<MmapRaw>> {
        let len = len.max(MAPPING_BYTES).checked_next_multiple_of(LARGE_PAGE_BYTES);
        let len = len.and_then(|len| len.checked_add(LARGE_PAGE_BYTES)).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = MmapRaw::from(MmapMut::map_anon(len)?);
        // Advice only: nothing depends on it.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let mapping = Arc::new(mapping);
        self.free = mapping.as_mut_ptr().align_offset(LARGE_PAGE_BYTES);
        self.current = Some(Arc::clone(&mapping));
        Ok(mapping)
    }
}

impl Buffer {
    fn as_mut_ptr(&self) -> *mut u8 {
        match &self.mapping {
            Some(mapping) => mapping.as_mut_ptr().wrapping_add(self.start),
            None => std::ptr::NonNull::dangling().as_ptr(),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as the buffer, is initialised, and has these bytes for it alone.
        unsafe { std::slice::from_raw_parts(self.as_mut_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_aligned_and_outlive_the_arena() {
        let mut arena = Arena::default();
        let lens = [0, 1, 63, 64, 65, MAPPING_BYTES, 5, 3 * LARGE_PAGE_BYTES + 1, MAPPING_BYTES - 100, 200];
        let mut buffers: Vec<Buffer> = lens.iter().map(|len| arena.zeroed(*len).unwrap()).collect();
        drop(arena);
        for (i, (buffer, len)) in buffers.iter_mut().zip(lens).enumerate() {
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % LINE_BYTES.min(len.max(1).next_power_of_two()), 0);
            assert!(buffer.iter().step_by(4096).all(|b| *b == 0));
            buffer.fill(i as u8);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|b| *b == i as u8));
        }
    }

    #[test]
    fn what_no_memory_can_hold_is_an_error() {
        assert!(Arena::default().zeroed(usize::MAX).is_err());
        assert!(Arena::default().zeroed(usize::MAX / 4).is_err());
    }
}
