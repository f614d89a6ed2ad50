//! What can go wrong between a client and the engine, and how OpenAI's dialect says it. It knows status codes
//! and error codes; it does not know which endpoint failed.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::params::ParamError;

/// Seconds a client should wait before it asks a full queue again.
pub const RETRY_AFTER_S: u32 = 1;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("the body is not valid JSON: {0}")]
    Malformed(serde_json::Error),
    #[error("the body must be a JSON object, found {found}")]
    NotAnObject { found: String },
    #[error(
        "the content type must be application/json, found {found}\nhint: send the header `Content-Type: application/json`"
    )]
    ContentType { found: String },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body could not be read: {0}")]
    Body(String),
    #[error("the body did not arrive within {limit_s} s")]
    BodyTimeout { limit_s: u64 },
    #[error("the model `{asked}` is not served here; the served model is `{served}`")]
    ModelNotFound { asked: String, served: String },
    #[error(
        "this model's context length is {context_len} tokens, but the request needs {needed}: {prompt} in the \
         {param} and {answer} for the answer\nhint: shorten the {param} or lower the number of tokens to generate"
    )]
    ContextOverflow { context_len: u32, needed: u64, prompt: u64, answer: u64, param: &'static str },
    #[error("the queue is full: {limit} requests are open\nhint: try again in {RETRY_AFTER_S} s")]
    Busy { limit: u32 },
    #[error("the model cannot answer now: {why}")]
    Down { why: String },
    #[error("the answer broke off: {message}")]
    Failed { message: String },
    #[error("there is no {path} here")]
    NoRoute { path: String },
    #[error("{path} does not answer to {method}")]
    Method { method: String, path: String },
    #[error(
        "requests under the host name `{host}` are refused, so that no web page can reach this server by \
         rebinding its name\nhint: use the IP address or localhost, or start the server with this host name allowed"
    )]
    Host { host: String },
}

impl ApiError {
    /// The HTTP status that goes with it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            ApiError::Param(_)
            | ApiError::Malformed(_)
            | ApiError::NotAnObject { .. }
            | ApiError::Body(_)
            | ApiError::ContextOverflow { .. } => StatusCode::BAD_REQUEST,
            ApiError::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            ApiError::ModelNotFound { .. } | ApiError::NoRoute { .. } => StatusCode::NOT_FOUND,
            ApiError::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Host { .. } => StatusCode::FORBIDDEN,
            ApiError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Down { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ApiError::Param(e) => Some(&e.param),
            ApiError::ModelNotFound { .. } => Some("model"),
            ApiError::ContextOverflow { param, .. } => Some(param),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some(match self {
            ApiError::Param(e) => e.code(),
            ApiError::Malformed(_) => "invalid_json",
            ApiError::NotAnObject { .. } => "invalid_type",
            ApiError::ContentType { .. } => "unsupported_media_type",
            ApiError::TooLarge { .. } => "body_too_large",
            ApiError::BodyTimeout { .. } => "body_timeout",
            ApiError::ModelNotFound { .. } => "model_not_found",
            ApiError::ContextOverflow { .. } => "context_length_exceeded",
            ApiError::Busy { .. } => "queue_full",
            ApiError::Down { .. } => "replica_down",
            ApiError::Failed { .. } => "answer_failed",
            ApiError::NoRoute { .. } => "unknown_url",
            ApiError::Method { .. } => "method_not_allowed",
            ApiError::Host { .. } => "host_not_allowed",
            ApiError::Body(_) => return None,
        })
    }

    /// The error object, as a response's body or as an event in the middle of a stream.
    pub(crate) fn body(&self) -> impl Serialize + use<> {
        #[derive(Serialize)]
        struct Body {
            error: Inner,
        }
        #[derive(Serialize)]
        struct Inner {
            message: String,
            r#type: &'static str,
            param: Option<String>,
            code: Option<&'static str>,
        }
        Body {
            error: Inner {
                message: self.to_string(),
                r#type: self.kind(),
                param: self.param().map(str::to_owned),
                code: self.code(),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if matches!(self, ApiError::Busy { .. }) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}
