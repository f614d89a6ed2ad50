//! Calls of tools in OpenAI's shape, whole and in deltas, and the ids they get. It does not know how a model writes
//! them.

use std::sync::Arc;

use serde::Serialize;
use text::ToolStyle;

use crate::answer::Call;
use crate::state::Server;

/// Gives the calls of one answer their places and ids.
pub(super) struct Numbering {
    server: Arc<Server>,
    style: Option<ToolStyle>,
    /// Calls in the conversation before this answer.
    n_before: usize,
    /// Calls of this answer so far.
    n_here: usize,
}

/// One call of a whole answer.
#[derive(Serialize)]
pub(super) struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// A piece of one call in a stream: its head first, then pieces of the arguments.
#[derive(Serialize)]
pub(super) struct ToolCallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Numbering {
    pub(super) fn new(server: Arc<Server>, n_before: usize) -> Numbering {
        let style = server.app.template.as_ref().and_then(|template| template.form().style());
        Numbering { server, style, n_before, n_here: 0 }
    }

    pub(super) fn whole(&mut self, call: Call) -> ToolCall {
        let id = self.next_id(&call.name);
        ToolCall { id, r#type: "function", function: Function { name: call.name, arguments: call.arguments } }
    }

    /// A call begins.
    pub(super) fn head(&mut self, name: String) -> ToolCallDelta {
        let id = Some(self.next_id(&name));
        let function = FunctionDelta { name: Some(name), arguments: String::new() };
        ToolCallDelta { index: self.n_here - 1, id, r#type: Some("function"), function }
    }

    /// More arguments of the call that began last.
    pub(super) fn arguments(&self, arguments: String) -> ToolCallDelta {
        let index = self.n_here.saturating_sub(1);
        ToolCallDelta { index, id: None, r#type: None, function: FunctionDelta { name: None, arguments } }
    }

    fn next_id(&mut self, name: &str) -> String {
        let in_style = self.style.and_then(|style| style.call_id(name, self.n_before + self.n_here));
        self.n_here += 1;
        in_style.unwrap_or_else(|| self.server.fresh_id("call"))
    }
}
