//! A few threads that run one closure together, thousands of times a token. They spin for a bounded time and then
//! sleep, so a step pays about a microsecond per call and an idle process pays nothing. Knows no tensors, except
//! that it keeps the memory that kernels use from call to call.

use std::any::Any;
use std::cell::{RefCell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::buffer::Arena;
use crate::quantize::QuantizedRows;

/// How long an idle thread spins before it sleeps: longer than an `all_reduce` on a fast link, much shorter than
/// the time between two requests.
const SPIN_LIMIT_US: u64 = 200;
/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;
/// Spins after which the caller, waiting for the last part, lets other threads of the machine run.
const SPINS_BEFORE_YIELD: u32 = 1_000;

/// Values of a matrix below which one thread is through before others have begun.
const MIN_SHARED_VALUES: usize = 8192;

/// Threads that work on parts of one call. It may be moved to another thread but not shared.
pub struct Pool {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) weights: RefCell<Arena>,
}

/// Memory that kernels reuse.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) activations: QuantizedRows,
    pub(crate) pairs: Vec<u32>,
    pub(crate) attention: Vec<f32>,
}

/// A slice that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: whoever dereferences it proves that the elements are its own.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Shared<T> {
        Shared(slice.as_mut_ptr())
    }

    /// Some of the elements.
    ///
    /// # Safety
    /// They lie inside the slice, which lives, and nobody else has them.
    #[allow(clippy::mut_from_ref)] // each caller has other elements
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

type Task = *const (dyn Fn(usize, usize) + Sync);

struct Board {
    /// Counts the calls. Changing it starts the threads.
    call: AtomicU64,
    task: UnsafeCell<Option<Task>>,
    n_busy: AtomicUsize,
    stop: AtomicBool,
    /// Whether thread `i + 1` sleeps or is about to.
    asleep: Vec<AtomicBool>,
    /// Whether there is something in `panic`: a call that went well takes no lock.
    has_panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written only by the caller while no thread is busy, and read only by threads that have seen the
// new value of `call`, which is stored after it.
unsafe impl Sync for Board {}
// SAFETY: the pointer in `task` is only used while the call that set it is on the caller's stack.
unsafe impl Send for Board {}

impl Pool {
    /// One thread per entry, pinned to these cores; the first is the calling thread itself. Empty: the calling
    /// thread alone, unpinned. Where the system does not pin, threads run unpinned.
    pub fn new(cores: &[usize]) -> Pool {
        if let Some(&core) = cores.first() {
            pin(core);
        }
        Pool::start(cores.len().max(1), |part| cores.get(part).copied())
    }

    /// `n_threads` threads, the caller included, that the system places.
    pub fn unpinned(n_threads: usize) -> Pool {
        Pool::start(n_threads.max(1), |_| None)
    }

    /// Threads, the caller included.
    pub fn n_threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `f(part, n_parts)` once for every part, each on its own thread, and returns when all are done. A panic
    /// in a part comes out here, after the others are done.
    pub fn run(&self, f: impl Fn(usize, usize) + Sync) {
        let n_parts = self.n_threads();
        if n_parts == 1 {
            return f(0, 1);
        }
        let task: &(dyn Fn(usize, usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. The threads use the pointer before they lower `n_busy`, and this
        // function does not return or unwind before `n_busy` is 0.
        let task: Task = unsafe { std::mem::transmute(task) };
        let board = &*self.board;
        // SAFETY: no thread is busy: the previous call waited for all, and a `Pool` is not board between threads.
        unsafe { *board.task.get() = Some(task) };
        board.n_busy.store(n_parts - 1, Ordering::Relaxed);
        self.wake();
        let mine = catch_unwind(AssertUnwindSafe(|| f(0, n_parts)));
        self.wait();
        if mine.is_err() || board.has_panicked.load(Ordering::Relaxed) {
            board.has_panicked.store(false, Ordering::Relaxed);
            let theirs = board.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(payload) = mine.err().or(theirs) {
                resume_unwind(payload);
            }
        }
    }

    /// Calls `f(rows, their values)` on parts of x `[n_rows, n_cols]`, on all threads where that is worth its while.
    pub fn rows(&self, x: &mut [f32], n_cols: usize, f: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let n_rows = x.len() / n_cols.max(1);
        if n_rows < self.n_threads() || x.len() < MIN_SHARED_VALUES {
            return f(0..n_rows, x);
        }
        let x = Shared::new(x);
        self.run(|part, n_parts| {
            let rows = n_rows * part / n_parts..n_rows * (part + 1) / n_parts;
            // SAFETY: the rows of different parts do not overlap and lie inside the slice.
            let x = unsafe { x.slice(rows.start * n_cols, rows.len() * n_cols) };
            f(rows, x);
        });
    }

    fn start(n_threads: usize, core_of: impl Fn(usize) -> Option<usize>) -> Pool {
        let board = Arc::new(Board {
            call: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            n_busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: (1..n_threads).map(|_| AtomicBool::new(false)).collect(),
            has_panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn = |part: usize| {
            let (board, core) = (board.clone(), core_of(part));
            std::thread::spawn(move || {
                if let Some(core) = core {
                    pin(core);
                }
                serve(&board, part, n_threads);
            })
        };
        let threads = (1..n_threads).map(spawn).collect();
        Pool { board, threads, scratch: RefCell::default(), weights: RefCell::default() }
    }

    /// Starts a call. Sequentially consistent, as is the other side in `sleep`: either the thread sees the new call
    /// or this sees it asleep.
    fn wake(&self) {
        self.board.call.fetch_add(1, Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&self.board.asleep) {
            if asleep.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
    }

    fn wait(&self) {
        let mut n_spins = 0;
        while self.board.n_busy.load(Ordering::Acquire) != 0 {
            if n_spins < SPINS_BEFORE_YIELD {
                n_spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::SeqCst);
        self.wake();
        for thread in self.threads.drain(..) {
            // A thread cannot panic outside `catch_unwind`, and a destructor has nobody to tell.
            let _ = thread.join();
        }
    }
}

fn pin(core: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
}

/// A thread's life: wait for a call, run its part, say so.
fn serve(board: &Board, part: usize, n_parts: usize) {
    let mut seen = 0;
    loop {
        seen = next_call(board, part, seen);
        if board.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: this thread has seen the new call, so `task` is set and is not written before `n_busy` falls;
        // the closure it points to lives as long.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            if let Some(task) = *board.task.get() {
                (*task)(part, n_parts);
            }
        }));
        if let Err(payload) = result {
            board.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            board.has_panicked.store(true, Ordering::Relaxed);
        }
        board.n_busy.fetch_sub(1, Ordering::Release);
    }
}

/// The number of a call later than `seen`; spins, then sleeps until there is one.
fn next_call(board: &Board, part: usize, seen: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_micros(SPIN_LIMIT_US);
    loop {
        for _ in 0..SPINS_PER_LOOK {
            let call = board.call.load(Ordering::Acquire);
            if call != seen {
                return call;
            }
            std::hint::spin_loop();
        }
        if Instant::now() >= deadline {
            return sleep(board, part, seen);
        }
    }
}

fn sleep(board: &Board, part: usize, seen: u64) -> u64 {
    let asleep = &board.asleep[part - 1];
    asleep.store(true, Ordering::SeqCst);
    let call = loop {
        let call = board.call.load(Ordering::SeqCst);
        if call != seen {
            break call;
        }
        std::thread::park();
    };
    asleep.store(false, Ordering::SeqCst);
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once_per_call_awake_or_asleep() {
        for n_threads in 1..=4 {
            let pool = Pool::unpinned(n_threads);
            let counts: Vec<AtomicUsize> = (0..n_threads).map(|_| AtomicUsize::new(0)).collect();
            for call in 1..=200 {
                pool.run(|part, n_parts| {
                    assert_eq!(n_parts, n_threads);
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == call));
                if call % 100 == 0 {
                    std::thread::sleep(Duration::from_micros(5 * SPIN_LIMIT_US));
                }
            }
        }
    }

    #[test]
    fn a_panic_in_any_part_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(&[0, 1, 0]);
        for bad in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|part, _| assert!(part != bad, "part {bad}"));
            }));
            let message = result.unwrap_err();
            assert_eq!(message.downcast_ref::<String>(), Some(&format!("part {bad}")));
        }
        let sum = AtomicUsize::new(0);
        pool.run(|part, _| {
            sum.fetch_add(part, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 3);
    }

    #[test]
    fn a_pool_can_move_to_another_thread() {
        let pool = Pool::unpinned(2);
        std::thread::spawn(move || pool.run(|_, _| ())).join().unwrap();
    }
}
