//! Bytes for weights: aligned to cache lines, and large ones to large pages. Knows nothing of what they hold.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const LINE_BYTES: usize = 64;
/// A large page of x86-64, and of aarch64 with 4 KiB pages.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// A fixed number of bytes.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes, like a `Vec`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn zeroed(len: usize) -> Buffer {
        let align = if len < LARGE_PAGE_BYTES { LINE_BYTES } else { LARGE_PAGE_BYTES };
        let Ok(layout) = Layout::from_size_align(len, align) else {
            panic!("a buffer of {len} bytes: expected less than half the address space");
        };
        if len == 0 {
            return Buffer { start: NonNull::dangling(), layout };
        }
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        advise_large_pages(start.as_ptr(), layout);
        // SAFETY: the allocation has this size.
        unsafe { start.write_bytes(0, len) };
        Buffer { start, layout }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation has this size and is initialised; dangling is fine for no bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

/// Asks for large pages before the memory is touched: weights are read from end to end, and small pages cost a
/// look-up and stop the hardware's prefetching every 4 KiB. Advice only: nothing depends on it.
fn advise_large_pages(start: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() == LARGE_PAGE_BYTES {
        // SAFETY: the range is the allocation itself, begins at a page, and the advice changes no contents.
        unsafe { libc::madvise(start.cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, layout);
}
