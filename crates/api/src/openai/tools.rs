//! `tools`, `tool_choice` and `parallel_tool_calls`, checked against what the model can do. What a model cannot be held
//! to is refused by name. It does not know how calls are written.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::request::Reading;
use crate::ask::Tools;
use crate::params::{ParamError, Params, Problem, quote};

/// Tools of one request.
const MAX_TOOLS: usize = 128;
/// Characters of a function's name.
const MAX_NAME_CHARS: usize = 64;

/// Takes all three.
pub(crate) fn take(params: &mut Params, reading: Reading) -> Result<Tools, ParamError> {
    let tools = params.array("tools")?.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        let why = format!("may have {MAX_TOOLS} entries at most, found {}", tools.len());
        return Err(ParamError::refused("tools", why));
    }
    let mut names = HashSet::new();
    let mut checked = Vec::with_capacity(tools.len());
    for (i, tool) in tools.into_iter().enumerate() {
        let (name, tool) = function(format!("tools[{i}]"), tool)?;
        if !names.insert(name.clone()) {
            return Err(ParamError::refused(
                format!("tools[{i}].function.name"),
                format!("`{name}` is there twice"),
            ));
        }
        checked.push(tool);
    }
    let wants_calls = choice(params, &names)?;
    let parallel = params.boolean("parallel_tool_calls")?.unwrap_or(true);
    if checked.is_empty() || !wants_calls {
        return Ok(Tools { declared: None, parallel });
    }
    if !reading.declares_tools || reading.style.is_none() {
        let why = match reading.declares_tools {
            false => "cannot be declared: this model's chat template has no place for them",
            true => "cannot be used: how this model writes calls is not known",
        };
        return Err(ParamError::refused("tools", why));
    }
    Ok(Tools { declared: Some(Value::Array(checked)), parallel })
}

/// The name of a declared function, and the declaration as a template reads it.
fn function(path: String, tool: Value) -> Result<(String, Value), ParamError> {
    let mut fields = Params::nested(path, tool.clone())?;
    let missing = fields.missing("type", "\"function\"");
    let kind = fields.string("type")?.ok_or(missing)?;
    if kind != "function" {
        let found = quote(&Value::String(kind));
        return Err(ParamError::new(
            fields.path_of("type"),
            Problem::Unsupported { accepted: "\"function\"", found },
        ));
    }
    let missing = fields.missing("function", "an object with the function's name");
    let mut function = fields.object("function")?.ok_or(missing)?;
    fields.finish()?;
    let missing = function.missing("name", "the function's name");
    let name = function.string("name")?.ok_or(missing)?;
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || !name.chars().all(is_good) {
        let expected = "1 to 64 letters, digits, '_' and '-'";
        return Err(ParamError::wrong_value(function.path_of("name"), expected, &Value::String(name)));
    }
    function.string("description")?;
    let has_parameters = function.object("parameters")?.is_some();
    if function.boolean("strict")? == Some(true) {
        let why =
            "cannot be true: the model is not held to the schema\nhint: leave it out and check the arguments";
        return Err(ParamError::refused(function.path_of("strict"), why));
    }
    function.finish()?;
    let mut declared = tool;
    // Templates look into the schema; a function without one takes nothing.
    if !has_parameters {
        declared["function"]["parameters"] = json!({ "type": "object", "properties": {} });
    }
    Ok((name, declared))
}

/// Whether calls are wanted. Only what can be guaranteed is accepted.
fn choice(params: &mut Params, names: &HashSet<String>) -> Result<bool, ParamError> {
    const NAME: &str = "tool_choice";
    let Some(choice) = params.take(NAME) else { return Ok(true) };
    let unsupported = |found: String| {
        let accepted = "\"auto\" or \"none\"";
        ParamError::new(NAME, Problem::Unsupported { accepted, found })
    };
    match &choice {
        Value::String(word) if word == "auto" => Ok(true),
        Value::String(word) if word == "none" => Ok(false),
        Value::String(word) if word == "required" => {
            Err(unsupported(format!("{}, and a model cannot be held to a call here", quote(&choice))))
        }
        Value::Object(fields) => match choice.pointer("/function/name").and_then(Value::as_str) {
            Some(name) if fields.get("type") == Some(&json!("function")) && !names.contains(name) => {
                Err(ParamError::refused(
                    format!("{NAME}.function.name"),
                    format!("`{name}` is not one of `tools`"),
                ))
            }
            Some(name) => Err(unsupported(format!("`{name}`, and a model cannot be held to a call here"))),
            None => Err(unsupported(quote(&choice))),
        },
        other => {
            Err(ParamError::wrong_value(NAME, "\"none\", \"auto\", \"required\" or a named function", other))
        }
    }
}

#[cfg(test)]
mod tests {
    use text::AnswerForm;

    use super::*;

    fn read(style: Option<&str>, body: Value) -> Result<Tools, (String, &'static str)> {
        let form = AnswerForm::of_template("");
        let style = style.and_then(|name| form.with_style(name)?.style());
        let reading = Reading { n_tokens: 10, seed: 0, declares_tools: style.is_some(), style };
        let mut params = Params::nested(String::new(), body).unwrap();
        take(&mut params, reading).map_err(|e| (e.param.clone(), e.code()))
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "b": 1, "a": 2}}})
    }

    #[test]
    fn declarations_pass_as_they_are_sent() {
        let tools = read(Some("kimi"), json!({"tools": [tool("f")], "parallel_tool_calls": false})).unwrap();
        assert_eq!(tools, Tools { declared: Some(json!([tool("f")])), parallel: false });
        assert_eq!(tools.declared.unwrap().to_string(), json!([tool("f")]).to_string(), "in the same order");
        let bare =
            read(Some("kimi"), json!({"tools": [{"type": "function", "function": {"name": "g"}}]})).unwrap();
        assert_eq!(bare.declared.unwrap()[0]["function"]["parameters"]["properties"], json!({}));
    }

    #[test]
    fn none_means_none() {
        for body in [json!({}), json!({"tools": []}), json!({"tools": [tool("f")], "tool_choice": "none"})] {
            assert_eq!(read(None, body).unwrap(), Tools { declared: None, parallel: true });
        }
        assert!(
            read(Some("glm"), json!({"tools": [tool("f")], "tool_choice": "auto"}))
                .unwrap()
                .declared
                .is_some()
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |field: &str, value: Value| {
            let mut tool = tool("f");
            tool["function"][field] = value;
            json!({ "tools": [tool] })
        };
        let named = |name: &str| json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": name}}});
        for (body, param, code) in [
            (json!({"tools": {}}), "tools", "invalid_type"),
            (json!({"tools": [1]}), "tools[0]", "invalid_type"),
            (json!({"tools": [{}]}), "tools[0].type", "missing_required_parameter"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "unsupported_parameter"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function", "missing_required_parameter"),
            (json!({"tools": [tool("f"), tool("f")]}), "tools[1].function.name", "invalid_value"),
            (json!({"tools": [tool("a b")]}), "tools[0].function.name", "invalid_value"),
            (json!({"tools": vec![tool("f"); 129]}), "tools", "invalid_value"),
            (with("strict", json!(true)), "tools[0].function.strict", "invalid_value"),
            (with("parameters", json!([])), "tools[0].function.parameters", "invalid_type"),
            (with("colour", json!("red")), "tools[0].function.colour", "unknown_parameter"),
            (
                json!({"tools": [tool("f")], "tool_choice": "required"}),
                "tool_choice",
                "unsupported_parameter",
            ),
            (named("f"), "tool_choice", "unsupported_parameter"),
            (named("g"), "tool_choice.function.name", "invalid_value"),
            (json!({"tool_choice": "always"}), "tool_choice", "invalid_value"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls", "invalid_type"),
        ] {
            assert_eq!(read(Some("kimi"), body.clone()).unwrap_err(), (param.to_owned(), code), "{body}");
        }
        assert_eq!(
            read(None, json!({"tools": [tool("f")]})).unwrap_err(),
            ("tools".to_owned(), "invalid_value")
        );
    }
}
