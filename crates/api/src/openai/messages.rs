//! The `messages` of a chat request: checked one by one and reduced to `role` and `content`, which is all a chat
//! template is promised. It does not know the template.

use serde_json::{Value, json};

use crate::params::{Inert, ParamError, Params, Problem, quote};

/// Fields that clients send back from earlier answers; empty they mean nothing.
const EMPTY_FIELDS: [Inert; 7] = [
    Inert { name: "tool_calls", accepted: "an empty array", is_no_op: is_empty_array },
    Inert { name: "annotations", accepted: "an empty array", is_no_op: is_empty_array },
    Inert { name: "refusal", accepted: "null", is_no_op: |_| false },
    Inert { name: "audio", accepted: "null", is_no_op: |_| false },
    Inert { name: "function_call", accepted: "null", is_no_op: |_| false },
    Inert { name: "tool_call_id", accepted: "null", is_no_op: |_| false },
    Inert { name: "name", accepted: "null", is_no_op: |_| false },
];

fn is_empty_array(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// Takes `messages`: a JSON array of `{"role", "content"}` with string contents.
pub(crate) fn take(params: &mut Params) -> Result<Value, ParamError> {
    let missing = params.missing("messages", "an array of messages");
    let items = params.array("messages")?.ok_or(missing)?;
    if items.is_empty() {
        return Err(ParamError::refused("messages", "must hold at least one message"));
    }
    let one = |(i, item)| message(Params::nested(format!("messages[{i}]"), item)?);
    items.into_iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn message(mut fields: Params) -> Result<Value, ParamError> {
    let missing = fields.missing("role", "system, developer, user or assistant");
    let role = fields.string("role")?.ok_or(missing)?;
    // Templates know the older word only.
    let role = match role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => {
            let problem = Problem::Unsupported {
                accepted: "system, developer, user or assistant",
                found: quote(&Value::String(role)),
            };
            return Err(ParamError::new(fields.path_of("role"), problem));
        }
        _ => {
            let (path, found) = (fields.path_of("role"), Value::String(role));
            return Err(ParamError::wrong_value(path, "system, developer, user or assistant", &found));
        }
    };
    let content = content(&mut fields)?;
    fields.accept_inert(&EMPTY_FIELDS)?;
    fields.finish()?;
    Ok(json!({ "role": role, "content": content }))
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
    use super::*;

    fn read(messages: Value) -> Result<Value, (String, &'static str)> {
        let mut params = Params::nested(String::new(), json!({ "messages": messages })).unwrap();
        take(&mut params).map_err(|e| (e.param.clone(), e.code()))
    }

    #[test]
    fn roles_and_parts_are_reduced_to_what_a_template_reads() {
        let found = read(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": [], "annotations": []},
        ]));
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "c"},
        ]);
        assert_eq!(found, Ok(expected));
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
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role", "unsupported_parameter"),
            (json!([{"role": "king", "content": "x"}]), "messages[0].role", "invalid_value"),
            (json!([{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
            (
                json!([{"role": "user", "content": "x", "name": "y"}]),
                "messages[0].name",
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
            assert_eq!(read(messages.clone()), Err((param.to_owned(), code)), "{messages}");
        }
    }
}
