//! The routes, and what holds for all of them: the host check, the size of bodies, counting, and errors in one
//! shape also for unknown paths and wrong methods. No CORS headers are sent, so pages of other origins cannot read
//! an answer.

use std::io;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::errors::ApiError;
use crate::hosts;
use crate::openai::{chat, completion, models};
use crate::state::{AppState, Server};

/// Serves on a socket that somebody else bound, until it fails.
///
/// # Errors
/// When the socket does.
pub async fn serve(listener: TcpListener, app: AppState) -> io::Result<()> {
    // A token's event is small and must not wait for the next one.
    let listener = listener.tap_io(|connection| {
        // Fails only on a connection that is already gone.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, router(app)).await
}

/// The server as a tower service; it binds nothing.
pub fn router(app: AppState) -> Router {
    let server = Server::new(app);
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completion::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(server.app.limits.body_bytes))
        .layer(middleware::from_fn_with_state(server.clone(), check_host))
        .layer(middleware::from_fn_with_state(server.clone(), count))
        .with_state(server)
}

async fn health(State(server): State<Arc<Server>>) -> Response {
    match (server.app.status)().down {
        None => Json(json!({ "status": "ok", "model": server.app.model_id })).into_response(),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "down", "why": why }))).into_response()
        }
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let open = (server.app.client.n_open(), server.app.client.max_open());
    let page = server.metrics.print(open, &(server.app.status)().gauges);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::NoRoute { path: uri.path().to_owned() }
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::Method { method: method.to_string(), path: uri.path().to_owned() }
}

async fn check_host(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match hosts::refused(request.headers(), &server.app.allowed_hosts) {
        Some(host) => ApiError::Host { host: host.to_owned() }.into_response(),
        None => next.run(request).await,
    }
}

async fn count(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let endpoint = endpoint(request.uri().path());
    let response = next.run(request).await;
    server.metrics.count_response(endpoint, response.status().as_u16());
    response
}

/// The label under which a path is counted: few, whatever is asked for.
fn endpoint(path: &str) -> &'static str {
    const EXACT: [&str; 5] = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"];
    match EXACT.iter().find(|exact| **exact == path) {
        Some(exact) => exact,
        None if path.starts_with("/v1/models/") => "/v1/models/{id}",
        None => "other",
    }
}
