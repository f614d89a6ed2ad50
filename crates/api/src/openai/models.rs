//! `GET /v1/models` and `/v1/models/{id}`: the one model this server has, under its name and its aliases.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::errors::ApiError;
use crate::params::ParamError;
use crate::state::Server;

#[derive(Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// Every name a request may use, the model's own first.
pub(crate) async fn list(State(server): State<Arc<Server>>) -> Json<List> {
    let names = std::iter::once(&server.app.model_id).chain(&server.app.aliases);
    Json(List { object: "list", data: names.map(|name| model(&server, name.clone())).collect() })
}

/// One of them. Names may contain slashes.
pub(crate) async fn retrieve(
    State(server): State<Arc<Server>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(name) = name.map_err(|e| ParamError::refused("model", e.body_text()))?;
    served(&server, name).map(|name| Json(model(&server, name)))
}

/// `name` if it means the served model.
pub(super) fn served(server: &Server, name: String) -> Result<String, ApiError> {
    if server.serves(&name) {
        return Ok(name);
    }
    Err(ApiError::ModelNotFound { asked: name, served: server.app.model_id.clone() })
}

fn model(server: &Server, id: String) -> Model {
    Model { id, object: "model", created: server.started_unix_s, owned_by: "onefold" }
}
