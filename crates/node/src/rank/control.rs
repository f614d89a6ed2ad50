//! A rank's connection to the serving process: commands are read and signs of life are sent on threads of their own, so
//! that neither the end of the connection nor a hung device goes unnoticed. What commands mean is not known here.

use std::{
    net::TcpStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use wire::{FromRank, ToRank, WireError};

use super::leave::Leaving;

/// Time from one sign of life to the next, in milliseconds.
pub(crate) const BEAT_INTERVAL_MS: u64 = 500;

/// The way to the serving process, for several threads.
#[derive(Clone)]
pub(super) struct Control {
    stream: Arc<Mutex<TcpStream>>,
}

/// When the step that runs now began.
#[derive(Clone, Default)]
pub(super) struct Activity {
    since: Arc<Mutex<Option<Instant>>>,
}

impl Control {
    pub(super) fn new(stream: TcpStream) -> Control {
        Control { stream: Arc::new(Mutex::new(stream)) }
    }

    /// Sends a message whole.
    pub(super) fn send(&self, message: &FromRank) -> Result<(), WireError> {
        wire::write_frame(&mut *lock(&self.stream), message)
    }

    /// Sends signs of life from now on.
    pub(super) fn beat(&self, activity: Activity) {
        let control = self.clone();
        thread::spawn(move || {
            // when nobody listens any more, the reader of the connection ends the process
            while control.send(&FromRank::Beat { busy_ms: activity.busy_ms() }).is_ok() {
                thread::sleep(Duration::from_millis(BEAT_INTERVAL_MS));
            }
        });
    }
}

impl Activity {
    /// A step begins, or has ended.
    pub(super) fn set(&self, is_busy: bool) {
        *lock(&self.since) = is_busy.then(Instant::now);
    }

    fn busy_ms(&self) -> Option<u64> {
        lock(&self.since).map(|since| since.elapsed().as_millis() as u64)
    }
}

/// Reads commands, so that the end of the connection ends the process in the middle of a step.
pub(super) fn listen_to_node(mut control: TcpStream, leaving: Leaving) -> Receiver<ToRank> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        loop {
            match wire::read_frame(&mut control) {
                Ok(ToRank::Shutdown) | Err(WireError::Closed) => leaving.leave(0, || ()),
                Ok(command) => {
                    if sender.send(command).is_err() {
                        return; // the rank is reporting why it ends
                    }
                }
                Err(_) => leaving.leave(1, || ()),
            }
        }
    });
    receiver
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // every holder leaves the value whole; a half-sent frame ends the connection
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn beats_come_by_themselves_and_say_what_runs() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = Control::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (mut node, _) = listener.accept().unwrap();
        let activity = Activity::default();
        control.beat(activity.clone());
        let beat = |node: &mut TcpStream| match wire::read_frame(node).unwrap() {
            FromRank::Beat { busy_ms } => busy_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(beat(&mut node), None);
        activity.set(true);
        let first = (0..20).find_map(|_| beat(&mut node)).unwrap();
        assert!(beat(&mut node).unwrap() > first);
        activity.set(false);
        assert!((0..20).any(|_| beat(&mut node).is_none()));
    }
}
