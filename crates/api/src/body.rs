//! Reads the body of a POST: the right content type, not too large, not too slow, a JSON object. Asking for the
//! content type also keeps out forms that a web page could send without asking the browser.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::errors::ApiError;
use crate::params::{Params, quote};
use crate::state::Server;

impl FromRequest<Arc<Server>> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Params, ApiError> {
        check_content_type(request.headers())?;
        let limits = server.app.limits;
        let bytes = tokio::time::timeout(limits.body_timeout, Bytes::from_request(request, server))
            .await
            .map_err(|_| ApiError::BodyTimeout { limit_s: limits.body_timeout.as_secs() })?
            .map_err(|e| match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge { limit: limits.body_bytes },
                _ => ApiError::Body(e.body_text()),
            })?;
        match serde_json::from_slice(&bytes).map_err(ApiError::Malformed)? {
            Value::Object(fields) => Ok(Params::of_body(fields)),
            other => Err(ApiError::NotAnObject { found: quote(&other) }),
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType { found: "none".to_owned() });
    };
    let found = String::from_utf8_lossy(value.as_bytes());
    let kind = found.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::ContentType { found: found.into_owned() })
}
