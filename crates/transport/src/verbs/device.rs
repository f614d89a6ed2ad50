//! RDMA devices: which there are, what their ports say, and opening one. How many links a device carries is counted here.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int},
    io,
    net::Ipv4Addr,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Limits, PortReport, PortState, VerbsError,
    library::{Functions, Owned},
    sys::{self, Gid, PortAttr},
};

/// Ports of a device that are asked for, at most.
const MAX_PORTS: u8 = 8;
/// Entries of a port's table of addresses that are read, at most; they are filled from the front.
const MAX_GIDS: u8 = 64;
/// The port that links use.
pub(super) const PORT: u8 = 1;

/// The system's verbs library.
#[derive(Clone)]
pub struct Verbs(Arc<Functions>);

/// What there is to know of a device.
#[derive(Debug)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// Its ports, or why they cannot be read.
    pub ports: Result<Vec<PortReport>, VerbsError>,
}

/// An open device. It carries a limited number of links, counted from here: a process opens a device once.
pub struct Device {
    pub(super) context: Owned<sys::Context>,
    pub(super) functions: Arc<Functions>,
    name: String,
    n_links: AtomicUsize,
}

/// The right to one link, until it is dropped.
pub(super) struct Claim(pub(super) Arc<Device>);

impl Verbs {
    /// Opens the library.
    pub fn load() -> Result<Verbs, VerbsError> {
        Functions::load().map(|functions| Verbs(Arc::new(functions)))
    }

    /// All devices and what their ports say.
    pub fn probe(&self) -> Vec<DeviceReport> {
        let ports = |name: &str| self.open(name)?.ports();
        self.names().into_iter().map(|name| DeviceReport { ports: ports(&name), name }).collect()
    }

    /// Opens all devices that can be opened.
    pub fn open_all(&self) -> Vec<Arc<Device>> {
        self.names().iter().filter_map(|name| self.open(name).ok()).collect()
    }

    /// Opens the device of that name.
    pub fn open(&self, name: &str) -> Result<Arc<Device>, VerbsError> {
        let functions = &self.0;
        let opened = self.with_list(|list| {
            // SAFETY: the list's devices live until it is freed.
            list.iter().find(|device| unsafe { self.name(**device) } == name).map(|device| {
                // SAFETY: as above; whoever opens a device closes it.
                let context = unsafe { Owned::new((functions.open_device)(*device), functions.close_device) };
                context.ok_or_else(io::Error::last_os_error)
            })
        });
        let Some(opened) = opened else {
            return Err(VerbsError::NoDevice { expected: name.to_owned(), found: self.names() });
        };
        let failed = |source| VerbsError::Call { device: name.to_owned(), call: "ibv_open_device", source };
        Ok(Device::new(opened.map_err(failed)?, functions.clone(), name))
    }

    fn names(&self) -> Vec<String> {
        // SAFETY: the list's devices live until it is freed.
        self.with_list(|list| list.iter().map(|device| unsafe { self.name(*device) }).collect())
    }

    /// Calls `f` with the library's list of devices, which is freed afterwards. Without RDMA there is none.
    fn with_list<T>(&self, f: impl FnOnce(&[*mut sys::Device]) -> T) -> T {
        let mut n_devices: c_int = 0;
        // SAFETY: the library writes the length and returns an array of that many pointers, or null.
        let list = unsafe { (self.0.get_device_list)(&mut n_devices) };
        if list.is_null() {
            return f(&[]);
        }
        let len = usize::try_from(n_devices).unwrap_or_default();
        // SAFETY: as above.
        let result = f(unsafe { std::slice::from_raw_parts(list, len) });
        // SAFETY: the list came from the library and is not used any more; opened devices outlive it.
        unsafe { (self.0.free_device_list)(list) };
        result
    }

    /// # Safety
    /// `device` is in a list that was not freed yet.
    unsafe fn name(&self, device: *mut sys::Device) -> String {
        // SAFETY: by this function's contract; the name is a C string inside the device.
        unsafe { CStr::from_ptr((self.0.get_device_name)(device)) }.to_string_lossy().into_owned()
    }
}

impl Device {
    /// An open device, with the functions that it was opened by.
    pub(super) fn new(context: Owned<sys::Context>, functions: Arc<Functions>, name: &str) -> Arc<Device> {
        Arc::new(Device { context, functions, name: name.to_owned(), n_links: AtomicUsize::new(0) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the port that links use has this address: then the device's cable is the way that a stream from there takes.
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.port().is_ok_and(|port| port.gid_index(address).is_some())
    }

    /// What the port that links use says.
    pub(super) fn port(&self) -> Result<PortReport, VerbsError> {
        Ok(self.report(PORT, &self.attr(PORT)?))
    }

    /// What the port that links use can do now, or the system's words.
    pub(super) fn port_state(&self) -> io::Result<PortState> {
        let mut attr = PortAttr::default();
        self.query_port(PORT, &mut attr)?;
        Ok(PortState::new(attr.state))
    }

    /// The right to one more link.
    pub(super) fn claim(self: &Arc<Device>, limits: Limits) -> Result<Claim, VerbsError> {
        let limit = limits.n_links();
        let one_more = |n: usize| (n < limit).then_some(n + 1);
        match self.n_links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Claim(self.clone())),
            Err(_) => Err(VerbsError::Full { device: self.name.clone(), limit }),
        }
    }

    /// The error of a call that failed just now.
    pub(super) fn failed(&self, call: &'static str) -> VerbsError {
        self.failed_with(call, io::Error::last_os_error())
    }

    /// The error of a call that returned a number.
    pub(super) fn check(&self, call: &'static str, returned: c_int) -> Result<(), VerbsError> {
        check(returned).map_err(|source| self.failed_with(call, source))
    }

    fn failed_with(&self, call: &'static str, source: io::Error) -> VerbsError {
        VerbsError::Call { device: self.name.clone(), call, source }
    }

    fn ports(&self) -> Result<Vec<PortReport>, VerbsError> {
        let first = self.report(1, &self.attr(1)?);
        // A device has one port nearly always; the number behind the last is refused.
        let others = (2..=MAX_PORTS).map_while(|port| Some(self.report(port, &self.attr(port).ok()?)));
        Ok([first].into_iter().chain(others).collect())
    }

    fn attr(&self, port: u8) -> Result<PortAttr, VerbsError> {
        let mut attr = PortAttr::default();
        self.query_port(port, &mut attr).map_err(|source| self.failed_with("ibv_query_port", source))?;
        Ok(attr)
    }

    fn report(&self, port: u8, attr: &PortAttr) -> PortReport {
        let len = u8::try_from(attr.gid_tbl_len.max(0)).unwrap_or(u8::MAX).min(MAX_GIDS);
        let gids = (0..len).filter_map(|index| Some((index, self.gid(port, index)?)));
        PortReport::new(&self.name, port, attr, gids.collect())
    }

    /// An entry of the table of addresses, unless it is empty.
    fn gid(&self, port: u8, index: u8) -> Option<[u8; 16]> {
        let mut gid = Gid::default();
        let query = self.functions.query_gid;
        // SAFETY: the context is open, and `gid` has the library's layout.
        let returned =
            unsafe { query(self.context.as_ptr(), port, c_int::from(index), ptr::from_mut(&mut gid)) };
        (returned == 0 && gid.0 != [0; 16]).then_some(gid.0)
    }

    fn query_port(&self, port: u8, attr: &mut PortAttr) -> io::Result<()> {
        // SAFETY: the context is open, and `attr` has the library's layout.
        check(unsafe { (self.functions.query_port)(self.context.as_ptr(), port, ptr::from_mut(attr)) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.n_links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a returned number means: 0 is fine, others are error numbers, by some drivers negated; -1 has it in `errno`.
pub(super) fn check(returned: c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        number => Err(io::Error::from_raw_os_error(number.saturating_abs())),
    }
}
