//! The OpenAI dialect: chat completions, completions, the list of models. Each file turns one endpoint's JSON into
//! an `Ask` or an answer into JSON; nothing here knows the engine.

mod calls;
pub(crate) mod chat;
pub(crate) mod completion;
mod logprobs;
mod messages;
pub(crate) mod models;
mod request;
mod shape;
mod tools;
