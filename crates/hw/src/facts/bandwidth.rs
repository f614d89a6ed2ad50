//! How fast processors get bytes from memory: all threads read buffers of their own, too large for caches, for a short time. It
//! does not know what the memory could do.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use base::Bytes;

/// How long is read, after the buffers are filled.
const READING_MS: u64 = 250;
/// A thread's buffer at most, and all buffers together: more than caches hold.
const MAX_THREAD_BYTES: u64 = 128 << 20;
const MAX_BYTES: u64 = 2 << 30;
/// Part of the available memory that buffers may take.
const MEMORY_PART: u64 = 8;
/// Less than this for each thread would be read from caches.
const MIN_THREAD_BYTES: u64 = 8 << 20;
/// Words between looks at the clock.
const CHUNK_WORDS: usize = 1 << 17;

/// In 10^9 bytes a second over so many threads; `None` if there is too little memory to try. Takes less than a second.
pub fn memory_bandwidth_gb_s(n_threads: u32, available: Option<Bytes>) -> Option<f64> {
    let n_threads = u64::from(n_threads.max(1));
    let room = (available?.0 / MEMORY_PART).min(MAX_BYTES) / n_threads;
    let n_bytes = room.min(MAX_THREAD_BYTES);
    if n_bytes < MIN_THREAD_BYTES {
        return None;
    }
    let read = || {
        let words: Vec<u64> = (0..n_bytes / 8).collect(); // written, so that the pages are there
        read_rate(&words)
    };
    let bytes_per_second = thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, read).ok();
        let threads: Option<Vec<_>> = (0..n_threads).map(start).collect();
        threads?.into_iter().map(|thread| thread.join().ok()).sum::<Option<f64>>()
    });
    bytes_per_second.map(|rate| rate / 1e9)
}

/// Bytes a second that this thread gets.
fn read_rate(words: &[u64]) -> f64 {
    let (started, limit) = (Instant::now(), Duration::from_millis(READING_MS));
    let mut n_read = 0_usize;
    for chunk in words.chunks(CHUNK_WORDS).cycle() {
        black_box(chunk.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
        n_read += chunk.len();
        if started.elapsed() >= limit {
            break;
        }
    }
    (n_read * 8) as f64 / started.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_not_measured() {
        assert_eq!(memory_bandwidth_gb_s(1, None), None);
        assert_eq!(memory_bandwidth_gb_s(4, Some(Bytes(64 << 20))), None);
        assert!(memory_bandwidth_gb_s(0, Some(Bytes(256 << 20))).is_some());
    }
}
