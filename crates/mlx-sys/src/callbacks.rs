//! What a graph calls back for: sums over ranks, and numbers that the host chooses. Callbacks run on a thread of MLX's; a
//! panic in one of them is a failure like any other.

use std::{
    ffi::{CString, c_int, c_void},
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use crate::{
    array::{Array, last_error},
    error::Error,
    ffi::{self, ChoiceCalls, GroupCalls, RawGroup},
    index::Index,
    mlx::Mlx,
};

/// One of MLX's own engines for collectives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Over TCP; `hosts` is the path of its JSON list of addresses.
    Ring {
        /// This rank.
        rank: usize,
        /// Path of the list.
        hosts: String,
    },
    /// Over Thunderbolt with RDMA; `devices` is the path of its JSON matrix of devices.
    Jaccl {
        /// This rank.
        rank: usize,
        /// Path of the matrix.
        devices: String,
        /// Where rank 0 listens, `ip:port`.
        coordinator: String,
    },
}

/// Ranks whose values are summed inside a graph.
pub struct Group {
    raw: NonNull<RawGroup>,
    one_thread: PhantomData<*const ()>,
}

type Sum = Box<dyn FnMut(&mut [f32]) -> Result<(), ()> + Send>;
type Choose = Box<dyn FnOnce(&[f32], &mut [u32]) -> Result<(), ()> + Send>;

/// A choice that is made at most once, and the bound of what may be chosen.
struct Choice {
    choose: Mutex<Option<Choose>>,
    bound: usize,
}

impl Group {
    /// A group whose sums `all_reduce` forms in place, or fails to: then the evaluation fails.
    pub fn of(
        _: Mlx,
        rank: usize,
        size: usize,
        all_reduce: impl FnMut(&mut [f32]) -> Result<(), ()> + Send + 'static,
    ) -> Result<Group, Error> {
        let sum: Box<Mutex<Sum>> = Box::new(Mutex::new(Box::new(all_reduce)));
        let calls = GroupCalls {
            context: Box::into_raw(sum).cast(),
            all_reduce: sum_up,
            drop: drop_context::<Mutex<Sum>>,
        };
        // SAFETY: the context lives until its `drop` is called, which the shim does once.
        Group::owned(unsafe { ffi::om_group(rank as c_int, size as c_int, calls) })
    }

    /// A group of one of MLX's engines; blocks until all ranks are there.
    pub fn of_engine(_: Mlx, engine: &Engine) -> Result<Group, Error> {
        let (name, variables) = match engine {
            Engine::Ring { rank, hosts } => {
                ("ring", vec![("MLX_RANK", rank.to_string()), ("MLX_HOSTFILE", hosts.clone())])
            }
            Engine::Jaccl { rank, devices, coordinator } => (
                "jaccl",
                vec![
                    ("MLX_RANK", rank.to_string()),
                    ("MLX_IBV_DEVICES", devices.clone()),
                    ("MLX_JACCL_COORDINATOR", coordinator.clone()),
                ],
            ),
        };
        let text = |s: &str| CString::new(s).map_err(|_| Error::argument("group", "text", "a zero byte"));
        let engine = text(name)?;
        let names = variables.iter().map(|(n, _)| text(n)).collect::<Result<Vec<_>, _>>()?;
        let values = variables.iter().map(|(_, v)| text(v)).collect::<Result<Vec<_>, _>>()?;
        let (n_ptr, v_ptr): (Vec<_>, Vec<_>) =
            names.iter().zip(&values).map(|(n, v)| (n.as_ptr(), v.as_ptr())).unzip();
        // SAFETY: as many names and values as said, all of them live.
        Group::owned(unsafe {
            ffi::om_group_of(engine.as_ptr(), n_ptr.as_ptr(), v_ptr.as_ptr(), names.len() as c_int)
        })
    }

    fn owned(raw: *mut RawGroup) -> Result<Group, Error> {
        NonNull::new(raw).map(|raw| Group { raw, one_thread: PhantomData }).ok_or_else(last_error)
    }

    /// The sum of `x`, floats, over the ranks.
    pub fn all_reduce(&self, x: &Array) -> Result<Array, Error> {
        // SAFETY: a live array and a live group.
        Array::owned(unsafe { ffi::om_all_reduce(x.raw(), self.raw.as_ptr()) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: owned and not used afterwards; graphs that still use it hold it themselves.
        unsafe { ffi::om_group_free(self.raw.as_ptr()) }
    }
}

impl Mlx {
    /// `n` numbers below `bound`, which `choose` writes once the values of `x` are known.
    pub fn choice(
        self,
        x: &Array,
        n: usize,
        bound: usize,
        choose: impl FnOnce(&[f32], &mut [u32]) -> Result<(), ()> + Send + 'static,
    ) -> Result<Index, Error> {
        let choice = Box::new(Choice { choose: Mutex::new(Some(Box::new(choose))), bound });
        let calls = ChoiceCalls {
            context: Box::into_raw(choice).cast(),
            choose: choose_now,
            drop: drop_context::<Choice>,
        };
        // SAFETY: a live array; the context lives until its `drop` is called, which the shim does once.
        let array = Array::owned(unsafe { ffi::om_choice(x.raw(), n as c_int, calls) })?;
        Ok(Index { array, bound })
    }
}

extern "C" fn sum_up(context: *mut c_void, values: *mut f32, n: usize) -> c_int {
    // SAFETY: the shim hands back the context of `Group::of` and `n` values that nobody else touches meanwhile.
    let (sum, values) = unsafe { (&*context.cast::<Mutex<Sum>>(), slice_mut(values, n)) };
    report(move || sum.lock().unwrap_or_else(PoisonError::into_inner)(values))
}

extern "C" fn choose_now(
    context: *mut c_void,
    values: *const f32,
    n: usize,
    out: *mut u32,
    n_out: usize,
) -> c_int {
    let values = if n == 0 { NonNull::<f32>::dangling().as_ptr().cast_const() } else { values };
    // SAFETY: the shim hands back the context of `Mlx::choice`, `n` values, and room for `n_out` numbers.
    let (choice, values, out) =
        unsafe { (&*context.cast::<Choice>(), std::slice::from_raw_parts(values, n), slice_mut(out, n_out)) };
    report(move || {
        let choose = choice.choose.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(())?;
        out.fill(0);
        choose(values, out)?;
        if out.iter().all(|&v| (v as usize) < choice.bound) { Ok(()) } else { Err(()) }
    })
}

/// A slice that may be empty at a null pointer.
///
/// # Safety
/// `n` values at `data`, unless `n` is 0, live and not otherwise used for `'a`.
unsafe fn slice_mut<'a, T>(data: *mut T, n: usize) -> &'a mut [T] {
    let data = if n == 0 { NonNull::dangling().as_ptr() } else { data };
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts_mut(data, n) }
}

fn report(call: impl FnOnce() -> Result<(), ()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        _ => 1,
    }
}

extern "C" fn drop_context<T>(context: *mut c_void) {
    // SAFETY: the context is a `Box<T>` that was given away, and this is its only end.
    drop(unsafe { Box::from_raw(context.cast::<T>()) });
}
