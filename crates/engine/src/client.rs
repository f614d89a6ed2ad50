//! The serving process's handle on the engine: opens requests, hands each one's outputs to whoever asked, and
//! ends them all when the engine is lost. It knows neither where the engine runs nor how bytes get there: the
//! owner of [`Commands`] forwards them and calls [`Client::deliver`] with what comes back.
//!
//! Every queue is bounded by the requests themselves. A request is open from `submit` until its last output is
//! delivered, also when its stream was dropped before; so at most two commands per open request are on their
//! way. A stream holds at most `max_tokens` tokens and one end, so delivering never waits for a slow reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::{Output, Request, RequestId, SamplingParams, TokenId};
use tokio::sync::mpsc;

/// What the serving process tells the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Answer this.
    Submit(Request),
    /// Nobody reads this answer any more.
    Cancel(RequestId),
}

/// Why a request was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests are open as may be.
    #[error("{limit} requests are open, which is the limit\nhint: try again in a few seconds")]
    Busy {
        /// Requests that may be open.
        limit: u32,
    },
    /// The engine is lost.
    #[error("the engine is down: {why}")]
    Down {
        /// What happened.
        why: String,
    },
}

/// Opens requests; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_open: u32,
    commands: mpsc::Sender<Command>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next_id: u64,
    open: HashMap<RequestId, mpsc::Sender<Output>>,
    /// Why the engine is lost, while it is.
    down: Option<String>,
}

impl Client {
    /// A client for at most `max_open` open requests, and its commands for the engine.
    pub fn new(max_open: u32) -> (Client, Commands) {
        // The channel needs room for at least one message.
        let (commands, receiver) = mpsc::channel(max_open.max(1) as usize * 2);
        let state = Mutex::new(State { next_id: 0, open: HashMap::new(), down: None });
        let shared = Arc::new(Shared { max_open, commands, state });
        (Client { shared: shared.clone() }, Commands { receiver, shared })
    }

    /// Opens a request. Its stream yields tokens and then one `Finished` or `Failed`.
    ///
    /// # Errors
    /// When too many requests are open or the engine is lost.
    pub fn submit(
        &self,
        prompt: Vec<TokenId>,
        max_tokens: u32,
        stop_tokens: Vec<TokenId>,
        sampling: SamplingParams,
    ) -> Result<RequestStream, SubmitError> {
        let limit = self.shared.max_open;
        let mut state = self.shared.lock();
        if let Some(why) = &state.down {
            return Err(SubmitError::Down { why: why.clone() });
        }
        if state.open.len() >= limit as usize {
            return Err(SubmitError::Busy { limit });
        }
        let id = RequestId(state.next_id);
        let request = Request { id, prompt, max_tokens, stop_tokens, sampling };
        // Commands of an engine that was lost may still fill the queue.
        self.shared.commands.try_send(Command::Submit(request)).map_err(|_| SubmitError::Busy { limit })?;
        state.next_id += 1;
        let (outputs, receiver) = mpsc::channel(max_tokens as usize + 1);
        state.open.insert(id, outputs);
        drop(state);
        Ok(RequestStream { id, receiver, ended: false, shared: self.shared.clone() })
    }

    /// Hands outputs to their streams. Outputs of requests that are not open are dropped.
    pub fn deliver(&self, outputs: Vec<Output>) {
        let mut state = self.shared.lock();
        for output in outputs {
            let id = output.id();
            let is_last = !matches!(output, Output::Token { .. });
            if let Some(stream) = state.open.get(&id) {
                // Closed: the reader left, and its cancellation is on the way. Full cannot be: see the top.
                let _ = stream.try_send(output);
            }
            if is_last {
                state.open.remove(&id);
            }
        }
    }

    /// The engine is lost: every open request fails now, and later ones are refused until `revive`.
    pub fn fail_all(&self, why: &str) {
        self.shared.fail_all(why);
    }

    /// An engine is there again.
    pub fn revive(&self) {
        self.shared.lock().down = None;
    }

    /// Requests that are open now.
    pub fn n_open(&self) -> u32 {
        self.shared.lock().open.len() as u32
    }

    /// Requests that may be open at the same time.
    pub fn max_open(&self) -> u32 {
        self.shared.max_open
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail_all(&self, why: &str) {
        let mut state = self.lock();
        state.down = Some(why.to_owned());
        for (id, stream) in state.open.drain() {
            // Fails only if the reader left.
            let _ = stream.try_send(Output::Failed { id, message: why.to_owned() });
        }
    }
}

/// The commands of a [`Client`] and its clones, for the one who forwards them. Dropping it fails every request.
#[derive(Debug)]
pub struct Commands {
    receiver: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
}

impl Commands {
    /// Waits for the next command.
    pub async fn next(&mut self) -> Option<Command> {
        loop {
            let command = self.receiver.recv().await?;
            if self.is_current(&command) {
                return Some(command);
            }
        }
    }

    /// Waits for the next command; for threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Command> {
        loop {
            let command = self.receiver.blocking_recv()?;
            if self.is_current(&command) {
                return Some(command);
            }
        }
    }

    /// The next command, if there is one now.
    pub fn try_next(&mut self) -> Option<Command> {
        loop {
            let command = self.receiver.try_recv().ok()?;
            if self.is_current(&command) {
                return Some(command);
            }
        }
    }

    /// Commands about requests that have ended meanwhile, as those of a lost engine, are not forwarded.
    fn is_current(&self, command: &Command) -> bool {
        let id = match command {
            Command::Submit(request) => request.id,
            Command::Cancel(id) => *id,
        };
        self.shared.lock().open.contains_key(&id)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.shared.fail_all("nothing forwards requests to the engine any more");
    }
}

/// The outputs of one request. Dropping it before the end cancels the request.
#[derive(Debug)]
pub struct RequestStream {
    id: RequestId,
    receiver: mpsc::Receiver<Output>,
    ended: bool,
    shared: Arc<Shared>,
}

impl RequestStream {
    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Waits for the next output; `None` after the last one. Nothing is lost if the wait is given up.
    pub async fn next(&mut self) -> Option<Output> {
        let output = self.receiver.recv().await;
        self.note(output)
    }

    /// Waits for the next output; for threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Output> {
        let output = self.receiver.blocking_recv();
        self.note(output)
    }

    fn note(&mut self, output: Option<Output>) -> Option<Output> {
        let broke_off = output.is_none() && !self.ended;
        self.ended |= !matches!(output, Some(Output::Token { .. }));
        if broke_off {
            // The end found no room, because the engine sent more tokens than it was asked for.
            let message = "the engine sent more tokens than were asked for".to_owned();
            return Some(Output::Failed { id: self.id, message });
        }
        output
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.ended && self.shared.lock().open.contains_key(&self.id) {
            // Full only of commands to a lost engine: then the answer runs to its end unread.
            let _ = self.shared.commands.try_send(Command::Cancel(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{FinishReason, Sampled, Usage};

    use super::*;

    fn open(client: &Client) -> Result<RequestStream, SubmitError> {
        client.submit(vec![TokenId(1)], 4, vec![], SamplingParams::default())
    }

    fn token(id: RequestId, token: u32) -> Output {
        Output::Token { id, sampled: Sampled { token: TokenId(token), logprob: None, top: vec![] } }
    }

    fn end(id: RequestId) -> Output {
        Output::Finished { id, reason: FinishReason::Stop, usage: Usage::default() }
    }

    fn failed(id: RequestId, why: &str) -> Output {
        Output::Failed { id, message: why.to_owned() }
    }

    #[test]
    fn outputs_reach_their_own_stream() {
        let (client, mut commands) = Client::new(2);
        let (mut a, mut b) = (open(&client).unwrap(), open(&client).unwrap());
        assert!(
            matches!(commands.try_next(), Some(Command::Submit(r)) if r.id == a.id() && r.max_tokens == 4)
        );
        client.deliver(vec![token(a.id(), 1), token(b.id(), 2), end(a.id()), token(RequestId(99), 3)]);
        client.deliver(vec![token(b.id(), 4), end(b.id())]);
        assert_eq!(a.blocking_next(), Some(token(a.id(), 1)));
        assert_eq!(a.blocking_next(), Some(end(a.id())));
        assert_eq!(a.blocking_next(), None);
        assert_eq!(a.blocking_next(), None);
        let got: Vec<_> = std::iter::from_fn(|| b.blocking_next()).collect();
        assert_eq!(got, [token(b.id(), 2), token(b.id(), 4), end(b.id())]);
        assert_eq!(client.n_open(), 0);
    }

    #[test]
    fn open_requests_are_bounded_until_their_end_is_delivered() {
        let (client, mut commands) = Client::new(1);
        let a = open(&client).unwrap();
        assert_eq!(open(&client).unwrap_err(), SubmitError::Busy { limit: 1 });
        let id = a.id();
        drop(a);
        assert_eq!(open(&client).unwrap_err(), SubmitError::Busy { limit: 1 }, "the engine may still run it");
        assert!(matches!(commands.try_next(), Some(Command::Submit(_))));
        assert_eq!(commands.try_next(), Some(Command::Cancel(id)));
        client.deliver(vec![token(id, 1), end(id)]);
        assert_eq!(client.n_open(), 0);
        assert!(open(&client).is_ok());
        assert_eq!(Client::new(0).0.max_open(), 0);
        assert!(open(&Client::new(0).0).is_err());
    }

    #[test]
    fn a_stream_that_has_ended_cancels_nothing() {
        let (client, mut commands) = Client::new(2);
        let (mut read, unread) = (open(&client).unwrap(), open(&client).unwrap());
        client.deliver(vec![end(read.id()), end(unread.id())]);
        read.blocking_next();
        drop(read);
        drop(unread);
        assert_eq!(commands.try_next(), None, "their submissions are void too");
    }

    #[test]
    fn a_lost_engine_fails_open_and_later_requests_until_it_is_back() {
        let (client, mut commands) = Client::new(8);
        let (mut a, b) = (open(&client).unwrap(), open(&client).unwrap());
        let (id_a, id_b) = (a.id(), b.id());
        drop(b);
        client.deliver(vec![token(id_a, 1)]);
        client.clone().fail_all("rank 1 was killed");
        assert_eq!(a.blocking_next(), Some(token(id_a, 1)));
        assert_eq!(a.blocking_next(), Some(failed(id_a, "rank 1 was killed")));
        assert_eq!(a.blocking_next(), None);
        let down = SubmitError::Down { why: "rank 1 was killed".to_owned() };
        assert_eq!(open(&client).unwrap_err(), down);
        assert_eq!(client.n_open(), 0);
        client.revive();
        let c = open(&client).unwrap();
        assert!(c.id() > id_b, "ids are not used again");
        client.deliver(vec![token(id_a, 2)]);
        assert!(
            matches!(commands.try_next(), Some(Command::Submit(r)) if r.id == c.id()),
            "the lost engine's commands are void"
        );
        assert_eq!(commands.try_next(), None);
    }

    #[test]
    fn commands_to_a_lost_engine_do_not_pile_up() {
        let (client, mut commands) = Client::new(2);
        let mut n_opened = 0;
        while let Ok(stream) = open(&client) {
            n_opened += 1;
            client.fail_all("lost");
            client.revive();
            drop(stream);
        }
        assert_eq!(n_opened, 4);
        assert_eq!(commands.try_next(), None);
        assert!(open(&client).is_ok());
    }

    #[test]
    fn without_a_forwarder_everything_fails() {
        let (client, commands) = Client::new(2);
        let mut a = open(&client).unwrap();
        drop(commands);
        assert!(matches!(a.blocking_next(), Some(Output::Failed { .. })));
        assert!(matches!(open(&client), Err(SubmitError::Down { .. })));
        client.revive();
        assert!(open(&client).is_err());
    }

    #[test]
    fn a_stream_ends_even_if_the_engine_says_too_much() {
        let (client, _commands) = Client::new(2);
        let mut a = open(&client).unwrap();
        client.deliver((0..9).map(|i| token(a.id(), i)).chain([end(a.id())]).collect());
        let got: Vec<_> = std::iter::from_fn(|| a.blocking_next()).collect();
        assert_eq!(got.len(), 4 + 1 + 1);
        assert!(matches!(got[5], Output::Failed { .. }));
    }

    #[test]
    fn waits_in_async_code_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (client, mut commands) = Client::new(2);
            let engine = tokio::spawn({
                let client = client.clone();
                async move {
                    let Some(Command::Submit(r)) = commands.next().await else { panic!("no request") };
                    client.deliver(vec![token(r.id, 7)]);
                    client.deliver(vec![end(r.id)]);
                }
            });
            let mut a = open(&client).unwrap();
            assert_eq!(a.next().await, Some(token(a.id(), 7)));
            assert_eq!(a.next().await, Some(end(a.id())));
            assert_eq!(a.next().await, None);
            engine.await.unwrap();
        });
    }

    /// An engine that answers 3 tokens to each request, and eight threads that ask it, some of which leave early.
    #[test]
    fn many_threads_at_once() {
        const N_THREADS: u64 = 8;
        const N_REQUESTS: u64 = 200;
        let (client, mut commands) = Client::new(5);
        let engine = std::thread::spawn({
            let client = client.clone();
            move || {
                let mut n_cancelled = 0;
                while let Some(command) = commands.blocking_next() {
                    match command {
                        Command::Submit(r) if r.max_tokens == 0 => return n_cancelled,
                        Command::Submit(r) => {
                            client.deliver((0..3).map(|i| token(r.id, i)).collect());
                            // A request that was not left ends by itself, the others by their cancellation.
                            if r.max_tokens == 4 {
                                client.deliver(vec![end(r.id)]);
                            }
                        }
                        Command::Cancel(id) => {
                            n_cancelled += 1;
                            client.deliver(vec![end(id)]);
                        }
                    }
                }
                panic!("the test ends the engine");
            }
        });
        let ask = |thread: u64| {
            for i in 0..N_REQUESTS {
                let leaves = (thread + i).is_multiple_of(3);
                let mut stream = loop {
                    let max_tokens = if leaves { 5 } else { 4 };
                    match client.submit(vec![TokenId(1)], max_tokens, vec![], SamplingParams::default()) {
                        Ok(stream) => break stream,
                        Err(_) => std::thread::yield_now(),
                    }
                };
                assert!(client.n_open() <= 5);
                for k in 0..if leaves { 1 } else { 3 } {
                    assert_eq!(stream.blocking_next(), Some(token(stream.id(), k)));
                }
                if !leaves {
                    assert_eq!(stream.blocking_next(), Some(end(stream.id())));
                }
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..N_THREADS {
                scope.spawn(move || ask(thread));
            }
        });
        let stop = loop {
            if let Ok(stream) = client.submit(vec![], 0, vec![], SamplingParams::default()) {
                break stream;
            }
        };
        let n_left = (0..N_THREADS * N_REQUESTS)
            .filter(|i| (i / N_REQUESTS + i % N_REQUESTS).is_multiple_of(3))
            .count();
        assert_eq!(engine.join().unwrap(), n_left);
        drop(stop);
        assert_eq!(client.n_open(), 0);
    }
}
