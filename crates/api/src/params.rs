//! Takes a JSON object apart field by field: every field is taken, checked and removed, and whatever is left at
//! the end is an error that names it. So nothing a client sends is ignored in silence. It knows types and
//! ranges; it does not know what a parameter means.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// Characters of a wrong value that an error repeats.
const MAX_QUOTED_CHARS: usize = 60;

/// A field that is missing, of the wrong type, out of range or not known.
#[derive(Debug, thiserror::Error)]
#[error("`{param}` {problem}")]
pub(crate) struct ParamError {
    /// Path of the field, as in `messages[2].content`.
    pub(crate) param: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("is required: {expected}")]
    Missing { expected: &'static str },
    #[error("must be {expected}, found {found}")]
    Type { expected: String, found: String },
    #[error("must be {expected}, found {found}")]
    Value { expected: String, found: String },
    #[error("is not supported; only {accepted} is accepted, found {found}")]
    Unsupported { accepted: &'static str, found: String },
    #[error(
        "is not a parameter this server knows\nhint: leave it out; parameters are never ignored in silence"
    )]
    Unknown,
    #[error("{0}")]
    Refused(String),
}

impl ParamError {
    pub(crate) fn new(param: impl Into<String>, problem: Problem) -> ParamError {
        ParamError { param: param.into(), problem }
    }

    /// A value of the right type that cannot be used, in the caller's words.
    pub(crate) fn refused(param: impl Into<String>, why: impl Into<String>) -> ParamError {
        ParamError::new(param, Problem::Refused(why.into()))
    }

    pub(crate) fn wrong_type(param: impl Into<String>, expected: &str, found: &Value) -> ParamError {
        ParamError::new(param, Problem::Type { expected: expected.to_owned(), found: quote(found) })
    }

    pub(crate) fn wrong_value(param: impl Into<String>, expected: &str, found: &Value) -> ParamError {
        ParamError::new(param, Problem::Value { expected: expected.to_owned(), found: quote(found) })
    }

    pub(crate) fn code(&self) -> &'static str {
        match self.problem {
            Problem::Missing { .. } => "missing_required_parameter",
            Problem::Type { .. } => "invalid_type",
            Problem::Value { .. } | Problem::Refused(_) => "invalid_value",
            Problem::Unsupported { .. } => "unsupported_parameter",
            Problem::Unknown => "unknown_parameter",
        }
    }
}

/// A parameter that is not honoured, with the values for which ignoring it changes nothing.
pub(crate) struct Inert {
    pub(crate) name: &'static str,
    /// Those values in words.
    pub(crate) accepted: &'static str,
    pub(crate) is_no_op: fn(&Value) -> bool,
}

/// The fields of one JSON object that nobody has taken yet. `null` counts as absent everywhere.
#[derive(Debug)]
pub(crate) struct Params {
    path: String,
    fields: Map<String, Value>,
}

impl Params {
    /// The body of a request.
    pub(crate) fn of_body(fields: Map<String, Value>) -> Params {
        Params { path: String::new(), fields }
    }

    /// An object inside the body, at `path`.
    pub(crate) fn nested(path: String, value: Value) -> Result<Params, ParamError> {
        match value {
            Value::Object(fields) => Ok(Params { path, fields }),
            other => Err(ParamError::wrong_type(path, "an object", &other)),
        }
    }

    /// The path of one of its fields.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// The field, which stays.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// The error for a field that must be there.
    pub(crate) fn missing(&self, name: &str, expected: &'static str) -> ParamError {
        ParamError::new(self.path_of(name), Problem::Missing { expected })
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ParamError> {
        self.take_as(name, "true or false", |value| value.as_bool().ok_or(value))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ParamError> {
        self.take_as(name, "a string", |value| match value {
            Value::String(s) => Ok(s),
            other => Err(other),
        })
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ParamError> {
        self.take_as(name, "an array", |value| match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        })
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Params>, ParamError> {
        let path = self.path_of(name);
        self.take(name).map(|value| Params::nested(path, value)).transpose()
    }

    /// A number in `range`. The range is checked before the number is rounded to 32 bits.
    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ParamError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let Some(value) = self.take(name) else { return Ok(None) };
        let number =
            value.as_f64().ok_or_else(|| ParamError::wrong_type(self.path_of(name), &expected, &value))?;
        if number < f64::from(*range.start()) || number > f64::from(*range.end()) {
            return Err(ParamError::wrong_value(self.path_of(name), &expected, &value));
        }
        Ok(Some(number as f32))
    }

    /// A whole number in `range`.
    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ParamError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_i64().or(value.is_u64().then_some(i64::MAX)) else {
            return Err(ParamError::wrong_type(self.path_of(name), &expected, &value));
        };
        if !range.contains(&number) {
            return Err(ParamError::wrong_value(self.path_of(name), &expected, &value));
        }
        Ok(Some(number))
    }

    /// Accepts parameters that are not honoured as long as they ask for nothing.
    pub(crate) fn accept_inert(&mut self, table: &[Inert]) -> Result<(), ParamError> {
        for inert in table {
            match self.take(inert.name) {
                Some(value) if !(inert.is_no_op)(&value) => {
                    let problem = Problem::Unsupported { accepted: inert.accepted, found: quote(&value) };
                    return Err(ParamError::new(self.path_of(inert.name), problem));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The end of the object: every field must have been taken.
    pub(crate) fn finish(self) -> Result<(), ParamError> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(ParamError::new(self.path_of(name), Problem::Unknown)),
            None => Ok(()),
        }
    }

    fn take_as<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, ParamError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(value).map(Some).map_err(|found| ParamError::wrong_type(self.path_of(name), expected, &found))
    }
}

/// A value as an error message shows it: scalars themselves, the rest by kind.
pub(crate) fn quote(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) if s.chars().count() > MAX_QUOTED_CHARS => {
            format!("\"{}…\"", s.chars().take(MAX_QUOTED_CHARS).collect::<String>())
        }
        Value::String(s) => format!("\"{s}\""),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: &str) -> Params {
        Params::nested(String::new(), serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn a_number_keeps_to_its_range_and_null_is_absent() {
        let mut p = params(r#"{"a": 0.5, "b": 2.5, "c": "1", "d": null}"#);
        assert_eq!(p.number("a", 0.0..=2.0).unwrap(), Some(0.5));
        let e = p.number("b", 0.0..=2.0).unwrap_err();
        assert_eq!(
            (e.to_string().as_str(), e.code()),
            ("`b` must be a number from 0 to 2, found 2.5", "invalid_value")
        );
        assert_eq!(p.number("c", 0.0..=2.0).unwrap_err().code(), "invalid_type");
        assert_eq!(p.number("d", 0.0..=2.0).unwrap(), None);
        p.finish().unwrap();
    }

    #[test]
    fn an_integer_beyond_64_bits_is_out_of_range_and_a_fraction_is_no_integer() {
        let mut p = params(r#"{"a": 18446744073709551615, "b": 1.5, "c": -1}"#);
        assert_eq!(p.integer("a", 0..=9).unwrap_err().code(), "invalid_value");
        assert_eq!(p.integer("b", 0..=9).unwrap_err().code(), "invalid_type");
        assert_eq!(p.integer("c", 0..=9).unwrap_err().code(), "invalid_value");
    }

    #[test]
    fn what_is_left_is_named_with_its_path() {
        let p = Params::nested("messages[0]".into(), serde_json::json!({"x": 1})).unwrap();
        let e = p.finish().unwrap_err();
        assert_eq!((e.param.as_str(), e.code()), ("messages[0].x", "unknown_parameter"));
    }

    #[test]
    fn inert_parameters_may_ask_for_nothing_only() {
        let table = [Inert { name: "n", accepted: "1", is_no_op: |v| *v == 1 }];
        params(r#"{"n": 1}"#).accept_inert(&table).unwrap();
        params(r#"{"n": null}"#).accept_inert(&table).unwrap();
        let e = params(r#"{"n": 2}"#).accept_inert(&table).unwrap_err();
        assert_eq!(e.to_string(), "`n` is not supported; only 1 is accepted, found 2");
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert!(quote(&Value::String("é".repeat(100))).chars().count() < 70);
    }
}
