//! The `messages` of a chat request: checked one by one and reduced to what a chat template is promised. Calls and their
//! results are matched, and take the ids and the form that the model's style of calling has. It does not know the
//! template.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use text::{Arguments, ToolStyle};

use crate::params::{Inert, ParamError, Params, Problem, quote};

const ROLES: &str = "system, developer, user, assistant or tool";

/// Fields that clients send back from earlier answers; empty they mean nothing.
const EMPTY_FIELDS: [Inert; 8] = [
    Inert { name: "tool_calls", accepted: "an empty array", is_no_op: is_empty_array },
    Inert { name: "annotations", accepted: "an empty array", is_no_op: is_empty_array },
    Inert { name: "reasoning_content", accepted: "an empty string", is_no_op: |v| *v == "" },
    Inert { name: "refusal", accepted: "null", is_no_op: |_| false },
    Inert { name: "audio", accepted: "null", is_no_op: |_| false },
    Inert { name: "function_call", accepted: "null", is_no_op: |_| false },
    Inert { name: "tool_call_id", accepted: "null", is_no_op: |_| false },
    Inert { name: "name", accepted: "null", is_no_op: |_| false },
];

fn is_empty_array(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// A conversation as far as it has come.
#[derive(Debug, PartialEq)]
pub(crate) struct Messages {
    /// A JSON array for the template.
    pub(crate) list: Value,
    /// Calls in it.
    pub(crate) n_calls: usize,
}

/// Takes `messages`. `style` is how the model calls tools; without one there are no calls.
pub(crate) fn take(params: &mut Params, style: Option<ToolStyle>) -> Result<Messages, ParamError> {
    let missing = params.missing("messages", "an array of messages");
    let items = params.array("messages")?.ok_or(missing)?;
    if items.is_empty() {
        return Err(ParamError::refused("messages", "must hold at least one message"));
    }
    let mut reading = Conversation { style, ids: HashMap::new(), n_calls: 0 };
    let one = |(i, item)| reading.message(Params::nested(format!("messages[{i}]"), item)?);
    let list = items.into_iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Messages { list: Value::Array(list), n_calls: reading.n_calls })
}

/// What earlier messages say about later ones.
struct Conversation {
    style: Option<ToolStyle>,
    /// The client's id of each call, and the one that the template sees.
    ids: HashMap<String, String>,
    n_calls: usize,
}

impl Conversation {
    fn message(&mut self, mut fields: Params) -> Result<Value, ParamError> {
        let missing = fields.missing("role", ROLES);
        let role = fields.string("role")?.ok_or(missing)?;
        let message = match role.as_str() {
            // Templates know the older word only.
            "system" | "developer" => json!({ "role": "system", "content": content(&mut fields)? }),
            "user" => json!({ "role": "user", "content": content(&mut fields)? }),
            "assistant" => self.assistant(&mut fields)?,
            "tool" => self.result(&mut fields)?,
            "function" => {
                let problem = Problem::Unsupported { accepted: ROLES, found: quote(&Value::String(role)) };
                return Err(ParamError::new(fields.path_of("role"), problem));
            }
            _ => return Err(ParamError::wrong_value(fields.path_of("role"), ROLES, &Value::String(role))),
        };
        fields.accept_inert(&EMPTY_FIELDS)?;
        fields.finish()?;
        Ok(message)
    }

    fn assistant(&mut self, fields: &mut Params) -> Result<Value, ParamError> {
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        let calls = fields.array("tool_calls")?.unwrap_or_default();
        // An answer may be calls alone.
        let content = match fields.peek("content") {
            None if !calls.is_empty() => Value::Null,
            _ => content(fields)?.into(),
        };
        message.insert("content".to_owned(), content);
        if let Some(reasoning) = fields.string("reasoning_content")?.filter(|text| !text.is_empty()) {
            let key = self.style.map_or("reasoning_content", |style| style.reasoning_key());
            message.insert(key.to_owned(), reasoning.into());
        }
        if !calls.is_empty() {
            let path = fields.path_of("tool_calls");
            let style = self.style.ok_or_else(|| {
                ParamError::refused(&path, "cannot be shown to the model: how it writes calls is not known")
            })?;
            let one = |(i, call)| self.call(style, Params::nested(format!("{path}[{i}]"), call)?);
            let calls = calls.into_iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
            message.insert("tool_calls".to_owned(), calls.into());
        }
        Ok(message.into())
    }

    fn call(&mut self, style: ToolStyle, mut fields: Params) -> Result<Value, ParamError> {
        let missing = fields.missing("id", "the call's id");
        let id = fields.string("id")?.ok_or(missing)?;
        fields.accept_inert(&[
            Inert { name: "type", accepted: "\"function\"", is_no_op: |v| *v == "function" },
            // Clients that collect a stream keep it.
            Inert { name: "index", accepted: "a number", is_no_op: Value::is_number },
        ])?;
        let missing = fields.missing("function", "an object with name and arguments");
        let mut function = fields.object("function")?.ok_or(missing)?;
        fields.finish()?;
        let missing = function.missing("name", "the function's name");
        let name = function.string("name")?.ok_or(missing)?;
        let arguments = arguments(style, &mut function)?;
        function.finish()?;
        let shown = style.call_id(&name, self.n_calls).unwrap_or_else(|| id.clone());
        self.n_calls += 1;
        self.ids.insert(id, shown.clone());
        Ok(json!({
            "id": shown, "type": "function", "function": { "name": name, "arguments": arguments },
        }))
    }

    fn result(&self, fields: &mut Params) -> Result<Value, ParamError> {
        let missing = fields.missing("tool_call_id", "the id of the call that this answers");
        let id = fields.string("tool_call_id")?.ok_or(missing)?;
        let Some(shown) = self.ids.get(&id) else {
            let why = format!("is `{id}`, and no call in an earlier message has this id");
            return Err(ParamError::refused(fields.path_of("tool_call_id"), why));
        };
        let mut message = json!({ "role": "tool", "tool_call_id": shown, "content": content(fields)? });
        if let Some(name) = fields.string("name")? {
            message["name"] = name.into();
        }
        Ok(message)
    }
}

/// The JSON text of an earlier call, in the form that the style's templates want.
fn arguments(style: ToolStyle, function: &mut Params) -> Result<Value, ParamError> {
    let path = function.path_of("arguments");
    let text = function.string("arguments")?.unwrap_or_default();
    let text = if text.trim().is_empty() { "{}".to_owned() } else { text };
    let object = match serde_json::from_str::<Value>(&text) {
        Ok(object) if object.is_object() => object,
        Ok(other) => return Err(ParamError::wrong_value(path, "the JSON text of an object", &other)),
        Err(e) => return Err(ParamError::refused(path, format!("must be the JSON text of an object: {e}"))),
    };
    Ok(match style.arguments() {
        Arguments::Object => object,
        Arguments::Text => text.into(),
    })
}

/// A string, or an array of text parts that are read one after the other.
fn content(fields: &mut Params) -> Result<String, ParamError> {
    let path = fields.path_of("content");
    let missing = fields.missing("content", "a string or an array of text parts");
    match fields.take("content").ok_or(missing)? {
        Value::String(text) => Ok(text),
        Value::Array(parts) if parts.is_empty() => {
            Err(ParamError::refused(path, "must hold at least one part"))
        }
        Value::Array(parts) => {
            let one = |(i, part)| text_part(Params::nested(format!("{path}[{i}]"), part)?);
            parts.into_iter().enumerate().map(one).collect()
        }
        other => Err(ParamError::wrong_type(path, "a string or an array of text parts", &other)),
    }
}

fn text_part(mut part: Params) -> Result<String, ParamError> {
    let missing = part.missing("type", "\"text\"");
    let kind = part.string("type")?.ok_or(missing)?;
    if kind != "text" {
        let problem = Problem::Unsupported { accepted: "\"text\"", found: quote(&Value::String(kind)) };
        return Err(ParamError::new(part.path_of("type"), problem));
    }
    let missing = part.missing("text", "a string");
    let text = part.string("text")?.ok_or(missing)?;
    part.finish()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use text::AnswerForm;

    use super::*;

    fn read(style: Option<&str>, messages: Value) -> Result<Messages, (String, &'static str)> {
        let style = style.and_then(|name| AnswerForm::of_template("").with_style(name)?.style());
        let mut params = Params::nested(String::new(), json!({ "messages": messages })).unwrap();
        take(&mut params, style).map_err(|e| (e.param.clone(), e.code()))
    }

    fn list(messages: Value) -> Result<Value, (String, &'static str)> {
        read(None, messages).map(|messages| messages.list)
    }

    fn call(id: &str, name: &str, arguments: &str) -> Value {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    #[test]
    fn roles_and_parts_are_reduced_to_what_a_template_reads() {
        let found = list(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": [], "annotations": []},
            {"role": "assistant", "content": "d", "reasoning_content": "e"},
        ]));
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": "d", "reasoning_content": "e"},
        ]);
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn calls_and_results_take_the_form_of_the_style() {
        let messages = json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "reasoning_content": "hm",
             "tool_calls": [call("call_a", "f", "{\"b\": 1, \"a\": 2}"), call("call_b", "g", "")]},
            {"role": "tool", "tool_call_id": "call_b", "content": "B"},
            {"role": "tool", "tool_call_id": "call_a", "content": [{"type": "text", "text": "A"}], "name": "f"},
            {"role": "assistant", "content": "and", "tool_calls": [call("call_a", "g", "{}")]},
            {"role": "tool", "tool_call_id": "call_a", "content": "C"},
        ]);
        let kimi = read(Some("kimi"), messages.clone()).unwrap();
        assert_eq!(kimi.n_calls, 3);
        let expected = json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                call("functions.f:0", "f", "{\"b\": 1, \"a\": 2}"), call("functions.g:1", "g", "{}")]},
            {"role": "tool", "tool_call_id": "functions.g:1", "content": "B"},
            {"role": "tool", "tool_call_id": "functions.f:0", "content": "A", "name": "f"},
            {"role": "assistant", "content": "and", "tool_calls": [call("functions.g:2", "g", "{}")]},
            {"role": "tool", "tool_call_id": "functions.g:2", "content": "C"},
        ]);
        assert_eq!(kimi.list, expected);
        let harmony = read(Some("harmony"), messages).unwrap().list;
        assert_eq!(harmony[1]["thinking"], "hm");
        assert_eq!(harmony[1]["tool_calls"][0]["id"], "call_a");
        assert_eq!(harmony[1]["tool_calls"][0]["function"]["arguments"].to_string(), "{\"b\":1,\"a\":2}");
    }

    #[test]
    fn calls_that_make_no_sense_are_refused_by_name() {
        let with = |call: Value| json!([{"role": "assistant", "tool_calls": [call]}]);
        let tool = |id: Value| json!([{"role": "tool", "content": "x", "tool_call_id": id}]);
        let at = "messages[0].tool_calls[0]";
        for (messages, param, code) in [
            (tool(json!(null)), "messages[0].tool_call_id".to_owned(), "missing_required_parameter"),
            (tool(json!("call_x")), "messages[0].tool_call_id".to_owned(), "invalid_value"),
            (with(json!({})), format!("{at}.id"), "missing_required_parameter"),
            (with(json!({"id": "a"})), format!("{at}.function"), "missing_required_parameter"),
            (with(call("a", "f", "[1]")), format!("{at}.function.arguments"), "invalid_value"),
            (with(call("a", "f", "{\"cut")), format!("{at}.function.arguments"), "invalid_value"),
            (with(json!({"id": "a", "type": "custom"})), format!("{at}.type"), "unsupported_parameter"),
        ] {
            assert_eq!(read(Some("glm"), messages.clone()), Err((param, code)), "{messages}");
        }
        let refused = read(None, with(call("a", "f", "{}")));
        assert_eq!(refused, Err(("messages[0].tool_calls".to_owned(), "invalid_value")));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        for (messages, param, code) in [
            (json!("hi"), "messages", "invalid_type"),
            (json!(null), "messages", "missing_required_parameter"),
            (json!([]), "messages", "invalid_value"),
            (json!(["hi"]), "messages[0]", "invalid_type"),
            (json!([{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
            (json!([{"role": "function", "content": "x"}]), "messages[0].role", "unsupported_parameter"),
            (json!([{"role": "king", "content": "x"}]), "messages[0].role", "invalid_value"),
            (json!([{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
            (json!([{"role": "assistant"}]), "messages[0].content", "missing_required_parameter"),
            (
                json!([{"role": "user", "content": "x", "name": "y"}]),
                "messages[0].name",
                "unsupported_parameter",
            ),
            (
                json!([{"role": "user", "content": "x", "reasoning_content": "y"}]),
                "messages[0].reasoning_content",
                "unsupported_parameter",
            ),
            (json!([{"role": "user", "content": "x", "y": 1}]), "messages[0].y", "unknown_parameter"),
            (user(json!(5)), "messages[0].content", "invalid_type"),
            (user(json!([])), "messages[0].content", "invalid_value"),
            (user(json!([{"type": "image_url"}])), "messages[0].content[0].type", "unsupported_parameter"),
            (user(json!([{"type": "text"}])), "messages[0].content[0].text", "missing_required_parameter"),
            (
                user(json!([{"type": "text", "text": "x", "z": 1}])),
                "messages[0].content[0].z",
                "unknown_parameter",
            ),
        ] {
            assert_eq!(list(messages.clone()), Err((param.to_owned(), code)), "{messages}");
        }
    }
}
