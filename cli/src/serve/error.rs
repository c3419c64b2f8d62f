//! Errors in the shape that OpenAI's clients read.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use influence_engine::batch::RequestError;
use influence_engine::chat::ChatError;
use influence_engine::sample::{AnswerError, SamplingError};
use serde_json::{Value, json};

/// A request that is not answered as asked.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    /// The client's mistake, in this parameter.
    pub(super) fn bad(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    pub(super) fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: message.into() }
    }

    /// No model of this name.
    pub(super) fn no_model(name: &str, known: &str) -> Self {
        let message = format!("there is no model `{}` here; this server has {known}", shown(name));
        Self { param: Some("model".into()), ..Self::new(StatusCode::NOT_FOUND, Some("model_not_found"), message) }
    }

    /// Something here broke.
    pub(super) fn broken(message: impl Into<String>) -> Self {
        let message = message.into();
        tracing::error!(error = %message, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, message)
    }

    pub(super) fn body(&self) -> Value {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

/// What a client sent, as part of a message about it.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &self.body());
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON answer.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let param = match &error {
            RequestError::TooLong { .. } | RequestError::TooLarge { .. } => {
                let too_long = Some("context_length_exceeded");
                let error = Self::new(StatusCode::BAD_REQUEST, too_long, message);
                return Self { param: Some("messages".into()), ..error };
            }
            RequestError::Stopped => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, None, "the server is stopping; ask another");
            }
            RequestError::EmptyPrompt => "messages",
            RequestError::NoTokens => "max_tokens",
            RequestError::EmptyStop => "stop",
            RequestError::Sampling(SamplingError::Temperature(_)) => "temperature",
            RequestError::Sampling(SamplingError::TopP(_)) => "top_p",
            RequestError::Sampling(SamplingError::TopK) => "top_k",
            RequestError::Sampling(SamplingError::MinP(_)) => "min_p",
            RequestError::Adapter { .. } => "lora_path",
            RequestError::UnknownToken { .. }
            | RequestError::UnknownAdapter { .. }
            | RequestError::Broken { .. }
            | RequestError::Compute(_)
            | RequestError::Decode(_) => return Self::broken(message),
        };
        Self::bad(param, message)
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        Self::bad("messages", error.to_string())
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        Self::bad("answers", error.to_string())
    }
}
