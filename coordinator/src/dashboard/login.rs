//! Who may see the pages, where others can reach them: whoever has shown the token.
//!
//! The login page takes it and sets a cookie, which is derived from the token and opens nothing but dashboards with the same
//! token. No script can read the cookie, and no other site can have it sent.

use std::time::Duration;

use askama::Template;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use influence_proto::{Digest, Token};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::Pages;
use super::error::PageError;

const COOKIE: &str = "influence_dashboard";
/// Whoever guesses waits.
const AFTER_A_WRONG_TOKEN: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Clone)]
pub(super) struct Login {
    token: Digest,
    cookie: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    pub(super) fn new(token: &Token) -> Self {
        let token = token.digest();
        Self { token, cookie: Digest::of(format!("dashboard cookie {token}")).to_string() }
    }

    /// Whether a request has the cookie. Takes the same time for every wrong one.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut all = cookies.flat_map(|all| all.split(';')).filter_map(|one| one.trim().split_once('='));
        all.any(|(name, value)| name == COOKIE && self.cookie.as_bytes().ct_eq(value.as_bytes()).into())
    }

    /// Whether this is the token. Takes the same time for every wrong one of one length.
    fn opens_to(&self, shown: &str) -> bool {
        self.token.as_bytes().as_slice().ct_eq(Digest::of(shown.trim()).as_bytes()).into()
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    to: String,
    problem: Option<&'static str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// The page that was asked for.
    to: String,
}

/// What the form says.
#[derive(Deserialize)]
pub(super) struct Shown {
    token: String,
    #[serde(default)]
    to: String,
}

pub(super) async fn page(Query(asked): Query<Asked>) -> Result<Html<String>, PageError> {
    Ok(Html(LoginPage { to: on_this_site(&asked.to), problem: None }.render()?))
}

/// Sets the cookie, and leads on to the page that was asked for.
pub(super) async fn enter(State(pages): State<Pages>, Form(shown): Form<Shown>) -> Result<Response, PageError> {
    let to = on_this_site(&shown.to);
    let Some(login) = &pages.login else { return Ok(Redirect::to(&to).into_response()) };
    if !login.opens_to(&shown.token) {
        tokio::time::sleep(AFTER_A_WRONG_TOKEN).await;
        let page = LoginPage { to, problem: Some("That is not the token.") }.render()?;
        return Ok((StatusCode::UNAUTHORIZED, Html(page)).into_response());
    }
    let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", login.cookie);
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(&to)).into_response())
}

/// A path of this site; the list of runs in place of anything else.
fn on_this_site(to: &str) -> String {
    let rest = to.strip_prefix('/').filter(|rest| !rest.starts_with(['/', '\\']));
    let plain = to.chars().all(|c| c.is_ascii_graphic());
    if plain && rest.is_some() { to.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::on_this_site;

    #[test]
    fn a_login_leads_to_pages_of_this_site_only() {
        for to in ["/", "/runs/demo?filter=a%20b#turn-1"] {
            assert_eq!(on_this_site(to), to);
        }
        let others = ["", "//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"];
        for to in others.into_iter().chain(["/a\r\nset-cookie: x", "/\t/evil.example"]) {
            assert_eq!(on_this_site(to), "/", "{to:?}");
        }
    }
}
