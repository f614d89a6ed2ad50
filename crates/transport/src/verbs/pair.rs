//! One queue pair with all that belongs to it: protection domain, completion queue, and one registered region that is carved
//! into packets and reused as long as the link lives. The device writes into a packet only while its receive is posted, and
//! reads from one only while its send is; this module holds everybody to that. Knows packets by number, not what is in them.

#![allow(unsafe_code)]

use std::{
    alloc::{self, Layout},
    ffi::c_int,
    io,
    net::Ipv4Addr,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use super::{
    Limits, PACKET_BYTES, PortReport, VerbsError,
    device::{Claim, Device, PORT, check},
    library::{Owned, PollCq, PostRecv, PostSend},
    sys::{self, AhAttr, Gid, GlobalRoute, QpAttr, QpCap, QpInitAttr, RecvWr, SendWr, Sge, Wc},
};

/// Regions begin and end at pages, and Apple's are the largest.
const PAGE_BYTES: usize = 16 << 10;
/// Completions taken out of the queue at once.
const N_COMPLETIONS: usize = 16;
/// Queue pairs have numbers of 24 bits.
pub(super) const QP_NUMBERS: u32 = 1 << 24;
/// The device's own number of the first packet, at both ends.
const FIRST_PSN: u32 = 0;

/// What the other end must know of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The queue pair's number, 24 bits.
    pub(super) qp_number: u32,
    /// The port's local identifier.
    pub(super) lid: u16,
    /// The port's MTU, as the headers number sizes.
    pub(super) mtu: u8,
    /// The port's address.
    pub(super) gid: [u8; 16],
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// The packet, which is free again.
    pub(super) packet: usize,
    /// 0 is success.
    pub(super) status: u32,
    /// Bytes that were received.
    pub(super) n_bytes: usize,
}

/// See the module. Fields are dropped in their order, which is the order of teardown.
pub(super) struct Pair {
    qp: Owned<sys::Qp>,
    cq: Owned<sys::Cq>,
    mr: Owned<sys::Mr>,
    _pd: Owned<sys::Pd>,
    region: Region,
    post_send: PostSend,
    post_recv: PostRecv,
    poll_cq: PollCq,
    address: Address,
    gid_index: u8,
    /// The device's, until their requests complete.
    is_posted: Vec<bool>,
    claim: Claim,
}

impl Pair {
    /// A queue pair on a device's port, ready for receives, not connected yet. Packets are numbered from 0, first those
    /// for receives. Of the port's addresses, `address` is used if it is one.
    pub(super) fn new(
        device: &Arc<Device>,
        limits: Limits,
        address: Option<Ipv4Addr>,
    ) -> Result<Pair, VerbsError> {
        limits.check()?;
        let port = device.port()?;
        port.check()?;
        let claim = device.claim(limits)?;
        let (f, context) = (&device.functions, device.context.as_ptr());
        let n_packets = (limits.n_receives + limits.n_sends) as usize;
        let region = Region::new(n_packets * PACKET_BYTES);
        // SAFETY: each call gets what the ones before have made, and `Owned` destroys it once, in the order of the fields.
        // The region stays where it is until it is deregistered.
        let (pd, mr, cq) = unsafe {
            let pd = Owned::new((f.alloc_pd)(context), f.dealloc_pd);
            let pd = pd.ok_or_else(|| device.failed("ibv_alloc_pd"))?;
            let (start, len) = (region.start.as_ptr().cast(), region.layout.size());
            let mr = (f.reg_mr)(pd.as_ptr(), start, len, sys::ACCESS_LOCAL_WRITE);
            let mr = Owned::new(mr, f.dereg_mr).ok_or_else(|| device.failed("ibv_reg_mr"))?;
            let cq = (f.create_cq)(context, n_packets as c_int, ptr::null_mut(), ptr::null_mut(), 0);
            let cq = Owned::new(cq, f.destroy_cq).ok_or_else(|| device.failed("ibv_create_cq"))?;
            (pd, mr, cq)
        };
        let qp = queue_pair(device, &pd, &cq, limits)?;
        let (post_send, post_recv, poll_cq) = operations(device)?;
        let (gid_index, address) = own_address(device, &port, &qp, address)?;
        let is_posted = vec![false; n_packets];
        let pair = Pair {
            qp,
            cq,
            mr,
            _pd: pd,
            region,
            post_send,
            post_recv,
            poll_cq,
            address,
            gid_index,
            is_posted,
            claim,
        };
        pair.modify(
            &mut QpAttr {
                state: sys::STATE_INIT,
                access_flags: sys::ACCESS_LOCAL_WRITE,
                port_num: PORT,
                ..QpAttr::default()
            },
            sys::MASK_INIT,
        )?;
        Ok(pair)
    }

    /// Its device.
    pub(super) fn device(&self) -> &Device {
        &self.claim.0
    }

    /// What the other end must know.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// Joins it with the queue pair at the other end of the cable.
    pub(super) fn connect(&mut self, peer: &Address) -> Result<(), VerbsError> {
        let route = GlobalRoute {
            dgid: Gid(peer.gid),
            sgid_index: self.gid_index,
            hop_limit: 1,
            ..GlobalRoute::default()
        };
        let ah = AhAttr { route, dlid: peer.lid, is_global: 1, port_num: PORT, ..AhAttr::default() };
        let mut attr = QpAttr {
            state: sys::STATE_RTR,
            path_mtu: u32::from(self.address.mtu.min(peer.mtu)),
            rq_psn: FIRST_PSN,
            dest_qp_num: peer.qp_number,
            ah,
            ..QpAttr::default()
        };
        self.modify(&mut attr, sys::MASK_RTR)?;
        let mut attr = QpAttr { state: sys::STATE_RTS, sq_psn: FIRST_PSN, ..QpAttr::default() };
        self.modify(&mut attr, sys::MASK_RTS)
    }

    /// A packet that is not posted.
    ///
    /// # Panics
    /// If it is.
    pub(super) fn packet(&mut self, packet: usize) -> &mut [u8] {
        assert!(!self.is_posted[packet], "packet {packet} is the device's");
        // SAFETY: the region has as many packets as `is_posted` entries, the device keeps off this one, and nobody else has
        // it while `self` is borrowed.
        unsafe { slice::from_raw_parts_mut(self.region.packet(packet), PACKET_BYTES) }
    }

    /// Hands a packet to the device, to be filled.
    ///
    /// # Panics
    /// If it is posted already.
    pub(super) fn post_recv(&mut self, packet: usize) -> io::Result<()> {
        let mut piece = self.piece(packet, PACKET_BYTES);
        let mut request =
            RecvWr { wr_id: packet as u64, next: ptr::null_mut(), sg_list: &mut piece, num_sge: 1 };
        let mut bad = ptr::null_mut();
        // SAFETY: the request is read during the call; the packet belongs to the device from here to its completion.
        check(unsafe { (self.post_recv)(self.qp.as_ptr(), &mut request, &mut bad) })?;
        self.is_posted[packet] = true;
        Ok(())
    }

    /// Hands the first `len` bytes of a packet to the device, to be sent.
    ///
    /// # Panics
    /// If it is posted already, or has fewer bytes.
    pub(super) fn post_send(&mut self, packet: usize, len: usize) -> io::Result<()> {
        let mut piece = self.piece(packet, len);
        let mut request = SendWr {
            wr_id: packet as u64,
            next: ptr::null_mut(),
            sg_list: &mut piece,
            num_sge: 1,
            opcode: sys::OPCODE_SEND,
            send_flags: sys::SEND_SIGNALED,
            imm_data: 0,
            others: [0; 11],
        };
        let mut bad = ptr::null_mut();
        // SAFETY: the request is read during the call; the packet belongs to the device from here to its completion.
        check(unsafe { (self.post_send)(self.qp.as_ptr(), &mut request, &mut bad) })?;
        self.is_posted[packet] = true;
        Ok(())
    }

    /// Takes completions out of the queue and frees their packets; returns how many, at most as many as `out` has room for.
    pub(super) fn poll(&mut self, out: &mut Completions) -> io::Result<usize> {
        // SAFETY: the array has room for as many completions as it says.
        let n = unsafe { (self.poll_cq)(self.cq.as_ptr(), N_COMPLETIONS as c_int, out.raw.as_mut_ptr()) };
        let n = usize::try_from(n).map_err(|_| io::Error::from_raw_os_error(n.saturating_abs()))?;
        for wc in &out.raw[..n] {
            let posted = usize::try_from(wc.wr_id).ok().and_then(|packet| self.is_posted.get_mut(packet));
            match posted {
                Some(posted) if *posted => *posted = false,
                _ => {
                    return Err(io::Error::other(format!(
                        "a completion of packet {}, which is not posted",
                        wc.wr_id
                    )));
                }
            }
        }
        Ok(n)
    }

    /// The region's first bytes, as many as that.
    #[cfg(test)]
    pub(super) fn first(&self, length: u32) -> Sge {
        Sge { length, ..self.piece(0, 0) }
    }

    /// Posts a receive that only a test would.
    ///
    /// # Safety
    /// What is posted lies in the region, or the device refuses it.
    #[cfg(test)]
    pub(super) unsafe fn post_raw(&self, request: &mut RecvWr) -> c_int {
        // SAFETY: by this function's contract.
        unsafe { (self.post_recv)(self.qp.as_ptr(), request, &mut ptr::null_mut()) }
    }

    fn piece(&self, packet: usize, len: usize) -> Sge {
        assert!(!self.is_posted[packet] && len <= PACKET_BYTES, "packet {packet} with {len} bytes");
        // SAFETY: a registered region holds its key.
        let lkey = unsafe { (*self.mr.as_ptr()).lkey };
        Sge { addr: self.region.packet(packet) as u64, length: len as u32, lkey }
    }

    fn modify(&self, attr: &mut QpAttr, mask: c_int) -> Result<(), VerbsError> {
        let call = match attr.state {
            sys::STATE_INIT => "ibv_modify_qp to INIT",
            sys::STATE_RTR => "ibv_modify_qp to RTR",
            _ => "ibv_modify_qp to RTS",
        };
        // SAFETY: the queue pair lives, and the library only reads `attr`.
        let returned = unsafe { (self.device().functions.modify_qp)(self.qp.as_ptr(), attr, mask) };
        self.device().check(call, returned)
    }
}

/// The operations that are no symbols of the library.
fn operations(device: &Device) -> Result<(PostSend, PostRecv, PollCq), VerbsError> {
    // SAFETY: an open context holds the table of its operations.
    let ops = unsafe { &(*device.context.as_ptr()).ops };
    if [sys::OP_POST_SEND, sys::OP_POST_RECV, sys::OP_POLL_CQ].iter().any(|op| ops[*op].is_null()) {
        let (expected, found) = ("operations to post and to poll", "none in their places".to_owned());
        return Err(VerbsError::Layout { device: device.name().to_owned(), expected, found });
    }
    // SAFETY: they are there, with the types of the library's header.
    Ok(unsafe {
        (
            std::mem::transmute::<*const std::ffi::c_void, PostSend>(ops[sys::OP_POST_SEND]),
            std::mem::transmute::<*const std::ffi::c_void, PostRecv>(ops[sys::OP_POST_RECV]),
            std::mem::transmute::<*const std::ffi::c_void, PollCq>(ops[sys::OP_POLL_CQ]),
        )
    })
}

/// The queue pair's address, and the place of the port's in its table: `wanted` if the port has it, else its first.
fn own_address(
    device: &Device,
    port: &PortReport,
    qp: &Owned<sys::Qp>,
    wanted: Option<Ipv4Addr>,
) -> Result<(u8, Address), VerbsError> {
    let wanted = wanted.and_then(|ip| Some((port.gid_index(ip)?, ip)));
    let (gid_index, ip) = wanted.or_else(|| port.ipv4()).ok_or_else(|| device.failed("ibv_query_gid"))?;
    // SAFETY: a queue pair holds its number.
    let qp_number = unsafe { (*qp.as_ptr()).number };
    if qp_number >= QP_NUMBERS {
        let (expected, found) = ("a queue pair's number of 24 bits", format!("{qp_number:#x}"));
        return Err(VerbsError::Layout { device: device.name().to_owned(), expected, found });
    }
    let mtu = port.mtu_bytes.map_or(1, |bytes| bytes.ilog2() as u8 - 7);
    Ok((gid_index, Address { qp_number, lid: port.lid, mtu, gid: ip.to_ipv6_mapped().octets() }))
}

fn queue_pair(
    device: &Device,
    pd: &Owned<sys::Pd>,
    cq: &Owned<sys::Cq>,
    limits: Limits,
) -> Result<Owned<sys::Qp>, VerbsError> {
    let cap = QpCap {
        max_send_wr: limits.n_sends,
        max_recv_wr: limits.n_receives,
        max_send_sge: 1,
        max_recv_sge: 1,
        ..QpCap::default()
    };
    let mut attr = QpInitAttr {
        qp_context: ptr::null_mut(),
        send_cq: cq.as_ptr(),
        recv_cq: cq.as_ptr(),
        srq: ptr::null_mut(),
        cap,
        qp_type: sys::QP_TYPE_UC,
        sq_sig_all: 0,
    };
    let f = &device.functions;
    // SAFETY: domain and queue live longer than the queue pair, by the order of `Pair`'s fields.
    let qp = unsafe { Owned::new((f.create_qp)(pd.as_ptr(), &mut attr), f.destroy_qp) };
    qp.ok_or_else(|| device.failed("ibv_create_qp"))
}

/// Room for completions, kept so that taking them costs nothing.
pub(super) struct Completions {
    raw: [Wc; N_COMPLETIONS],
}

impl Completions {
    pub(super) fn new() -> Completions {
        Completions { raw: [Wc::default(); N_COMPLETIONS] }
    }

    /// Whether there may be more than these.
    pub(super) fn is_full(n: usize) -> bool {
        n == N_COMPLETIONS
    }

    /// One of those that the last call of [`Pair::poll`] counted.
    pub(super) fn get(&self, index: usize) -> Completion {
        let wc = self.raw[index];
        Completion { packet: wc.wr_id as usize, status: wc.status, n_bytes: wc.byte_len as usize }
    }
}

/// Memory in whole pages.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory with one owner.
unsafe impl Send for Region {}

impl Region {
    fn new(n_bytes: usize) -> Region {
        let layout = Layout::from_size_align(n_bytes.next_multiple_of(PAGE_BYTES), PAGE_BYTES);
        let layout = layout.expect("some thousand packets of some thousand bytes fit into any address space");
        // SAFETY: there is at least one packet, so the size is not zero.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { alloc::handle_alloc_error(layout) };
        Region { start, layout }
    }

    fn packet(&self, packet: usize) -> *mut u8 {
        // SAFETY: callers check the number against the packets that the region was made for.
        unsafe { self.start.as_ptr().add(packet * PACKET_BYTES) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout; nothing is registered in it any more, by the order of `Pair`'s fields.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}
