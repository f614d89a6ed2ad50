//! How two processes that have a link come to have one over shared memory: one opens a Unix socket in a directory of
//! its own and says over the link where it is; the other calls there, and gets the memory. Both check that the caller is
//! of their own user, and one that it knows what was said over the link. Knows nothing of rings.
//!
//! ```text
//! offer                                    accept
//!     fine, path and token            →
//!                                          (connects, writes the token)
//!                                     ←    fine
//!     (checks user and token,
//!      sends the memory)
//!     fine                            →
//!                                          (checks and maps the memory)
//!                                     ←    fine
//! ```
//! Whoever fails says why instead of "fine", and both stay with the link they have. What is said on the socket is there
//! before the link tells of it, so nothing ever waits at the socket, and nobody else can keep it waiting.

use std::{
    fs,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::geteuid,
};
use tempfile::TempDir;

use super::{By, Memory, ShmLink, ShmStream};
use crate::{Link, LinkError, recv, send};

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 32;

/// What only the two ends of the link know: random bytes, used once.
pub type Token = [u8; TOKEN_BYTES];

/// Callers at the socket that are heard before the offer is given up.
const MAX_CALLERS: usize = 16;
/// Longest reason that is passed on, in bytes.
const MAX_REASON_BYTES: usize = 300;

/// Why there is no link over shared memory.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The link over which the two spoke failed, and is of no more use.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It cannot be had; the link over which the two spoke is as good as before.
    #[error("no shared memory with {peer}: {why}")]
    Declined {
        /// The other end.
        peer: String,
        /// What failed, here or there.
        why: String,
    },
}

/// Offers shared memory to the peer of `link`, which must call [`accept`]. Each of the peer's answers may take `timeout`.
/// The socket lives in a directory that is made inside of `directory` and is gone afterwards.
pub fn offer(
    link: &mut dyn Link,
    token: Token,
    directory: &Path,
    timeout: Duration,
) -> Result<ShmLink, HandoverError> {
    let mut talk = Talk { link, timeout };
    let door = talk.say(Door::open(directory, token))?;
    let path = door.path().into_os_string();
    talk.send(&[&token, path.as_bytes()].concat())?;
    talk.hear()?;
    let stream = talk.say(door.admit())?;
    talk.hear()?;
    Ok(talk.link_over(stream))
}

/// Takes up what the peer of `link` offers by [`offer`]. Each of the peer's answers may take `timeout`.
pub fn accept(link: &mut dyn Link, timeout: Duration) -> Result<ShmLink, HandoverError> {
    let mut talk = Talk { link, timeout };
    talk.hear()?;
    let offered = talk.recv()?;
    let socket = talk.say(call(&offered))?;
    talk.hear()?;
    let stream = talk.say(take(socket))?;
    Ok(talk.link_over(stream))
}

/// The conversation over the link that there is already.
struct Talk<'a> {
    link: &'a mut dyn Link,
    timeout: Duration,
}

impl Talk<'_> {
    /// Tells the peer how a step of ours went, and goes on if it went well.
    fn say<T>(&mut self, step: io::Result<T>) -> Result<T, HandoverError> {
        match step {
            Ok(done) => {
                self.send(b"")?;
                Ok(done)
            }
            Err(e) => {
                let why = e.to_string();
                self.send(&why.as_bytes()[..why.len().min(MAX_REASON_BYTES)])?;
                Err(self.declined(why))
            }
        }
    }

    /// Hears how the peer's step went.
    fn hear(&mut self) -> Result<(), HandoverError> {
        let mut reason = self.recv()?;
        if reason.is_empty() {
            return Ok(());
        }
        reason.truncate(MAX_REASON_BYTES);
        // it is going to be shown to people
        let reason = String::from_utf8_lossy(&reason).replace(char::is_control, " ");
        Err(self.declined(format!("it says: {reason}")))
    }

    fn send(&mut self, message: &[u8]) -> Result<(), HandoverError> {
        Ok(send(self.link, message, Some(self.timeout))?)
    }

    fn recv(&mut self) -> Result<Vec<u8>, HandoverError> {
        let mut message = Vec::new();
        recv(self.link, &mut message, Some(self.timeout))?;
        Ok(message)
    }

    fn declined(&self, why: String) -> HandoverError {
        HandoverError::Declined { peer: self.link.peer().into(), why }
    }

    fn link_over(self, stream: ShmStream) -> ShmLink {
        let mut link = ShmLink::over(stream, self.link.peer());
        link.set_spin(self.link.spin());
        link
    }
}

/// A listening socket that nobody but this user can reach.
struct Door {
    listener: UnixListener,
    directory: TempDir,
    token: Token,
}

impl Door {
    fn open(directory: &Path, token: Token) -> io::Result<Door> {
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("1f-").permissions(private).tempdir_in(directory)?;
        let listener = UnixListener::bind(socket_path(&directory))?;
        listener.set_nonblocking(true)?;
        Ok(Door { listener, directory, token })
    }

    fn path(&self) -> PathBuf {
        socket_path(&self.directory)
    }

    /// Gives memory to the one who knows the token. It has called and said so before this; all others are turned away.
    fn admit(self) -> io::Result<ShmStream> {
        let mut refused = None;
        for _ in 0..MAX_CALLERS {
            let caller = match self.listener.accept() {
                Ok((caller, _)) => caller,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            match self.check(&caller) {
                Ok(()) => return give(caller),
                Err(why) => refused = Some(why),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::new(ErrorKind::NotFound, "nobody called at the socket")))
    }

    fn check(&self, mut caller: &UnixStream) -> io::Result<()> {
        check_user(caller)?;
        caller.set_nonblocking(true)?;
        let mut token = [0; TOKEN_BYTES];
        match caller.read(&mut token) {
            Ok(TOKEN_BYTES) if token == self.token => Ok(()),
            _ => Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "the caller at the socket does not know the token",
            )),
        }
    }
}

fn socket_path(directory: &TempDir) -> PathBuf {
    directory.path().join("link")
}

/// Makes the memory and sends it.
fn give(socket: UnixStream) -> io::Result<ShmStream> {
    let (memory, file) = Memory::make()?;
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&socket, &[IoSlice::new(&[0])], &mut rights, SendFlags::empty())?;
    ShmStream::new(&memory, By::Maker, socket)
}

/// Connects to the socket that was offered and shows the token.
fn call(offered: &[u8]) -> io::Result<UnixStream> {
    let Some((token, path)) = offered.split_first_chunk::<TOKEN_BYTES>() else {
        let why = format!("not an offer: expected more than {TOKEN_BYTES} bytes, found {}", offered.len());
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let found = fs::symlink_metadata(path)?;
    // connecting only waits where the queue is full, and only our own user can fill this one
    if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() {
        let why = format!(
            "expected a socket of user {}, found one of user {}, {:?}",
            geteuid().as_raw(),
            found.uid(),
            found.file_type()
        );
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    let mut socket = UnixStream::connect(path)?;
    check_user(&socket)?;
    socket.set_nonblocking(true)?;
    socket.write_all(token)?;
    Ok(socket)
}

/// Receives the memory and maps it.
fn take(socket: UnixStream) -> io::Result<ShmStream> {
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::DONTWAIT; // the descriptor lives no longer than it takes to map it
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&socket, &mut [IoSliceMut::new(&mut [0])], &mut rights, flags)?;
    let files = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let Some(file) = files.flatten().next() else {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "expected a descriptor at the socket, found none",
        ));
    };
    ShmStream::new(&Memory::open(file)?, By::Guest, socket)
}

/// Whether the other end belongs to our own user.
fn check_user(socket: &UnixStream) -> io::Result<()> {
    let (expected, found) = (geteuid().as_raw(), user_of(socket)?);
    if expected == found {
        return Ok(());
    }
    let why = format!("the other end of the socket is another user's: expected {expected}, found {found}");
    Err(io::Error::new(ErrorKind::PermissionDenied, why))
}

#[cfg(target_os = "linux")]
fn user_of(socket: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

#[cfg(target_vendor = "apple")]
fn user_of(socket: &UnixStream) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open as long as `socket` lives, and the pointers are to live variables.
    match unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) } {
        0 => Ok(user),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::MemoryLink;

    const PATIENCE: Duration = Duration::from_secs(60);
    const TOKEN: Token = [9; TOKEN_BYTES];

    fn door() -> Door {
        Door::open(&std::env::temp_dir(), TOKEN).unwrap()
    }

    fn knock(door: &Door, token: &[u8]) -> UnixStream {
        let mut socket = UnixStream::connect(door.path()).unwrap();
        socket.write_all(token).unwrap();
        socket
    }

    #[test]
    fn strangers_are_turned_away_and_the_peer_is_let_in() {
        let door = door();
        let _silent = knock(&door, &[]);
        let _short = knock(&door, &TOKEN[1..]);
        let _wrong = knock(&door, &[8; TOKEN_BYTES]);
        let peer = knock(&door, &TOKEN);
        let _late = knock(&door, &TOKEN);
        let _near = door.admit().unwrap();
        assert!(take(peer).is_ok());
    }

    #[test]
    fn an_offer_that_nobody_takes_up_says_so() {
        let why = |door: Door| door.admit().err().unwrap().to_string();
        assert!(why(door()).contains("nobody called"));
        let door = door();
        let crowd: Vec<_> = (0..MAX_CALLERS).map(|_| knock(&door, &[])).collect();
        let _peer_behind_them = knock(&door, &TOKEN);
        assert!(why(door).contains("does not know the token"));
        drop(crowd);
    }

    #[test]
    fn the_socket_is_private_and_gone_afterwards() {
        let door = door();
        let (path, directory) = (door.path(), door.directory.path().to_owned());
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        drop(door);
        assert!(!path.exists() && !directory.exists());
    }

    #[test]
    fn only_a_socket_of_our_own_user_is_called() {
        let call_at = |path: &Path| {
            let offered = [&TOKEN[..], path.as_os_str().as_bytes()].concat();
            call(&offered).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(call_at(Path::new("/nowhere/at/all")).contains("No such file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(call_at(file.path()).contains("expected a socket of user"));
        assert!(call(&TOKEN[1..]).err().unwrap().to_string().contains("not an offer"));
        let door = door();
        assert_eq!(call_at(&door.path()), "");
        if geteuid().is_root() {
            std::os::unix::fs::chown(door.path(), Some(65_534), None).unwrap();
            assert!(call_at(&door.path()).contains("found one of user 65534"));
        }
    }

    #[test]
    fn what_comes_without_memory_is_refused() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(&[0]).unwrap();
        assert!(take(near).err().unwrap().to_string().contains("expected a descriptor"));
        let (near, _silent) = UnixStream::pair().unwrap();
        assert_eq!(take(near).err().unwrap().kind(), ErrorKind::WouldBlock);
    }

    /// Both ends learn why, and the link between them still carries messages.
    #[test]
    fn a_failed_offer_leaves_the_old_link_as_it_was() {
        let (mut a, mut b) = MemoryLink::pair();
        thread::scope(|s| {
            let guest = s.spawn(|| accept(&mut b, PATIENCE).err().unwrap().to_string());
            let here =
                offer(&mut a, TOKEN, Path::new("/nowhere/at/all"), PATIENCE).err().unwrap().to_string();
            let there = guest.join().unwrap();
            assert!(here.contains("no shared memory with memory peer b: No such file"), "{here}");
            assert!(there.contains("it says: No such file"), "{there}");
        });
        send(&mut a, b"still here", Some(PATIENCE)).unwrap();
        let mut message = Vec::new();
        recv(&mut b, &mut message, Some(PATIENCE)).unwrap();
        assert_eq!(message, b"still here");
    }

    #[test]
    fn a_guest_that_cannot_call_leaves_the_old_link_as_it_was() {
        let (mut a, mut b) = MemoryLink::pair();
        thread::scope(|s| {
            let maker =
                s.spawn(|| offer(&mut a, TOKEN, &std::env::temp_dir(), PATIENCE).err().unwrap().to_string());
            let mut talk = Talk { link: &mut b, timeout: PATIENCE };
            talk.hear().unwrap();
            talk.recv().unwrap();
            talk.send(b"other \x1b[31mhost").unwrap();
            assert!(maker.join().unwrap().ends_with("it says: other  [31mhost"));
        });
        send(&mut b, b"still here", Some(PATIENCE)).unwrap();
        recv(&mut a, &mut Vec::new(), Some(PATIENCE)).unwrap();
    }

    #[test]
    fn a_link_that_fails_is_told_apart() {
        let (mut a, b) = MemoryLink::pair();
        drop(b);
        let e = offer(&mut a, TOKEN, &std::env::temp_dir(), PATIENCE).err().unwrap();
        assert!(matches!(e, HandoverError::Link(LinkError::Closed { .. })), "{e}");
    }
}
