//! Adapters that clients load and drop, by vLLM's paths.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::error::{ApiError, answer};
use super::models::Served;
use super::request::Body;

#[derive(Debug, Deserialize)]
pub(super) struct Load {
    lora_name: String,
    /// A PEFT folder that this process can read.
    lora_path: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Unload {
    lora_name: String,
}

pub(super) async fn load(State(served): State<Served>, Body(request): Body<Load>) -> Result<Response, ApiError> {
    let Load { lora_name, lora_path } = request;
    served.load_adapter(lora_name.clone(), lora_path).await?;
    Ok(answer(StatusCode::OK, &json!({"loaded": lora_name})))
}

pub(super) async fn unload(State(served): State<Served>, Body(request): Body<Unload>) -> Result<Response, ApiError> {
    served.drop_adapter(&request.lora_name).await?;
    Ok(answer(StatusCode::OK, &json!({"unloaded": request.lora_name})))
}
