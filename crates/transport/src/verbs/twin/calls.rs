//! The functions of the verbs library, over a board instead of a driver: the pointers that they hand out lead to structures
//! of the library's layout with the board behind them. Decides nothing.

#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_int, c_void},
    ptr, slice,
    sync::Arc,
};

use super::{
    Bench, Judge,
    board::{Answer, Request},
};
use crate::verbs::{
    Device,
    library::{Functions, Owned},
    sys::{self, Context, Cq, Gid, Mr, Pd, PortAttr, Qp, QpAttr, QpInitAttr, RecvWr, SendWr, Sge, Wc},
};

/// Something that was made: first what the library's users see of it.
#[repr(C)]
struct Object<T> {
    seen: T,
    bench: Arc<Bench>,
    end: usize,
    id: u32,
}

/// Memory that a request was posted with.
pub(super) struct Piece {
    start: *mut u8,
    n_bytes: usize,
}

// SAFETY: it is plain memory that nobody else touches while the request is posted.
unsafe impl Send for Piece {}

impl Piece {
    /// # Safety
    /// Who posts the memory keeps it alive and leaves it alone until the request has ended, or its queue pair or its region
    /// is gone.
    unsafe fn new(sge: &Sge) -> Piece {
        Piece { start: sge.addr as *mut u8, n_bytes: sge.length as usize }
    }

    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    pub(super) fn len(&self) -> usize {
        self.n_bytes
    }

    /// A copy of its bytes.
    pub(super) fn read(&self) -> Vec<u8> {
        // SAFETY: by the contract of `new`; whoever holds the piece has checked that it lies in a region.
        unsafe { slice::from_raw_parts(self.start, self.n_bytes) }.to_vec()
    }

    /// Puts bytes in its first places.
    ///
    /// # Panics
    /// If it is shorter.
    pub(super) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.n_bytes);
        // SAFETY: as in `read`, and the bytes are no part of it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) }
    }
}

/// The two devices of a bench, open.
pub(super) fn devices(bench: &Arc<Bench>, names: [&str; 2]) -> [Arc<Device>; 2] {
    let functions = Arc::new(functions(Judge(bench.clone())));
    let mut end = 0;
    names.map(|name| {
        let mut ops = [ptr::null::<c_void>(); sys::N_OPS];
        ops[sys::OP_POLL_CQ] = poll_cq as *const c_void;
        ops[sys::OP_POST_SEND] = post_send as *const c_void;
        ops[sys::OP_POST_RECV] = post_recv as *const c_void;
        let context = Context { device: ptr::null_mut(), ops };
        let context = Object { seen: context, bench: bench.clone(), end, id: 0 }.leak();
        end += 1;
        // SAFETY: `close_device` takes back what `leak` gave away, and only `Owned` calls it.
        let context = unsafe { Owned::new(context, close_device) };
        Device::new(context.expect("a box is somewhere"), functions.clone(), name)
    })
}

fn functions(judge: Judge) -> Functions {
    Functions {
        get_device_list,
        free_device_list,
        get_device_name,
        open_device,
        close_device,
        query_port,
        query_gid,
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_cq,
        destroy_cq,
        create_qp,
        modify_qp,
        destroy_qp,
        _keeper: Box::new(judge),
    }
}

impl<T> Object<T> {
    /// Gives it away as a pointer to what is seen of it.
    fn leak(self) -> *mut T {
        Box::into_raw(Box::new(self)).cast()
    }

    /// Something that is made from it.
    fn make<U>(&self, made: Answer<u32>, seen: impl FnOnce(u32) -> U) -> *mut U {
        match made {
            Ok(id) => Object { seen: seen(id), bench: self.bench.clone(), end: self.end, id }.leak(),
            Err(_) => ptr::null_mut(),
        }
    }
}

/// # Safety
/// The pointer came from `leak` and was not taken back.
unsafe fn object<'a, T>(seen: *mut T) -> &'a Object<T> {
    // SAFETY: by this function's contract; what is seen is the object's first field.
    unsafe { &*seen.cast::<Object<T>>() }
}

/// # Safety
/// The pointer came from `leak` and was not taken back; this takes it back.
unsafe fn take_back<T>(seen: *mut T) -> Box<Object<T>> {
    // SAFETY: by this function's contract.
    unsafe { Box::from_raw(seen.cast()) }
}

fn number(answer: Answer<()>) -> c_int {
    answer.err().map_or(0, rustix::io::Errno::raw_os_error)
}

unsafe extern "C" fn get_device_list(n_devices: *mut c_int) -> *mut *mut sys::Device {
    // SAFETY: the caller gives a place for the number.
    unsafe { *n_devices = 0 };
    ptr::null_mut()
}

unsafe extern "C" fn free_device_list(_: *mut *mut sys::Device) {}

unsafe extern "C" fn get_device_name(_: *mut sys::Device) -> *const c_char {
    c"twin".as_ptr()
}

unsafe extern "C" fn open_device(_: *mut sys::Device) -> *mut Context {
    ptr::null_mut()
}

unsafe extern "C" fn close_device(context: *mut Context) -> c_int {
    // SAFETY: the caller closes a device that is open.
    let context = unsafe { take_back(context) };
    number(context.bench.board().close(context.end))
}

unsafe extern "C" fn query_port(context: *mut Context, port: u8, attr: *mut PortAttr) -> c_int {
    if port != 1 {
        return rustix::io::Errno::INVAL.raw_os_error();
    }
    // SAFETY: the caller gives an open device and a place for the answer.
    unsafe { *attr = object(context).bench.board().port() };
    0
}

unsafe extern "C" fn query_gid(context: *mut Context, _port: u8, index: c_int, gid: *mut Gid) -> c_int {
    // SAFETY: as in `query_port`.
    unsafe {
        let context = object(context);
        *gid = context.bench.board().gid(context.end, index);
    }
    0
}

unsafe extern "C" fn alloc_pd(context: *mut Context) -> *mut Pd {
    // SAFETY: the caller gives an open device.
    let of = unsafe { object(context) };
    of.make(of.bench.board().alloc_pd(of.end), |_| Pd::default())
}

unsafe extern "C" fn dealloc_pd(pd: *mut Pd) -> c_int {
    // SAFETY: the caller gives back what was made, once.
    let pd = unsafe { take_back(pd) };
    number(pd.bench.board().dealloc_pd(pd.end, pd.id))
}

unsafe extern "C" fn reg_mr(pd: *mut Pd, addr: *mut c_void, length: usize, access: c_int) -> *mut Mr {
    // SAFETY: the caller gives a domain that was made.
    let of = unsafe { object(pd) };
    let made = of.bench.board().reg_mr(of.end, of.id, addr as usize, length, access);
    of.make(made, |lkey| Mr { context: ptr::null_mut(), pd, addr, length, handle: lkey, lkey })
}

unsafe extern "C" fn dereg_mr(mr: *mut Mr) -> c_int {
    // SAFETY: the caller gives back what was made, once.
    let mr = unsafe { take_back(mr) };
    number(mr.bench.board().dereg_mr(mr.end, mr.id))
}

unsafe extern "C" fn create_cq(
    context: *mut Context,
    n_room: c_int,
    _: *mut c_void,
    _: *mut c_void,
    _: c_int,
) -> *mut Cq {
    // SAFETY: the caller gives an open device.
    let of = unsafe { object(context) };
    of.make(of.bench.board().create_cq(of.end, n_room), |_| Cq::default())
}

unsafe extern "C" fn destroy_cq(cq: *mut Cq) -> c_int {
    // SAFETY: the caller gives back what was made, once.
    let cq = unsafe { take_back(cq) };
    number(cq.bench.board().destroy_cq(cq.end, cq.id))
}

unsafe extern "C" fn create_qp(pd: *mut Pd, attr: *mut QpInitAttr) -> *mut Qp {
    // SAFETY: the caller gives a domain and completion queues that were made, and what the queue pair shall be.
    let (of, attr, cq) = unsafe { (object(pd), &*attr, object((*attr).send_cq)) };
    let made = of.bench.board().create_qp(of.end, of.id, cq.id, attr);
    of.make(made, |number| Qp {
        context: ptr::null_mut(),
        qp_context: attr.qp_context,
        pd,
        send_cq: attr.send_cq,
        recv_cq: attr.recv_cq,
        srq: attr.srq,
        handle: number,
        number,
    })
}

unsafe extern "C" fn modify_qp(qp: *mut Qp, attr: *mut QpAttr, mask: c_int) -> c_int {
    // SAFETY: the caller gives a queue pair that was made, and what it shall become.
    let (qp, attr) = unsafe { (object(qp), &*attr) };
    number(qp.bench.board().modify_qp(qp.end, qp.id, attr, mask))
}

unsafe extern "C" fn destroy_qp(qp: *mut Qp) -> c_int {
    // SAFETY: the caller gives back what was made, once.
    let qp = unsafe { take_back(qp) };
    number(qp.bench.board().destroy_qp(qp.end, qp.id))
}

unsafe extern "C" fn post_send(qp: *mut Qp, request: *mut SendWr, _bad: *mut *mut SendWr) -> c_int {
    // SAFETY: the caller gives a queue pair that was made and a request with its pieces, and keeps these alone.
    let (qp, wr) = unsafe { (object(qp), &*request) };
    let mut board = qp.bench.board();
    number(board.check_one(wr.num_sge, wr.next.is_null()).and_then(|()| {
        // SAFETY: as above; there is one piece.
        let (sge, piece) = unsafe { (&*wr.sg_list, Piece::new(&*wr.sg_list)) };
        let request = Request { id: wr.wr_id, piece, key: sge.lkey };
        board.post_send(qp.end, qp.id, wr.opcode, request)
    }))
}

unsafe extern "C" fn post_recv(qp: *mut Qp, request: *mut RecvWr, _bad: *mut *mut RecvWr) -> c_int {
    // SAFETY: as in `post_send`.
    let (qp, wr) = unsafe { (object(qp), &*request) };
    let mut board = qp.bench.board();
    number(board.check_one(wr.num_sge, wr.next.is_null()).and_then(|()| {
        // SAFETY: as above; there is one piece.
        let (sge, piece) = unsafe { (&*wr.sg_list, Piece::new(&*wr.sg_list)) };
        let request = Request { id: wr.wr_id, piece, key: sge.lkey };
        board.post_recv(qp.end, qp.id, request)
    }))
}

unsafe extern "C" fn poll_cq(cq: *mut Cq, n: c_int, out: *mut Wc) -> c_int {
    // SAFETY: the caller gives a completion queue that was made.
    let cq = unsafe { object(cq) };
    let taken = cq.bench.board().poll(cq.end, cq.id, usize::try_from(n).unwrap_or_default());
    let Ok(taken) = taken else { return -1 };
    // SAFETY: the caller has room for `n` completions, and these are not more.
    unsafe { ptr::copy_nonoverlapping(taken.as_ptr(), out, taken.len()) };
    taken.len() as c_int
}
