//! The fabric for programs in C and what calls C: links over TCP and sums over ranks, behind `include/onefold_fabric.h`, which
//! says what each function promises. Checks what comes over the border (null, lengths, text) and lets no panic cross it; knows
//! nothing of links and groups beyond their interfaces.

#![allow(unsafe_code)] // every function is called from C: ADR 0003

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
    time::Duration,
};

use base::RankId;
use collective::{Group, Mesh, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use transport::{Link, TcpLink, recv, send};

/// Ranks of a group, at most.
const MAX_RANKS: usize = 1024;

/// A socket that waits for peers.
pub struct Listener(TcpListener);

/// A link to one peer, with room for what it receives.
pub struct Peer {
    link: Box<dyn Link>,
    message: Vec<u8>,
}

/// This rank's place among others.
pub struct Ranks(Box<dyn Group>);

/// What went wrong, in words.
type Fallible<T> = Result<T, String>;

thread_local! {
    /// C has no errors that carry text.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Text of the calling thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn onefold_last_error() -> *const c_char {
    LAST_ERROR
        .with(|last| last.try_borrow().map_or(c"an error while an error was noted".as_ptr(), |e| e.as_ptr()))
}

/// Waits for peers at `IP:PORT`.
///
/// # Safety
/// `address` is null or text that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_listen(address: *const c_char) -> *mut Listener {
    guard(ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let address = unsafe { parse(address) }?;
        let listener = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
        Ok(Box::into_raw(Box::new(Listener(
            listener.map_err(|e| format!("cannot listen on {address}: {e}"))?,
        ))))
    })
}

/// The port of a listener.
///
/// # Safety
/// `listener` is null or one of ours that was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_port(listener: *const Listener) -> c_int {
    guard(-1, || {
        // SAFETY: by this function's contract.
        let listener = unsafe { listener.as_ref() }.ok_or("the listener is null")?;
        Ok(listener.0.local_addr().map_err(|e| e.to_string())?.port().into())
    })
}

/// The next peer that calls.
///
/// # Safety
/// `listener` is null or one of ours that was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_accept(listener: *const Listener, timeout_ms: u64) -> *mut Peer {
    guard(ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let listener = unsafe { listener.as_ref() }.ok_or("the listener is null")?;
        let (stream, from) = accept(&listener.0, timeout_ms).map_err(|e| format!("no peer called: {e}"))?;
        peer(stream, from)
    })
}

/// Calls a peer at `IP:PORT`.
///
/// # Safety
/// `address` is null or text that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_connect(address: *const c_char, timeout_ms: u64) -> *mut Peer {
    guard(ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let address = unsafe { parse(address) }?;
        let stream = TcpStream::connect_timeout(&address, timeout(timeout_ms));
        peer(stream.map_err(|e| format!("cannot reach {address}: {e}"))?, address)
    })
}

/// Sends a message.
///
/// # Safety
/// `link` is null or one of ours that was not closed; `bytes` is null or leads to `n_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_send(
    link: *mut Peer,
    bytes: *const c_void,
    n_bytes: usize,
    timeout_ms: u64,
) -> c_int {
    guard(-1, || {
        // SAFETY: by this function's contract.
        let peer = unsafe { link.as_mut() }.ok_or("the link is null")?;
        check_range(bytes, n_bytes)?;
        let bytes = match n_bytes {
            0 => &[][..],
            // SAFETY: by this function's contract; it is not null.
            _ => unsafe { slice::from_raw_parts(bytes.cast(), n_bytes) },
        };
        send(peer.link.as_mut(), bytes, Some(timeout(timeout_ms))).map_err(|e| e.to_string())?;
        Ok(0)
    })
}

/// Receives a message and returns its length.
///
/// # Safety
/// `link` is null or one of ours that was not closed; `bytes` is null or leads to `capacity` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_recv(
    link: *mut Peer,
    bytes: *mut c_void,
    capacity: usize,
    timeout_ms: u64,
) -> i64 {
    guard(-1, || {
        // SAFETY: by this function's contract.
        let peer = unsafe { link.as_mut() }.ok_or("the link is null")?;
        check_range(bytes, capacity)?;
        recv(peer.link.as_mut(), &mut peer.message, Some(timeout(timeout_ms))).map_err(|e| e.to_string())?;
        let n_bytes = peer.message.len();
        if n_bytes > capacity {
            return Err(format!("{}: expected at most {capacity} bytes, found {n_bytes}", peer.link.peer()));
        }
        // SAFETY: there is room for `capacity` bytes, and the message is ours alone.
        unsafe { ptr::copy_nonoverlapping(peer.message.as_ptr(), bytes.cast(), n_bytes) };
        i64::try_from(n_bytes).map_err(|e| e.to_string())
    })
}

/// A group of `n_ranks` of which this process is `rank`; takes the links over, by the others' ranks.
///
/// # Safety
/// `links` is null or leads to `n_ranks` pointers, each null or one of our links that was not closed, none twice.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_group(
    rank: u32,
    n_ranks: u32,
    links: *const *mut Peer,
    timeout_ms: u64,
) -> *mut Ranks {
    guard(ptr::null_mut(), || {
        let n = n_ranks as usize;
        if n == 0 || n > MAX_RANKS || rank >= n_ranks || links.is_null() {
            return Err(format!(
                "expected links, 1 to {MAX_RANKS} ranks and a rank among them, found rank {rank} of {n_ranks}"
            ));
        }
        // SAFETY: by this function's contract.
        let links = unsafe { slice::from_raw_parts(links, n) };
        let others = || (0..n_ranks).zip(links).filter(|(other, _)| *other != rank);
        if let Some((other, _)) = others().find(|(_, link)| link.is_null()) {
            return Err(format!("the link to rank {other} is null"));
        }
        // SAFETY: by this function's contract they are ours, each once, and from here on the group's.
        let own = |link: &*mut Peer| unsafe { Box::from_raw(*link) }.link;
        let owned = others().map(|(other, link)| (RankId(other), own(link)));
        let world =
            World::new(RankId(rank), owned.collect(), timeout(timeout_ms)).map_err(|e| e.to_string())?;
        let mut mesh = Mesh::whole(world.shared()).map_err(|e| e.to_string())?;
        mesh.measure().map_err(|e| e.to_string())?;
        Ok(Box::into_raw(Box::new(Ranks(Box::new(mesh)))))
    })
}

/// Every rank's `x` becomes the sum of all ranks'.
///
/// # Safety
/// `group` is null or one of ours that was not closed; `x` is null or leads to `n` floats that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_all_reduce_f32(group: *mut Ranks, x: *mut f32, n: usize) -> c_int {
    guard(-1, || {
        // SAFETY: by this function's contract.
        let group = unsafe { group.as_mut() }.ok_or("the group is null")?;
        check_range(x.cast(), n.checked_mul(size_of::<f32>()).ok_or("too many floats")?)?;
        if !x.is_aligned() {
            return Err(format!("expected floats at a multiple of {} bytes", align_of::<f32>()));
        }
        let x = match n {
            0 => &mut [][..],
            // SAFETY: by this function's contract; it is neither null nor misaligned.
            _ => unsafe { slice::from_raw_parts_mut(x, n) },
        };
        group.0.all_reduce(x.into()).map_err(|e| e.to_string())?;
        Ok(0)
    })
}

/// Ends a listener.
///
/// # Safety
/// `listener` is null or one of ours that was not closed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_listener_close(listener: *mut Listener) {
    // SAFETY: by this function's contract.
    unsafe { close(listener) }
}

/// Ends a link; the peer reads what was sent so far.
///
/// # Safety
/// `link` is null or one of ours that was neither closed before nor given to a group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_close(link: *mut Peer) {
    // SAFETY: by this function's contract.
    unsafe { close(link) }
}

/// Ends a group and its links.
///
/// # Safety
/// `group` is null or one of ours that was not closed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onefold_group_close(group: *mut Ranks) {
    // SAFETY: by this function's contract.
    unsafe { close(group) }
}

/// Runs what may fail or panic; notes why and returns `failed` if it does.
fn guard<T>(failed: T, work: impl FnOnce() -> Fallible<T>) -> T {
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("onefold panicked".to_owned()));
    done.unwrap_or_else(|why| {
        let why = CString::new(why.replace('\0', " ")).unwrap_or_default();
        LAST_ERROR.with(|last| *last.borrow_mut() = why);
        failed
    })
}

/// `value` is null or came from a box and was not closed before.
unsafe fn close<T>(value: *mut T) {
    guard((), || {
        if !value.is_null() {
            // SAFETY: by this function's contract.
            drop(unsafe { Box::from_raw(value) });
        }
        Ok(())
    });
}

/// `address` is null or text that ends with a zero byte.
unsafe fn parse(address: *const c_char) -> Fallible<SocketAddr> {
    let address = ptr::NonNull::new(address.cast_mut()).ok_or("the address is null")?;
    // SAFETY: by this function's contract.
    let text = unsafe { CStr::from_ptr(address.as_ptr()) }.to_string_lossy();
    text.parse().map_err(|_| format!("expected an address such as 127.0.0.1:7710, found {text:?}"))
}

fn check_range(bytes: *const c_void, n_bytes: usize) -> Fallible<()> {
    let is_sound = n_bytes == 0 || !bytes.is_null() && n_bytes <= isize::MAX as usize;
    is_sound.then_some(()).ok_or_else(|| format!("expected a buffer of {n_bytes} bytes, found {bytes:?}"))
}

fn accept(listener: &TcpListener, timeout_ms: u64) -> io::Result<(TcpStream, SocketAddr)> {
    let timeout = Timespec::try_from(timeout(timeout_ms)).map_err(io::Error::other)?;
    match poll(&mut [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)], Some(&timeout))? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => listener.accept(),
    }
}

fn peer(stream: TcpStream, address: SocketAddr) -> Fallible<*mut Peer> {
    let link = TcpLink::new(stream, address.to_string()).map_err(|e| format!("{address}: {e}"))?;
    Ok(Box::into_raw(Box::new(Peer { link: Box::new(link), message: Vec::new() })))
}

/// Zero would be no time at all to some of the system's calls, and an error to others.
fn timeout(timeout_ms: u64) -> Duration {
    Duration::from_millis(timeout_ms.max(1))
}
