//! How a rank's process ends when somebody wants it to: the serving process, which closes the connection, or a signal. What
//! its links hold is given back first, in order, for a device may keep what a dead process had; and in bounded time,
//! whatever the engine's thread is doing. Knows no links by kind.

use std::{
    io,
    os::fd::OwnedFd,
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use collective::SharedWorld;
use rustix::net::{Shutdown, shutdown};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Time for a process to end in good order, in milliseconds; a wedged device may never let it.
const LEAVE_MS: u64 = 2_000;

/// The way out, for several threads.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<State>);

#[derive(Default)]
struct State {
    has_begun: AtomicBool,
    /// Sockets whose end wakes a thread that waits for a peer.
    sockets: Mutex<Vec<OwnedFd>>,
    /// What the links belong to. Locked while they are made.
    world: Mutex<Option<SharedWorld>>,
}

impl Leaving {
    /// To be called before links are made over these sockets; what it returns is held until they are.
    pub(super) fn begin_to_link(&self, sockets: Vec<OwnedFd>) -> Linking<'_> {
        let linking = Linking { state: &self.0, world: lock(&self.0.world) };
        *lock(&self.0.sockets) = sockets;
        linking
    }

    /// Has SIGTERM and SIGINT end the process from now on; `last_words` is told which of them came.
    pub(super) fn on_signals(
        &self,
        last_words: impl FnOnce(&'static str) + Send + 'static,
    ) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut terminated, mut interrupted) = {
            let _context = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let leaving = self.clone();
        thread::spawn(move || {
            let name = runtime.block_on(async {
                tokio::select! {
                    _ = terminated.recv() => "SIGTERM",
                    _ = interrupted.recv() => "SIGINT",
                }
            });
            leaving.leave(0, || last_words(name));
        });
        Ok(())
    }

    /// Ends the process with this exit code; by force if anything hangs.
    pub(super) fn leave(&self, code: i32, last_words: impl FnOnce()) -> ! {
        if self.0.has_begun.swap(true, Ordering::SeqCst) {
            wait_for_the_end();
        }
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(LEAVE_MS));
            process::abort();
        });
        last_words();
        self.end_links();
        process::exit(code)
    }

    /// To be called by a thread that is done: does not return if the process is ending on another one.
    pub(super) fn let_end(&self) {
        if self.0.has_begun.load(Ordering::SeqCst) {
            wait_for_the_end();
        }
    }

    /// Ends all links and gives back what they hold.
    pub(super) fn end_links(&self) {
        // nobody waits for a peer: the links are whole, and the peers can be told
        if let Ok(world) = self.0.world.try_lock()
            && let Some(Ok(mut world)) = world.as_ref().map(|world| world.try_lock())
        {
            return world.end();
        }
        for socket in lock(&self.0.sockets).iter() {
            // fails only if the other end was first
            let _ = shutdown(socket, Shutdown::Both);
        }
        if let Some(world) = lock(&self.0.world).as_ref() {
            lock(world).end();
        }
    }
}

/// Links are being made.
pub(super) struct Linking<'a> {
    state: &'a State,
    world: MutexGuard<'a, Option<SharedWorld>>,
}

impl Linking<'_> {
    /// They are made: they belong to `world`, and these sockets wake who waits for them.
    pub(super) fn done(mut self, world: &SharedWorld, sockets: Vec<OwnedFd>) {
        lock(&self.state.sockets).extend(sockets);
        *self.world = Some(world.clone());
    }
}

fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a world that a panic left in the middle is only ended here
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
        sync::mpsc,
    };

    use base::RankId;
    use collective::{CollectiveError, World};
    use transport::{Link, LinkError, TcpLink, recv};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// The world of rank 1, and rank 0's end of the only link.
    fn linked() -> (Leaving, SharedWorld, TcpLink) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = TcpLink::new(listener.accept().unwrap().0, "rank 1").unwrap();
        let leaving = Leaving::default();
        let linking = leaving.begin_to_link(vec![near.as_fd().try_clone_to_owned().unwrap()]);
        let link: Box<dyn Link> = Box::new(TcpLink::new(near, "rank 0").unwrap());
        let world = World::new(RankId(1), vec![(RankId(0), link)], LONG).unwrap().shared();
        linking.done(&world, Vec::new());
        (leaving, world, far)
    }

    #[test]
    fn a_peer_of_a_rank_that_computes_is_told() {
        let (leaving, world, mut far) = linked();
        leaving.end_links();
        // a notice, and then the end
        assert!(recv(&mut far, &mut Vec::new(), Some(LONG)).is_ok());
        let e = recv(&mut far, &mut Vec::new(), Some(LONG)).unwrap_err();
        assert!(matches!(e, LinkError::Closed { .. }), "{e}");
        let e = lock(&world).send(RankId(0), b"?").unwrap_err();
        assert!(matches!(&e, CollectiveError::Broken { cause, .. } if cause.contains("told to end")), "{e}");
    }

    #[test]
    fn a_rank_that_waits_without_end_is_woken() {
        let (leaving, world, mut far) = linked();
        let (holds, held) = mpsc::channel();
        let waiting = world.clone();
        let waiter = thread::spawn(move || {
            let mut world = lock(&waiting);
            holds.send(()).unwrap();
            world.recv_within(RankId(0), &mut Vec::new(), None).unwrap_err()
        });
        held.recv().unwrap();
        leaving.end_links();
        let e = waiter.join().unwrap();
        assert!(matches!(e, CollectiveError::Link { source: LinkError::Closed { .. }, .. }), "{e}");
        let e = recv(&mut far, &mut Vec::new(), Some(LONG)).unwrap_err();
        assert!(matches!(e, LinkError::Closed { .. }), "{e}");
    }

    #[test]
    fn links_that_are_being_made_are_waited_for() {
        let leaving = Leaving::default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let linking = leaving.begin_to_link(vec![near.as_fd().try_clone_to_owned().unwrap()]);
        let other = leaving.clone();
        let ending = thread::spawn(move || other.end_links());
        // as an agreement with a peer that never answers
        let n = io::Read::read(&mut &near, &mut [0]).unwrap();
        assert!(n == 0 && !ending.is_finished());
        drop(linking);
        ending.join().unwrap();
    }
}
