//! Every rule, broken once: the twin must notice.

#![allow(unsafe_code)]

use std::{ffi::c_int, ptr};

use super::{
    super::{
        Limits, PACKET_BYTES, VerbsError,
        pair::{Completions, Pair},
        sys::{self, QpCap, QpInitAttr, RecvWr, Sge},
    },
    *,
};

/// More than the rules allow, so that nothing but the twin objects.
const UNLIMITED: Limits = Limits { n_queue_pairs: 99, n_regions: 999, n_receives: 200, n_sends: 8 };

struct Set {
    devices: [Arc<Device>; 2],
    cable: Cable,
}

fn set() -> Set {
    let (devices, cable) = devices(Rules::APPLE, Medium::INSTANT, 1);
    Set { devices, cable }
}

impl Set {
    /// Two queue pairs that are connected, with as many receives posted.
    fn joined(&self, n_receives: usize) -> [Pair; 2] {
        let [mut a, mut b] =
            self.devices.each_ref().map(|device| Pair::new(device, UNLIMITED, None).unwrap());
        for packet in 0..n_receives {
            a.post_recv(packet).unwrap();
            b.post_recv(packet).unwrap();
        }
        let (at_a, at_b) = (a.address(), b.address());
        a.connect(&at_b).unwrap();
        b.connect(&at_a).unwrap();
        [a, b]
    }

    /// The one rule that was broken.
    fn broken(&self) -> String {
        let mut broken = self.cable.take_violations();
        assert_eq!(broken.len(), 1, "{broken:?}");
        broken.remove(0)
    }
}

#[test]
fn packets_travel_and_completions_come() {
    let set = set();
    let [mut a, mut b] = set.joined(2);
    a.packet(200)[..3].copy_from_slice(b"abc");
    a.post_send(200, 3).unwrap();
    let mut completions = Completions::new();
    assert_eq!(a.poll(&mut completions).unwrap(), 1);
    assert_eq!((completions.get(0).packet, completions.get(0).status), (200, 0));
    assert_eq!(b.poll(&mut completions).unwrap(), 1);
    assert_eq!((completions.get(0).packet, completions.get(0).n_bytes), (0, 3));
    assert_eq!(&b.packet(0)[..3], b"abc");
    assert_eq!((set.cable.n_sent(), set.cable.n_bytes_sent()), ([1, 0], [3, 0]));
}

#[test]
fn an_eleventh_queue_pair_is_one_too_many() {
    let set = set();
    let pairs: Vec<_> = (0..10).map(|_| Pair::new(&set.devices[0], UNLIMITED, None).unwrap()).collect();
    let e = Pair::new(&set.devices[0], UNLIMITED, None).err().unwrap();
    assert!(matches!(e, VerbsError::Call { call: "ibv_alloc_pd", .. }), "{e}");
    assert_eq!(set.broken(), "more than 10 domains");
    drop(pairs);
    Pair::new(&set.devices[0], UNLIMITED, None).unwrap();
}

#[test]
fn queue_pairs_and_regions_are_counted() {
    let set = set();
    let (f, context) = (&set.devices[0].functions, set.devices[0].context.as_ptr());
    let memory = page();
    // SAFETY: the calls get what the ones before have made, and give back all of it, once.
    unsafe {
        let (pd, cq) =
            ((f.alloc_pd)(context), (f.create_cq)(context, 4, ptr::null_mut(), ptr::null_mut(), 0));
        let mut attr = attr(cq);
        let qps: Vec<_> = (0..11).map(|_| (f.create_qp)(pd, &mut attr)).collect();
        assert!(qps[10].is_null());
        assert_eq!(set.broken(), "more than 10 queue pairs");
        qps[..10].iter().for_each(|qp| assert_eq!((f.destroy_qp)(*qp), 0));
        let register = |_| (f.reg_mr)(pd, memory.start(), memory.n_bytes, sys::ACCESS_LOCAL_WRITE);
        let regions: Vec<_> = (0..101).map(register).collect();
        assert!(regions[100].is_null());
        assert_eq!(set.broken(), "more than 100 regions");
        regions[..100].iter().for_each(|region| assert_eq!((f.dereg_mr)(*region), 0));
        assert_eq!([(f.destroy_cq)(cq), (f.dealloc_pd)(pd)], [0, 0]);
    }
}

#[test]
fn queue_pairs_of_other_kinds_are_refused() {
    let set = set();
    let (f, context) = (&set.devices[1].functions, set.devices[1].context.as_ptr());
    // SAFETY: as above.
    unsafe {
        let (pd, cq) =
            ((f.alloc_pd)(context), (f.create_cq)(context, 4, ptr::null_mut(), ptr::null_mut(), 0));
        let refused = |change: fn(&mut QpInitAttr)| {
            let mut attr = attr(cq);
            change(&mut attr);
            assert!((f.create_qp)(pd, &mut attr).is_null());
            set.broken()
        };
        assert_eq!(refused(|attr| attr.qp_type = 2), "a queue pair of type 2, not UC");
        assert_eq!(refused(|attr| attr.cap.max_send_sge = 2), "[2, 1] pieces a request, not one");
        assert_eq!(refused(|attr| attr.cap.max_inline_data = 64), "inline data");
        assert_eq!(refused(|attr| attr.cap.max_recv_wr = 4090), "4098 requests of a queue pair, over 4095");
        assert_eq!([(f.destroy_cq)(cq), (f.dealloc_pd)(pd)], [0, 0]);
    }
}

#[test]
fn regions_are_whole_pages_for_local_writes() {
    let set = set();
    let (f, context) = (&set.devices[0].functions, set.devices[0].context.as_ptr());
    let memory = page();
    // SAFETY: as above.
    unsafe {
        let pd = (f.alloc_pd)(context);
        let refused = |skip: usize, n_bytes: usize, access: c_int| {
            assert!((f.reg_mr)(pd, memory.start().byte_add(skip), n_bytes, access).is_null());
            set.broken()
        };
        assert!(refused(4096, memory.n_bytes, 1).ends_with("is not whole pages"));
        assert!(refused(0, memory.n_bytes - 1, 1).ends_with("is not whole pages"));
        assert_eq!(refused(0, memory.n_bytes, 7), "a region with access 0x7");
        assert_eq!((f.dealloc_pd)(pd), 0);
    }
}

#[test]
fn a_sixty_fourth_receive_is_one_too_many() {
    let set = set();
    let [mut a, _b] = set.joined(63);
    assert_eq!(a.post_recv(63).unwrap_err().raw_os_error(), Some(12));
    assert_eq!(set.broken(), "more than 63 receives posted");
}

#[test]
fn a_send_without_a_credit_is_noticed() {
    let set = set();
    let [mut a, _b] = set.joined(1);
    a.post_send(200, 9).unwrap();
    a.post_send(201, 9).unwrap();
    assert_eq!(set.broken(), "9 bytes arrived without a receive: a Mac loses them silently");
}

#[test]
fn sends_are_as_many_as_the_queue_pair_has_and_only_when_connected() {
    let set = set();
    let [mut a, _b] = set.joined(9);
    (200..208).for_each(|packet| a.post_send(packet, 1).unwrap());
    let mut lonely = Pair::new(&set.devices[1], UNLIMITED, None).unwrap();
    assert!(lonely.post_send(200, 1).is_err());
    assert_eq!(set.broken(), "a send in state 1");
}

#[test]
fn a_receive_of_other_packets_than_the_send_is_noticed() {
    let set = set();
    let [mut a, b] = set.joined(0);
    // two packets' worth of receive, by hand; the region is larger than that
    let mut sge = b.first(2 * PACKET_BYTES as u32);
    assert_eq!(post_recv(&b, &mut sge, 1), 0);
    a.post_send(200, 100).unwrap();
    assert_eq!(set.broken(), "1 packets (100 bytes) arrived for a receive of 2");
    // and what else can be wrong with a receive
    assert_ne!(post_recv(&b, &mut sge, 2), 0);
    assert_eq!(set.broken(), "a request of 2 pieces, not one");
    sge.addr += 1 << 30;
    assert_ne!(post_recv(&b, &mut sge, 1), 0);
    assert!(set.broken().starts_with("8192 bytes outside of region "));
}

#[test]
fn teardown_has_an_order() {
    let set = set();
    let (f, context) = (&set.devices[0].functions, set.devices[0].context.as_ptr());
    // SAFETY: as above.
    unsafe {
        let (pd, cq) =
            ((f.alloc_pd)(context), (f.create_cq)(context, 4, ptr::null_mut(), ptr::null_mut(), 0));
        let qp = (f.create_qp)(pd, &mut attr(cq));
        (f.destroy_cq)(cq);
        assert_eq!(set.broken(), "a completion queue given back before its queue pair");
        (f.dealloc_pd)(pd);
        assert_eq!(set.broken(), "a domain given back before what is in it");
        assert_eq!((f.destroy_qp)(qp), 0);
        (f.alloc_pd)(context);
    }
    let Set { devices: [first, _second], cable } = set;
    drop(first);
    assert_eq!(
        cable.take_violations(),
        ["a device closed with [1, 0, 0, 0] domains, regions, completion queues and queue pairs"]
    );
}

#[test]
#[should_panic(expected = "the device's rules were broken:\n9 bytes arrived without a receive")]
fn a_broken_rule_fails_the_test_that_broke_it() {
    let set = set();
    let [mut a, _b] = set.joined(0);
    a.post_send(200, 9).unwrap();
}

fn attr(cq: *mut sys::Cq) -> QpInitAttr {
    let cap = QpCap { max_send_wr: 8, max_recv_wr: 8, max_send_sge: 1, max_recv_sge: 1, max_inline_data: 0 };
    QpInitAttr {
        qp_context: ptr::null_mut(),
        send_cq: cq,
        recv_cq: cq,
        srq: ptr::null_mut(),
        cap,
        qp_type: sys::QP_TYPE_UC,
        sq_sig_all: 0,
    }
}

fn post_recv(pair: &Pair, sge: &mut Sge, num_sge: c_int) -> c_int {
    let mut request = RecvWr { wr_id: 0, next: ptr::null_mut(), sg_list: sge, num_sge };
    // SAFETY: the piece lies in the pair's own region, or is refused.
    unsafe { pair.post_raw(&mut request) }
}

/// A page that regions may begin at.
struct Page {
    memory: Vec<u8>,
    n_bytes: usize,
}

fn page() -> Page {
    let n_bytes = Rules::APPLE.page_bytes;
    Page { memory: vec![0; 2 * n_bytes], n_bytes }
}

impl Page {
    fn start(&self) -> *mut std::ffi::c_void {
        let start = self.memory.as_ptr().cast_mut();
        start.wrapping_add(start.align_offset(self.n_bytes)).cast()
    }
}
