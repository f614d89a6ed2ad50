//! The verbs library, opened at run time: its functions with their types. Whoever calls one keeps the library's rules.

#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_int, c_void},
    ptr::NonNull,
};

use libloading::Library;

use super::{
    VerbsError,
    sys::{Context, Cq, Device, Gid, LIBRARY, Mr, Pd, PortAttr, Qp, QpAttr, QpInitAttr, RecvWr, SendWr, Wc},
};

/// A function that ends the life of what it is given, and returns 0 or an error number.
pub(super) type Destroy<T> = unsafe extern "C" fn(*mut T) -> c_int;
/// Takes completions out of a queue.
pub(super) type PollCq = unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int;
/// Posts a request to send.
pub(super) type PostSend = unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int;
/// Posts a request to receive.
pub(super) type PostRecv = unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident = $symbol:literal: $type:ty,)*) => {
        /// The library's functions.
        pub(super) struct Functions {
            $(pub(super) $field: $type,)*
            /// The functions live as long as it does: the library, most often.
            pub(super) _keeper: Box<dyn Send + Sync>,
        }

        impl Functions {
            /// Opens the library.
            pub(super) fn load() -> Result<Functions, VerbsError> {
                let error = |source| VerbsError::Library { name: LIBRARY, source };
                // SAFETY: what the system's own library does when it is loaded is what the system wants.
                let library = unsafe { Library::new(LIBRARY) }.map_err(error)?;
                Ok(Functions {
                    // SAFETY: the types are those of the library's header.
                    $($field: *unsafe { library.get::<$type>($symbol) }.map_err(error)?,)*
                    _keeper: Box::new(library),
                })
            }
        }
    };
}

functions! {
    get_device_list = b"ibv_get_device_list\0": unsafe extern "C" fn(*mut c_int) -> *mut *mut Device,
    free_device_list = b"ibv_free_device_list\0": unsafe extern "C" fn(*mut *mut Device),
    get_device_name = b"ibv_get_device_name\0": unsafe extern "C" fn(*mut Device) -> *const c_char,
    open_device = b"ibv_open_device\0": unsafe extern "C" fn(*mut Device) -> *mut Context,
    close_device = b"ibv_close_device\0": Destroy<Context>,
    query_port = b"ibv_query_port\0": unsafe extern "C" fn(*mut Context, u8, *mut PortAttr) -> c_int,
    query_gid = b"ibv_query_gid\0": unsafe extern "C" fn(*mut Context, u8, c_int, *mut Gid) -> c_int,
    alloc_pd = b"ibv_alloc_pd\0": unsafe extern "C" fn(*mut Context) -> *mut Pd,
    dealloc_pd = b"ibv_dealloc_pd\0": Destroy<Pd>,
    reg_mr = b"ibv_reg_mr\0": unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr,
    dereg_mr = b"ibv_dereg_mr\0": Destroy<Mr>,
    create_cq = b"ibv_create_cq\0":
        unsafe extern "C" fn(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut Cq,
    destroy_cq = b"ibv_destroy_cq\0": Destroy<Cq>,
    create_qp = b"ibv_create_qp\0": unsafe extern "C" fn(*mut Pd, *mut QpInitAttr) -> *mut Qp,
    modify_qp = b"ibv_modify_qp\0": unsafe extern "C" fn(*mut Qp, *mut QpAttr, c_int) -> c_int,
    destroy_qp = b"ibv_destroy_qp\0": Destroy<Qp>,
}

/// Something the library made, until it is dropped.
pub(super) struct Owned<T> {
    made: NonNull<T>,
    destroy: Destroy<T>,
}

// SAFETY: the library's objects may be used on any thread; they are used by one at a time, for whatever changes them takes
// `&mut` of their owner.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: through `&Owned` only the pointer can be had, and the calls it is shared for (queries of a context, making objects
// from it) are thread-safe by the library's promise.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Takes over what the library made; `None` where it made nothing.
    ///
    /// # Safety
    /// `made` is null, or `destroy` may be called with it once, and nobody else does.
    pub(super) unsafe fn new(made: *mut T, destroy: Destroy<T>) -> Option<Owned<T>> {
        Some(Owned { made: NonNull::new(made)?, destroy })
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.made.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by the contract of `new`; nothing is left to do if the library refuses.
        unsafe { (self.destroy)(self.made.as_ptr()) };
    }
}
