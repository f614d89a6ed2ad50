//! The link benchmark: between this machine and another, over verbs where both ends have it and over TCP otherwise, or of this
//! machine with itself. Says what was measured and over what; prints nothing.

use std::{
    env, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use transport::{
    Link, LinkError, TcpLink,
    shm::{self, HandoverError},
    verbs::{Device, Limits, Upgrade, Verbs, VerbsError, upgrade},
};
use wire::handshake::HandshakeError;

use super::{
    look::look,
    measure::{self, BenchRow, Effort},
    meet,
    rules::{Finding, LinkFacts, judge},
};
use crate::{
    SecretLine,
    door::{Door, Knock},
    secret::nonce,
};

/// The port at which an end of the benchmark listens unless told otherwise.
pub const DEFAULT_BENCH_PORT: u16 = 7710;

/// How often the door is looked at, in milliseconds.
const POLL_MS: u64 = 20;
/// Time for each step towards a better link, in seconds.
const UPGRADE_TIMEOUT_S: u64 = 10;

/// A link and what it gives.
#[derive(Clone, Debug)]
pub struct FabricBench {
    /// Who is at the other end.
    pub peer: String,
    /// What kind of link it is.
    pub link: String,
    /// Why it is no better one, if somebody tried.
    pub note: Option<String>,
    /// What limits it.
    pub findings: Vec<Finding>,
    /// One for each message size.
    pub rows: Vec<BenchRow>,
}

/// Why a link could not be measured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each is
pub enum FabricError {
    #[error(
        "cannot find {peer}: {source}\nhint: write it as HOST:PORT, such as 192.168.1.10:{DEFAULT_BENCH_PORT}"
    )]
    Unknown { peer: String, source: io::Error },
    #[error(
        "cannot reach {peer}: {source}\n\
         hint: start `onefold fabric listen` there first; a firewall may be in the way"
    )]
    Connect { peer: String, source: io::Error },
    #[error("{peer}: {source}{}", handshake_hint(.source))]
    Handshake { peer: String, source: HandshakeError },
    #[error(
        "{peer}: expected this version of the benchmark, found {found}\nhint: both machines need the same onefold"
    )]
    Greeting { peer: String, found: String },
    #[error("cannot listen on {address}: {source}\nhint: choose another port")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{peer} went away in the middle: {source}\nhint: its own output says why")]
    Io { peer: String, source: io::Error },
    #[error("{source}\nhint: the other end's own output says why")]
    Link { source: LinkError },
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    #[error("cannot list this machine's interfaces: {0}")]
    Look(io::Error),
    #[error(transparent)]
    Memory(#[from] HandoverError),
    #[error("cannot make a socket of this machine with itself: {0}")]
    Loopback(io::Error),
    #[error("a thread of the benchmark panicked")]
    Panicked,
}

impl From<LinkError> for FabricError {
    fn from(source: LinkError) -> FabricError {
        FabricError::Link { source }
    }
}

fn handshake_hint(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Refused { .. } => "\nhint: the secret file must hold the same line on every machine",
        HandshakeError::Wire(_) => {
            "\nhint: is it an `onefold fabric listen` of the same version, and not measuring with somebody else?"
        }
    }
}

/// Answers benchmarks of other machines, one after the other and for ever. `tell` hears where it listens, who came, and who
/// was turned away and why.
pub fn serve_bench(
    address: SocketAddr,
    secret: &SecretLine,
    mut tell: impl FnMut(String),
) -> Result<(), FabricError> {
    let failed = |source| FabricError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let (secret, facts) = (secret.secret(), look().map_err(FabricError::Look)?);
    let mut door = Door::new(listener, move |stream| meet::hear(stream, &secret)).map_err(failed)?;
    tell(format!("listening on {}", door.address().map_err(failed)?));
    loop {
        let Some(Knock { from, entry }) = door.next(Duration::from_millis(POLL_MS)).map_err(failed)? else {
            continue;
        };
        match entry {
            Ok((stream, ())) => match answer_one(stream, from, &facts) {
                Ok(link) => tell(format!("{from}: measured over {link}")),
                Err(why) => tell(format!("warning: {why}")),
            },
            Err(why) => tell(format!("warning: turned away a connection from {from}: {why}")),
        }
    }
}

/// Measures the link to a machine that listens; `tell` hears what it is before the rows come.
pub fn bench_peer(
    peer: &str,
    secret: &SecretLine,
    effort: Effort,
    mut tell: impl FnMut(&str),
) -> Result<FabricBench, FabricError> {
    let facts = look().map_err(FabricError::Look)?;
    let stream = meet::call(peer, &secret.secret())?;
    let broken = |source| FabricError::Io { peer: peer.to_owned(), source };
    let local = stream.local_addr().map_err(broken)?.ip();
    let floors = measure::ask_floor(&stream, effort).map_err(broken)?;
    let Best { mut link, kind, note, findings } = best_link(stream, peer, local, &facts)?;
    tell(&kind);
    let rows = measure::ask(link.as_mut(), effort, &floors, |row| tell(&told(row)))?;
    link.close();
    Ok(FabricBench { peer: peer.to_owned(), link: kind, note, findings, rows })
}

/// Measures this machine with itself, two threads over shared memory and over TCP.
pub fn bench_here(effort: Effort, mut tell: impl FnMut(&str)) -> Result<Vec<FabricBench>, FabricError> {
    let bench = |link: &str, rows| FabricBench {
        peer: "this machine".to_owned(),
        link: link.to_owned(),
        note: None,
        findings: Vec::new(),
        rows,
    };
    let shared = over_memory(effort, |row| tell(&format!("shared memory, {}", told(row))))?;
    let tcp = over_loopback(effort, |row| tell(&format!("tcp, {}", told(row))))?;
    Ok(vec![bench("shared memory", shared), bench("tcp over loopback", tcp)])
}

/// A row on its own, while the others are measured.
fn told(row: &BenchRow) -> String {
    format!("{} bytes: {:.1} us", row.n_bytes, row.latency_us_p50)
}

fn answer_one(stream: TcpStream, from: SocketAddr, facts: &LinkFacts) -> Result<String, FabricError> {
    let broken = |source| FabricError::Io { peer: from.to_string(), source };
    let local = stream.local_addr().map_err(broken)?.ip();
    measure::answer_floor(&stream).map_err(broken)?;
    let Best { mut link, kind, .. } = best_link(stream, &from.to_string(), local, facts)?;
    measure::answer(link.as_mut())?;
    Ok(kind)
}

/// The best link beside a stream, and what is to be said of it.
struct Best {
    link: Box<dyn Link>,
    kind: String,
    note: Option<String>,
    findings: Vec<Finding>,
}

/// Both ends come here with their end of a stream. The device is the one whose port has the stream's own address: a cable leads
/// from it to the peer.
fn best_link(stream: TcpStream, peer: &str, local: IpAddr, facts: &LinkFacts) -> Result<Best, FabricError> {
    let broken = |source| FabricError::Io { peer: peer.to_owned(), source };
    stream.set_nonblocking(false).map_err(broken)?;
    let device = device_at(local);
    let name = device.as_ref().map(|device| device.name().to_owned()).unwrap_or_default();
    let interface = facts.with_address(local);
    let report = interface.and_then(|at| judge(facts).into_iter().find(|report| report.name == at.name));
    let (over, findings) = match report {
        Some(report) => (format!("{} ({})", report.kind, report.name), report.findings),
        None => (format!("an interface with {local}"), Vec::new()),
    };
    let timeout = Duration::from_secs(UPGRADE_TIMEOUT_S);
    match upgrade(stream, peer, device, Limits::APPLE, timeout)? {
        Upgrade::Verbs(link) => {
            Ok(Best { link, kind: format!("verbs {name} beside {over}"), note: None, findings })
        }
        Upgrade::Tcp(stream, why) => {
            let link = Box::new(TcpLink::new(stream, peer).map_err(broken)?);
            Ok(Best { link, kind: format!("tcp over {over}"), note: Some(why.to_string()), findings })
        }
    }
}

fn device_at(local: IpAddr) -> Result<Arc<Device>, VerbsError> {
    let verbs = Verbs::load()?;
    let devices = verbs.probe();
    let has_it = |ports: &[transport::verbs::PortReport]| {
        ports.first().and_then(|port| port.ipv4()).is_some_and(|(_, address)| address == local)
    };
    let fitting = devices.iter().find(|device| device.ports.as_deref().is_ok_and(has_it));
    match fitting {
        Some(device) => verbs.open(&device.name),
        None => Err(VerbsError::NoDevice {
            expected: format!("with the address {local}"),
            found: devices.into_iter().map(|device| device.name).collect(),
        }),
    }
}

fn over_memory(effort: Effort, tell: impl FnMut(&BenchRow)) -> Result<Vec<BenchRow>, FabricError> {
    let (a, b) = sockets()?;
    let (mut a, mut b) = (tcp_link(a)?, tcp_link(b)?);
    let patience = Duration::from_secs(UPGRADE_TIMEOUT_S);
    thread::scope(|s| {
        let answering = s.spawn(move || -> Result<(), FabricError> {
            Ok(measure::answer(&mut shm::accept(&mut b, patience)?)?)
        });
        let mut link = shm::offer(&mut a, nonce(), &env::temp_dir(), patience)?;
        let rows = measure::ask(&mut link, effort, &[], tell)?;
        answering.join().map_err(|_| FabricError::Panicked)??;
        Ok(rows)
    })
}

fn over_loopback(effort: Effort, tell: impl FnMut(&BenchRow)) -> Result<Vec<BenchRow>, FabricError> {
    let (a, b) = sockets()?;
    thread::scope(|s| {
        let answering = s.spawn(move || -> Result<(), FabricError> {
            measure::answer_floor(&b).map_err(FabricError::Loopback)?;
            Ok(measure::answer(&mut tcp_link(b)?)?)
        });
        let floors = measure::ask_floor(&a, effort).map_err(FabricError::Loopback)?;
        let rows = measure::ask(&mut tcp_link(a)?, effort, &floors, tell)?;
        answering.join().map_err(|_| FabricError::Panicked)??;
        Ok(rows)
    })
}

fn tcp_link(stream: TcpStream) -> Result<TcpLink, FabricError> {
    TcpLink::new(stream, "this machine").map_err(FabricError::Loopback)
}

fn sockets() -> Result<(TcpStream, TcpStream), FabricError> {
    let pair = || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let a = TcpStream::connect(listener.local_addr()?)?;
        let b = listener.accept()?.0;
        a.set_nodelay(true)?;
        b.set_nodelay(true)?;
        Ok((a, b))
    };
    pair().map_err(FabricError::Loopback)
}
