//! Sends an answer as server-sent events while it is being made. The dialect says what the events look like; this
//! file knows only their order. When the client goes away the response is dropped, and the answer with it.

use std::collections::VecDeque;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base::Usage;
use futures_util::stream;

use crate::answer::{Answer, Event, Finish, Said};
use crate::errors::ApiError;

/// Seconds of silence after which a comment is sent, so that nobody on the way gives up.
pub const KEEP_ALIVE_S: u64 = 15;

/// One event, or why it could not be written as JSON.
pub(crate) type Sent = Result<sse::Event, axum::Error>;

/// How a dialect writes the events of an answer.
pub(crate) trait Dialect: Send + 'static {
    /// Before the first token.
    fn open(&mut self) -> Vec<Sent>;
    /// For each piece.
    fn said(&mut self, said: Said) -> Vec<Sent>;
    /// When the answer is complete.
    fn end(&mut self, finish: Finish, usage: Usage) -> Vec<Sent>;
    /// When it broke off; nothing follows.
    fn broke(&mut self, error: &ApiError) -> Vec<Sent>;
}

struct Sending<D> {
    answer: Answer,
    dialect: D,
    queue: VecDeque<Sent>,
}

impl<D: Dialect> Sending<D> {
    async fn next(mut self) -> Option<(Sent, Sending<D>)> {
        loop {
            if let Some(sent) = self.queue.pop_front() {
                return Some((sent, self));
            }
            let sent = match self.answer.next().await? {
                Ok(Event::Said(said)) => self.dialect.said(said),
                Ok(Event::End(finish, usage)) => self.dialect.end(finish, usage),
                Err(error) => self.dialect.broke(&error),
            };
            self.queue.extend(sent);
        }
    }
}

/// The response that streams `answer`.
pub(crate) fn respond(answer: Answer, mut dialect: impl Dialect) -> Response {
    let queue = VecDeque::from(dialect.open());
    let events = stream::unfold(Sending { answer, dialect, queue }, Sending::next);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(KEEP_ALIVE_S)).text("keep-alive");
    Sse::new(events).keep_alive(keep_alive).into_response()
}
