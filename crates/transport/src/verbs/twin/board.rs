//! What the two devices hold, which rules apply to it, and the packets between them. Decides; who calls it, and where the
//! library's structures are, is known elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::c_int,
    time::Instant,
};

use rustix::io::Errno;

use super::{Rules, calls::Piece};
use crate::{
    medium::{Chance, Medium, Way},
    verbs::{
        PACKET_BYTES,
        sys::{self, Gid, PortAttr, QpAttr, QpInitAttr, Wc},
    },
};

/// How a request ends that was longer than its receive.
const STATUS_LENGTH: u32 = 1;
/// The port's table of addresses: which entry holds the IPv4 address. Not 1, so that nobody counts on that.
const N_GIDS: c_int = 4;
const IPV4_GID: u8 = 2;

/// A call's result: what it makes, or the error number.
pub(super) type Answer<T> = Result<T, Errno>;

pub(super) struct Board {
    rules: Rules,
    ends: [End; 2],
    ways: [Way; 2],
    /// Packets on their way from each end.
    flying: [VecDeque<Flying>; 2],
    /// A packet of each end that waits to be overtaken.
    overtaken: [Option<Flying>; 2],
    is_pulled: bool,
    n_ids: u32,
    pub(super) loss: Chance,
    pub(super) reorder: Chance,
    pub(super) damage: Chance,
    pub(super) n_sent: [u64; 2],
    pub(super) n_bytes_sent: [u64; 2],
    pub(super) violations: Vec<String>,
}

/// What was made on a device, by number.
#[derive(Default)]
struct End {
    domains: BTreeSet<u32>,
    regions: BTreeMap<u32, Region>,
    queues: BTreeMap<u32, Queue>,
    pairs: BTreeMap<u32, QueuePair>,
}

struct Region {
    domain: u32,
    start: usize,
    n_bytes: usize,
}

struct Queue {
    n_room: usize,
    done: VecDeque<Wc>,
}

struct QueuePair {
    domain: u32,
    queue: u32,
    n_sends: usize,
    n_receives: usize,
    state: u32,
    peer: Option<u32>,
    receives: VecDeque<Request>,
    /// Sends whose completions were not taken yet.
    sends: VecDeque<Request>,
}

/// A request that was posted, which owns its piece of memory until it ends.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) piece: Piece,
    pub(super) key: u32,
}

struct Flying {
    arrives_at: Instant,
    from: u32,
    to: u32,
    bytes: Vec<u8>,
}

impl Board {
    pub(super) fn new(rules: Rules, medium: Medium, seed: u64) -> Board {
        Board {
            rules,
            ends: Default::default(),
            ways: [Way::new(medium, seed), Way::new(medium, !seed)],
            flying: Default::default(),
            overtaken: Default::default(),
            is_pulled: false,
            n_ids: 0,
            loss: Chance::default(),
            reorder: Chance::default(),
            damage: Chance::default(),
            n_sent: [0; 2],
            n_bytes_sent: [0; 2],
            violations: Vec::new(),
        }
    }

    pub(super) fn plug(&mut self, is_in: bool) {
        self.is_pulled = !is_in;
        self.flying.iter_mut().for_each(VecDeque::clear);
        self.overtaken = Default::default();
    }

    /// What the port says of itself: a Thunderbolt 5 port's words.
    pub(super) fn port(&self) -> PortAttr {
        PortAttr {
            state: if self.is_pulled { 1 } else { 4 },
            active_mtu: 5,
            active_width: 4,
            active_speed: 4,
            link_layer: 100,
            gid_tbl_len: N_GIDS,
            ..PortAttr::default()
        }
    }

    /// An entry of the table of addresses.
    pub(super) fn gid(&self, end: usize, index: c_int) -> Gid {
        let last = end as u8 + 1;
        match u8::try_from(index) {
            Ok(0) => Gid([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
            Ok(IPV4_GID) => Gid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 169, 254, 1, last]),
            _ => Gid::default(),
        }
    }

    pub(super) fn alloc_pd(&mut self, end: usize) -> Answer<u32> {
        let limit = self.rules.n_domains;
        self.check(self.ends[end].domains.len() < limit, Errno::NOMEM, || {
            format!("more than {limit} domains")
        })?;
        let id = self.next_id();
        self.ends[end].domains.insert(id);
        Ok(id)
    }

    pub(super) fn dealloc_pd(&mut self, end: usize, id: u32) -> Answer<()> {
        let of = &self.ends[end];
        let in_use = of.regions.values().any(|r| r.domain == id) || of.pairs.values().any(|p| p.domain == id);
        self.ends[end].domains.remove(&id);
        self.check(!in_use, Errno::BUSY, || "a domain given back before what is in it".into())
    }

    pub(super) fn reg_mr(
        &mut self,
        end: usize,
        domain: u32,
        start: usize,
        n_bytes: usize,
        access: c_int,
    ) -> Answer<u32> {
        let Rules { n_regions, page_bytes, .. } = self.rules;
        let is_aligned =
            start.is_multiple_of(page_bytes) && n_bytes.is_multiple_of(page_bytes) && n_bytes > 0;
        self.check(is_aligned, Errno::INVAL, || {
            format!("a region of {n_bytes} bytes at {start:#x} is not whole pages")
        })?;
        self.check(access == sys::ACCESS_LOCAL_WRITE, Errno::INVAL, || {
            format!("a region with access {access:#x}")
        })?;
        let has_room = self.ends[end].regions.len() < n_regions;
        self.check(has_room, Errno::NOMEM, || format!("more than {n_regions} regions"))?;
        let id = self.next_id();
        self.ends[end].regions.insert(id, Region { domain, start, n_bytes });
        Ok(id)
    }

    pub(super) fn dereg_mr(&mut self, end: usize, id: u32) -> Answer<()> {
        self.ends[end].regions.remove(&id);
        let mut n_posted = 0;
        for pair in self.ends[end].pairs.values_mut() {
            for requests in [&mut pair.receives, &mut pair.sends] {
                let n_before = requests.len();
                // whatever happens next, nothing may be written to memory that is going to be freed
                requests.retain(|request| request.key != id);
                n_posted += n_before - requests.len();
            }
        }
        self.check(n_posted == 0, Errno::BUSY, || {
            format!("a region given back with {n_posted} requests posted")
        })
    }

    pub(super) fn create_cq(&mut self, end: usize, n_room: c_int) -> Answer<u32> {
        let n_room = usize::try_from(n_room).ok().filter(|n| *n > 0).ok_or(Errno::INVAL)?;
        let id = self.next_id();
        self.ends[end].queues.insert(id, Queue { n_room, done: VecDeque::new() });
        Ok(id)
    }

    pub(super) fn destroy_cq(&mut self, end: usize, id: u32) -> Answer<()> {
        let in_use = self.ends[end].pairs.values().any(|pair| pair.queue == id);
        self.ends[end].queues.remove(&id);
        self.check(!in_use, Errno::BUSY, || "a completion queue given back before its queue pair".into())
    }

    pub(super) fn create_qp(
        &mut self,
        end: usize,
        domain: u32,
        queue: u32,
        attr: &QpInitAttr,
    ) -> Answer<u32> {
        let (Rules { n_queue_pairs, n_requests, .. }, cap) = (self.rules, attr.cap);
        let is_uc = attr.qp_type == sys::QP_TYPE_UC;
        self.check(is_uc, Errno::INVAL, || format!("a queue pair of type {}, not UC", attr.qp_type))?;
        let sges = [cap.max_send_sge, cap.max_recv_sge];
        self.check(sges == [1, 1], Errno::INVAL, || format!("{sges:?} pieces a request, not one"))?;
        self.check(cap.max_inline_data == 0, Errno::INVAL, || "inline data".into())?;
        let n = cap.max_send_wr.saturating_add(cap.max_recv_wr);
        self.check(n <= n_requests, Errno::NOMEM, || {
            format!("{n} requests of a queue pair, over {n_requests}")
        })?;
        let has_room = self.ends[end].pairs.len() < n_queue_pairs;
        self.check(has_room, Errno::NOMEM, || format!("more than {n_queue_pairs} queue pairs"))?;
        let id = self.next_id();
        let pair = QueuePair {
            domain,
            queue,
            n_sends: cap.max_send_wr as usize,
            n_receives: cap.max_recv_wr as usize,
            state: 0,
            peer: None,
            receives: VecDeque::new(),
            sends: VecDeque::new(),
        };
        self.ends[end].pairs.insert(id, pair);
        Ok(id)
    }

    pub(super) fn modify_qp(&mut self, end: usize, id: u32, attr: &QpAttr, mask: c_int) -> Answer<()> {
        let expected_mask = match attr.state {
            sys::STATE_INIT => sys::MASK_INIT,
            sys::STATE_RTR => sys::MASK_RTR,
            _ => sys::MASK_RTS,
        };
        let state = self.ends[end].pairs.get(&id).ok_or(Errno::INVAL)?.state;
        let is_next = attr.state == state + 1 && mask == expected_mask;
        let found = attr.state;
        self.check(is_next, Errno::INVAL, || {
            format!("state {found} with mask {mask:#x} after state {state}")
        })?;
        if attr.state == sys::STATE_INIT {
            let is_right = attr.port_num == 1 && attr.access_flags == sys::ACCESS_LOCAL_WRITE;
            self.check(is_right, Errno::INVAL, || {
                "another port than 1, or another access than local".into()
            })?;
        }
        if attr.state == sys::STATE_RTR {
            self.check_route(end, attr)?;
            if self.is_pulled || attr.ah.route.dgid.0 != self.gid(1 - end, c_int::from(IPV4_GID)).0 {
                return Err(Errno::TIMEDOUT);
            }
        }
        let pair = self.ends[end].pairs.get_mut(&id).ok_or(Errno::INVAL)?;
        pair.state = attr.state;
        if attr.state == sys::STATE_RTR {
            pair.peer = Some(attr.dest_qp_num);
        }
        Ok(())
    }

    fn check_route(&mut self, end: usize, attr: &QpAttr) -> Answer<()> {
        let (route, mtu) = (attr.ah.route, attr.path_mtu);
        let own = self.gid(end, c_int::from(route.sgid_index)).0;
        let has_ipv4 = std::net::Ipv6Addr::from(own).to_ipv4_mapped().is_some();
        self.check(has_ipv4, Errno::INVAL, || format!("address {} holds no IPv4 address", route.sgid_index))?;
        let is_near = route.hop_limit == 1 && attr.ah.is_global == 1 && attr.ah.port_num == 1;
        self.check(is_near, Errno::INVAL, || "a route that leaves the cable".into())?;
        self.check(mtu == 5, Errno::INVAL, || format!("packets of size {mtu}, not 5 (4096 bytes)"))
    }

    pub(super) fn destroy_qp(&mut self, end: usize, id: u32) -> Answer<()> {
        self.ends[end].pairs.remove(&id).map(drop).ok_or(Errno::INVAL)
    }

    /// Nothing of a device may be left when it is closed.
    pub(super) fn close(&mut self, end: usize) -> Answer<()> {
        let End { domains, regions, queues, pairs } = std::mem::take(&mut self.ends[end]);
        let left = [domains.len(), regions.len(), queues.len(), pairs.len()];
        self.check(left == [0; 4], Errno::BUSY, || {
            format!("a device closed with {left:?} domains, regions, completion queues and queue pairs")
        })
    }

    pub(super) fn post_recv(&mut self, end: usize, id: u32, request: Request) -> Answer<()> {
        self.check_piece(end, id, &request)?;
        let limit = self.rules.n_receives;
        let pair = self.ends[end].pairs.get(&id).ok_or(Errno::INVAL)?;
        let (n, n_own, state) = (pair.receives.len(), pair.n_receives, pair.state);
        self.check(state >= sys::STATE_INIT, Errno::INVAL, || format!("a receive in state {state}"))?;
        self.check(n < n_own, Errno::NOMEM, || format!("more receives than the queue pair's {n_own}"))?;
        self.check(n < limit, Errno::NOMEM, || format!("more than {limit} receives posted"))?;
        if let Some(pair) = self.ends[end].pairs.get_mut(&id) {
            pair.receives.push_back(request);
        }
        Ok(())
    }

    pub(super) fn post_send(&mut self, end: usize, id: u32, opcode: u32, request: Request) -> Answer<()> {
        self.check_piece(end, id, &request)?;
        let limit = self.rules.max_message_bytes;
        let pair = self.ends[end].pairs.get(&id).ok_or(Errno::INVAL)?;
        let (n, n_own, state, peer) = (pair.sends.len(), pair.n_sends, pair.state, pair.peer);
        self.check(opcode == sys::OPCODE_SEND, Errno::INVAL, || format!("operation {opcode}, not SEND"))?;
        self.check(state == sys::STATE_RTS, Errno::INVAL, || format!("a send in state {state}"))?;
        self.check(n < n_own, Errno::NOMEM, || format!("more sends than the queue pair's {n_own}"))?;
        let n_bytes = request.piece.len();
        self.check(n_bytes <= limit, Errno::INVAL, || format!("a message of {n_bytes} bytes, over {limit}"))?;
        let (bytes, wr_id) = (request.piece.read(), request.id);
        if let Some(pair) = self.ends[end].pairs.get_mut(&id) {
            pair.sends.push_back(request);
        }
        self.n_sent[end] += 1;
        self.n_bytes_sent[end] += n_bytes as u64;
        self.fly(end, id, peer.unwrap_or_default(), bytes);
        // sent is not received
        self.complete(end, id, Wc { wr_id, ..Wc::default() });
        Ok(())
    }

    /// One request at a time, with one piece.
    pub(super) fn check_one(&mut self, n_pieces: c_int, is_last: bool) -> Answer<()> {
        self.check(n_pieces == 1, Errno::INVAL, || format!("a request of {n_pieces} pieces, not one"))?;
        self.check(is_last, Errno::INVAL, || "a list of requests, not one".into())
    }

    /// The device reads and writes registered memory only, each piece for one request at a time.
    fn check_piece(&mut self, end: usize, id: u32, request: &Request) -> Answer<()> {
        let (start, n_bytes) = (request.piece.start(), request.piece.len());
        let of = &self.ends[end];
        let pair = of.pairs.get(&id).ok_or(Errno::INVAL)?;
        let is_inside = of.regions.get(&request.key).is_some_and(|region| {
            region.domain == pair.domain
                && start >= region.start
                && start + n_bytes <= region.start + region.n_bytes
        });
        let mut posted = pair.receives.iter().chain(&pair.sends).map(|other| &other.piece);
        let is_posted = posted.any(|p| p.start() < start + n_bytes && start < p.start() + p.len());
        self.check(is_inside, Errno::INVAL, || format!("{n_bytes} bytes outside of region {}", request.key))?;
        self.check(!is_posted, Errno::INVAL, || format!("{n_bytes} bytes that are posted already"))
    }

    /// Takes what is done, at most `n`.
    pub(super) fn poll(&mut self, end: usize, queue: u32, n: usize) -> Answer<Vec<Wc>> {
        let of = &mut self.ends[end];
        let done = &mut of.queues.get_mut(&queue).ok_or(Errno::INVAL)?.done;
        let n = n.min(done.len());
        let taken: Vec<Wc> = done.drain(..n).collect();
        for pair in of.pairs.values_mut().filter(|pair| pair.queue == queue) {
            pair.sends.retain(|send| taken.iter().all(|wc| wc.wr_id != send.id));
        }
        Ok(taken)
    }

    /// Lets everything happen that is due.
    pub(super) fn run(&mut self, now: Instant) {
        for from in [0, 1] {
            while self.flying[from].front().is_some_and(|packet| packet.arrives_at <= now) {
                if let Some(packet) = self.flying[from].pop_front() {
                    self.arrive(1 - from, packet);
                }
            }
        }
    }

    /// A packet leaves, and what may happen to it happens.
    fn fly(&mut self, end: usize, from: u32, to: u32, mut bytes: Vec<u8>) {
        let now = Instant::now();
        self.ways[end].begin();
        let arrives_at = self.ways[end].arrival(now, bytes.len());
        let (is_lost, is_overtaken) = (self.loss.strikes(), self.reorder.strikes());
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle)
            && self.damage.strikes()
        {
            *byte ^= 1;
        }
        if is_lost || self.is_pulled {
            return;
        }
        let packet = Flying { arrives_at, from, to, bytes };
        if is_overtaken && self.overtaken[end].is_none() {
            self.overtaken[end] = Some(packet);
            return;
        }
        self.flying[end].push_back(packet);
        if let Some(late) = self.overtaken[end].take() {
            self.flying[end].push_back(Flying { arrives_at, ..late });
        }
    }

    /// A packet for each queue pair at the other end that hears one here.
    pub(super) fn forge(&mut self, from: usize, bytes: Vec<u8>) {
        let heard = |(to, pair): (&u32, &QueuePair)| Some((pair.peer?, *to));
        let heard: Vec<_> = self.ends[1 - from].pairs.iter().filter_map(heard).collect();
        for (peer, to) in heard {
            self.arrive(
                1 - from,
                Flying { arrives_at: Instant::now(), from: peer, to, bytes: bytes.clone() },
            );
        }
    }

    fn arrive(&mut self, end: usize, packet: Flying) {
        let Some(pair) = self.ends[end].pairs.get_mut(&packet.to) else { return };
        if pair.state < sys::STATE_RTR || pair.peer != Some(packet.from) {
            return;
        }
        let n_bytes = packet.bytes.len();
        let Some(receive) = pair.receives.pop_front() else {
            self.violations
                .push(format!("{n_bytes} bytes arrived without a receive: a Mac loses them silently"));
            return;
        };
        let n_packets = |n_bytes: usize| n_bytes.div_ceil(PACKET_BYTES).max(1);
        let (expected, found) = (n_packets(receive.piece.len()), n_packets(n_bytes));
        let mut wc = Wc { wr_id: receive.id, byte_len: n_bytes as u32, ..Wc::default() };
        if expected != found || n_bytes > receive.piece.len() {
            self.violations
                .push(format!("{found} packets ({n_bytes} bytes) arrived for a receive of {expected}"));
            wc.status = STATUS_LENGTH;
        } else {
            receive.piece.write(&packet.bytes);
        }
        self.complete(end, packet.to, wc);
    }

    fn complete(&mut self, end: usize, pair: u32, wc: Wc) {
        let of = &mut self.ends[end];
        let queue = of.pairs.get(&pair).and_then(|pair| of.queues.get_mut(&pair.queue));
        let Some(queue) = queue else { return };
        queue.done.push_back(wc);
        let (n, n_room) = (queue.done.len(), queue.n_room);
        if n > n_room {
            self.violations.push(format!("{n} completions in a queue of {n_room}"));
        }
    }

    fn check(&mut self, holds: bool, errno: Errno, broken: impl FnOnce() -> String) -> Answer<()> {
        if holds {
            return Ok(());
        }
        self.violations.push(broken());
        Err(errno)
    }

    fn next_id(&mut self) -> u32 {
        self.n_ids += 1;
        self.n_ids
    }
}
