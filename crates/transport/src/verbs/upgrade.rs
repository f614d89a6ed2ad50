//! How two ends of a TCP stream come to a verbs link: each says what it has, connects its queue pair, and sends one packet
//! over the cable; after each step both say how it went, so both use the link or both keep the stream. What fails is tried
//! again a few times, for a port that is set up in vain without end may wedge. Whoever calls this has authenticated the
//! stream and warns when it stays TCP.

use std::{
    hint,
    net::{IpAddr, Ipv4Addr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Device, Limits, VerbsError, VerbsLink,
    control::Talk,
    packet::{Header, Incoming, Kind},
    pair::{Address, Completions, Pair, QP_NUMBERS},
    sys::STATUS_SUCCESS,
};

/// Kinds of what the ends say: an address, that a step worked, that verbs are out of the question and why.
const ADDRESS: u8 = b'a';
const DONE: u8 = b'd';
const REFUSED: u8 = b'r';

/// How an address begins; the last byte is the version of everything that follows, packets included.
const MAGIC: [u8; 4] = *b"1fv\x02";
/// Bytes of an address with its beginning.
const ADDRESS_BYTES: usize = 31;
/// The header's number for an MTU of 4096 bytes, the largest.
const MAX_MTU: u8 = 5;

/// Queue pairs that are made for a link, one after the other, until the ends stay with their stream.
pub const MAX_ATTEMPTS: u32 = 2;
/// Time for the first packet over the cable, in milliseconds; it takes microseconds.
const GREET_MS: u64 = 4_000;

/// What became of a stream.
pub enum Upgrade {
    /// It stays open beside a link.
    Verbs(Box<VerbsLink>),
    /// It is as it was, at both ends, and this is why.
    Tcp(TcpStream, VerbsError),
}

/// Tries to put a verbs link beside an authenticated stream to a peer of that name, which does the same at its end. Without
/// a device an end still has to take part, with the reason for its having none. No step takes longer than `timeout`. If
/// the stream itself fails, nothing is left of it, and that is the error.
pub fn upgrade(
    stream: TcpStream,
    peer: impl Into<String>,
    device: Result<Arc<Device>, VerbsError>,
    limits: Limits,
    timeout: Duration,
) -> Result<Upgrade, VerbsError> {
    let parley = Parley { stream: &stream, peer: peer.into(), timeout };
    let agreed = parley.agree(device, limits)?;
    let peer = parley.peer;
    let broken = |source| VerbsError::Control { peer: peer.clone(), source };
    match agreed {
        Ok((pair, n_peer_receives)) => {
            let link = VerbsLink::new(pair, stream, peer.clone(), limits, n_peer_receives).map_err(broken)?;
            Ok(Upgrade::Verbs(Box::new(link)))
        }
        Err(why) => {
            stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None)).map_err(broken)?;
            Ok(Upgrade::Tcp(stream, why))
        }
    }
}

/// The two ends' agreement.
struct Parley<'a> {
    stream: &'a TcpStream,
    peer: String,
    timeout: Duration,
}

/// What became of one queue pair.
enum Attempt<T> {
    Linked(T),
    /// An end has none, and will have none.
    Refused(VerbsError),
    /// The two do not work together.
    Failed(VerbsError),
}

/// What an end says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    address: Address,
    n_receives: u32,
}

impl Parley<'_> {
    /// The queue pair, connected and tried, with the number of the peer's receives; or why both ends do without. The outer
    /// error is the stream's.
    fn agree(
        &self,
        device: Result<Arc<Device>, VerbsError>,
        limits: Limits,
    ) -> Result<Result<(Pair, u32), VerbsError>, VerbsError> {
        match device {
            Ok(device) => repeat(|| self.attempt(&device, limits)),
            Err(why) => {
                self.say(Err(&why))?;
                // whether the peer could do more makes no difference
                self.hear(ADDRESS)?.ok();
                Ok(Err(why))
            }
        }
    }

    /// One queue pair's way. Both ends see it end at the same step, so both try again or neither.
    fn attempt(&self, device: &Arc<Device>, limits: Limits) -> Result<Attempt<(Pair, u32)>, VerbsError> {
        let pair = ready(device, limits, self.address());
        let offer =
            pair.as_ref().map(|pair| Offer { address: pair.address(), n_receives: limits.n_receives });
        self.say(offer.map(|offer| (ADDRESS, offer.encode())))?;
        let heard = self.hear(ADDRESS)?;
        let mut pair = match pair {
            Ok(pair) => pair,
            Err(why) => return Ok(Attempt::Refused(why)),
        };
        let offer = match heard {
            Ok(text) => self.decode(&text)?,
            Err(refused) => return Ok(Attempt::Refused(refused)),
        };
        let connected = pair.connect(&offer.address);
        if let Err(why) = self.both(connected)? {
            return Ok(Attempt::Failed(why));
        }
        let greeted = self.greet(&mut pair, limits);
        Ok(match self.both(greeted)? {
            Ok(()) => Attempt::Linked((pair, offer.n_receives)),
            Err(why) => Attempt::Failed(why),
        })
    }

    /// The stream's own address, which says over which of the port's the link is to go.
    fn address(&self) -> Option<Ipv4Addr> {
        match self.stream.local_addr().ok()?.ip().to_canonical() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// Sends one packet and receives the peer's, so that a cable which carries nothing is noticed now.
    fn greet(&self, pair: &mut Pair, limits: Limits) -> Result<(), VerbsError> {
        let device = pair.device().name().to_owned();
        let call = |call| {
            let device = device.clone();
            move |source| VerbsError::Call { device, call, source }
        };
        let packet = limits.n_receives as usize;
        let greeting = Header { sequence: 0, n_reposted: 0, kind: Kind::Credit, n_bytes: 0 };
        let len = greeting.write(pair.packet(packet));
        pair.post_send(packet, len).map_err(call("ibv_post_send"))?;
        // at most half of what the peer waits for our verdict
        let timeout = Duration::from_millis(GREET_MS).min(self.timeout / 2);
        let (deadline, mut completions) = (Instant::now() + timeout, Completions::new());
        let (mut is_sent, mut is_heard) = (false, false);
        while !(is_sent && is_heard) {
            for index in 0..pair.poll(&mut completions).map_err(call("ibv_poll_cq"))? {
                let done = completions.get(index);
                if done.status != STATUS_SUCCESS {
                    let source = std::io::Error::other(format!("a packet ended with status {}", done.status));
                    return Err(call("ibv_post_send")(source));
                }
                is_sent |= done.packet == packet;
                if done.packet != packet {
                    let bytes = pair.packet(done.packet);
                    let n_bytes = done.n_bytes.min(bytes.len());
                    is_heard |= Incoming::default().take(&bytes[..n_bytes]) == Ok(greeting);
                    pair.post_recv(done.packet).map_err(call("ibv_post_recv"))?;
                }
            }
            if Instant::now() >= deadline {
                return Err(VerbsError::Silent { peer: self.peer.clone(), device, timeout });
            }
            hint::spin_loop();
        }
        Ok(())
    }

    /// Says how a step went here, hears how it went there; fine if it went well at both ends.
    fn both(&self, step: Result<(), VerbsError>) -> Result<Result<(), VerbsError>, VerbsError> {
        self.say(step.as_ref().map(|()| (DONE, Vec::new())))?;
        let heard = self.hear(DONE)?;
        Ok(step.and(heard.map(drop)))
    }

    fn say(&self, said: Result<(u8, Vec<u8>), &VerbsError>) -> Result<(), VerbsError> {
        let (kind, text) = said.unwrap_or_else(|why| (REFUSED, why.to_string().into_bytes()));
        let broken = |source| VerbsError::Control { peer: self.peer.clone(), source };
        Talk(self.stream).say(kind, &text, self.timeout).map_err(broken)
    }

    /// What the peer says; inside, that it refuses.
    fn hear(&self, expected: u8) -> Result<Result<Vec<u8>, VerbsError>, VerbsError> {
        let broken = |source| VerbsError::Control { peer: self.peer.clone(), source };
        let (kind, text) = Talk(self.stream).hear(self.timeout).map_err(broken)?;
        if kind == expected {
            return Ok(Ok(text));
        }
        if kind == REFUSED {
            let reason = String::from_utf8_lossy(&text).into_owned();
            return Ok(Err(VerbsError::Refused { peer: self.peer.clone(), reason }));
        }
        let expected = if expected == ADDRESS { "an address" } else { "how a step went" };
        Err(self.foreign(expected, format!("kind {kind:#04x}")))
    }

    fn decode(&self, text: &[u8]) -> Result<Offer, VerbsError> {
        let Ok(bytes) = <&[u8; ADDRESS_BYTES]>::try_from(text) else {
            return Err(self.foreign("an address of 31 bytes", format!("{} bytes", text.len())));
        };
        if bytes[..4] != MAGIC {
            return Err(self.foreign("version 2 of an address", format!("{:02x?}", &bytes[..4])));
        }
        Offer::decode(bytes)
            .ok_or_else(|| self.foreign("an address of a queue pair", format!("{bytes:02x?}")))
    }

    fn foreign(&self, expected: &'static str, found: String) -> VerbsError {
        VerbsError::Protocol { peer: self.peer.clone(), expected, found }
    }
}

impl Offer {
    fn encode(&self) -> Vec<u8> {
        let Address { qp_number, lid, mtu, gid } = self.address;
        let numbers = [qp_number.to_le_bytes(), self.n_receives.to_le_bytes()].concat();
        [&MAGIC[..], &numbers, &lid.to_le_bytes(), &[mtu], &gid].concat()
    }

    /// `None` for numbers that none can have.
    fn decode(bytes: &[u8; ADDRESS_BYTES]) -> Option<Offer> {
        let word = |at: usize| bytes[at..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let (qp_number, n_receives) = (word(4)?, word(8)?);
        let (lid, mtu) = (u16::from_le_bytes([bytes[12], bytes[13]]), bytes[14]);
        let gid = *bytes[15..].first_chunk()?;
        let receives = Limits::MIN_RECEIVES..=Limits::MAX_REQUESTS;
        let is_one = qp_number < QP_NUMBERS && (1..=MAX_MTU).contains(&mtu) && receives.contains(&n_receives);
        is_one.then_some(Offer { address: Address { qp_number, lid, mtu, gid }, n_receives })
    }
}

/// Attempts until one succeeds, none can, or there were enough. The outer error is the stream's.
fn repeat<T>(
    mut attempt: impl FnMut() -> Result<Attempt<T>, VerbsError>,
) -> Result<Result<T, VerbsError>, VerbsError> {
    let mut n_attempts = 0;
    loop {
        n_attempts += 1;
        match attempt()? {
            Attempt::Linked(link) => return Ok(Ok(link)),
            Attempt::Refused(why) => return Ok(Err(why)),
            Attempt::Failed(last) if n_attempts == MAX_ATTEMPTS => {
                return Ok(Err(VerbsError::GaveUp { n_attempts, last: Box::new(last) }));
            }
            Attempt::Failed(_) => {}
        }
    }
}

/// A queue pair with all its receives posted, so that the peer may send as soon as both are connected.
fn ready(device: &Arc<Device>, limits: Limits, address: Option<Ipv4Addr>) -> Result<Pair, VerbsError> {
    let mut pair = Pair::new(device, limits, address)?;
    for packet in 0..limits.n_receives as usize {
        let call = |source| VerbsError::Call { device: device.name().into(), call: "ibv_post_recv", source };
        pair.post_recv(packet).map_err(call)?;
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, thread};

    use super::{
        super::{Rules, control::tests::streams, twin},
        *,
    };
    use crate::Medium;

    const LONG: Duration = Duration::from_secs(60);

    fn offer() -> Offer {
        let gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 80, 1, 2];
        Offer { address: Address { qp_number: 0x010203, lid: 7, mtu: 5, gid }, n_receives: 32 }
    }

    fn no_device() -> VerbsError {
        VerbsError::NoDevice { expected: "rdma_en2".into(), found: vec![] }
    }

    #[test]
    fn an_address_is_golden() {
        let bytes = offer().encode();
        let golden = b"1fv\x02\x03\x02\x01\0\x20\0\0\0\x07\0\x05\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x50\x01\x02";
        assert_eq!(bytes, golden);
        assert_eq!(Offer::decode(golden), Some(offer()));
    }

    #[test]
    fn addresses_that_no_queue_pair_has_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = *offer().encode().first_chunk().unwrap();
            bytes[at] = byte;
            Offer::decode(&bytes)
        };
        assert!(with(14, 1).is_some());
        for (at, byte) in [(7, 1), (14, 0), (14, 6), (8, 3), (11, 1)] {
            assert_eq!(with(at, byte), None, "{at} {byte}");
        }
    }

    #[test]
    fn attempts_are_counted_and_end() {
        let run = |outcomes: &mut dyn FnMut(u32) -> Result<Attempt<u32>, VerbsError>| {
            let mut n = 0;
            let done = repeat(|| {
                n += 1;
                outcomes(n)
            });
            (n, done)
        };
        let failed = || Attempt::Failed(no_device());
        let (n, done) = run(&mut |n| Ok(if n < MAX_ATTEMPTS { failed() } else { Attempt::Linked(n) }));
        assert_eq!((n, done.unwrap().unwrap()), (MAX_ATTEMPTS, MAX_ATTEMPTS));
        let (n, done) = run(&mut |_| Ok(failed()));
        let why = done.unwrap().unwrap_err().to_string();
        assert!(n == MAX_ATTEMPTS && why.starts_with("gave up after 2 attempts: expected an RDMA"), "{why}");
        let (n, done) = run(&mut |_| Ok(Attempt::Refused(no_device())));
        assert!(n == 1 && matches!(done.unwrap(), Err(VerbsError::NoDevice { .. })));
        assert!(matches!(run(&mut |_| Err(no_device())), (1, Err(_))));
    }

    #[test]
    fn without_devices_both_ends_keep_the_stream_and_know_why() {
        let (a, b) = streams();
        let other = thread::spawn(move || upgrade(b, "a", Err(no_device()), Limits::APPLE, LONG));
        let one = upgrade(a, "b", Err(no_device()), Limits::APPLE, LONG).unwrap();
        for end in [one, other.join().unwrap().unwrap()] {
            let Upgrade::Tcp(stream, why) = end else { panic!("a link without a device") };
            assert!(matches!(why, VerbsError::NoDevice { .. }), "{why}");
            assert!(stream.read_timeout().unwrap().is_none() && stream.write_timeout().unwrap().is_none());
        }
    }

    /// The stream is no use for messages either: their format may be another too.
    #[test]
    fn a_peer_of_another_version_is_an_error_that_names_both() {
        let ([a, _b], _cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
        let (near, far) = streams();
        let mut address = offer().encode();
        address[3] = 1;
        Talk(&far).say(ADDRESS, &address, LONG).unwrap();
        let e = upgrade(near, "rank 1", Ok(a), Limits::APPLE, LONG).err().unwrap();
        let told = "rank 1: agreeing on a verbs link failed: expected version 2 of an address, found [31, 66, 76, 01]";
        assert_eq!(e.to_string(), told);
    }

    /// It says where it is and then nothing more.
    #[test]
    fn a_peer_that_falls_silent_ends_at_the_deadline() {
        let ([a, _b], _cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
        let (near, far) = streams();
        Talk(&far).say(ADDRESS, &offer().encode(), LONG).unwrap();
        let e = upgrade(near, "rank 1", Ok(a), Limits::APPLE, Duration::from_millis(30)).err().unwrap();
        assert!(
            matches!(&e, VerbsError::Control { source, .. } if source.kind() == ErrorKind::TimedOut),
            "{e}"
        );
    }

    #[test]
    fn a_stranger_is_an_error() {
        use std::io::Write;
        for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"x\0\0", b""] {
            let (a, mut raw) = streams();
            raw.write_all(words).unwrap();
            drop(raw);
            let e = upgrade(a, "port 80", Err(no_device()), Limits::APPLE, LONG).err().unwrap();
            assert!(e.to_string().starts_with("port 80: agreeing on a verbs link failed: "), "{e}");
        }
    }
}
