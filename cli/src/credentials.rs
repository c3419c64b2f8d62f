//! Tokens and certificates: from files and the environment to what coordinator and worker take.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use influence_coordinator::access::{
    ADMIN_TOKEN, Access, AccessOptions, TlsPem, WORKER_TOKEN, create_tokens, read_token,
};
use influence_proto::Token;
use influence_worker::{Credentials, IdentityPem};

use crate::args::{AccessArguments, CredentialArguments, TokenCommand};
use crate::terminal::print;

/// The worker's token, for both sides.
const WORKER_VARIABLE: &str = "INFLUENCE_WORKER_TOKEN";
/// The admin's token.
const ADMIN_VARIABLE: &str = "INFLUENCE_ADMIN_TOKEN";
/// The dashboard's.
const DASHBOARD_VARIABLE: &str = "INFLUENCE_DASHBOARD_TOKEN";
/// That of `influence serve`'s clients.
const SERVE_VARIABLE: &str = "INFLUENCE_SERVE_TOKEN";

/// What a coordinator asks of its callers.
pub(crate) fn access(arguments: &AccessArguments) -> anyhow::Result<Access> {
    let (worker, admin) = match &arguments.tokens {
        Some(folder) => {
            let admin = folder.join(ADMIN_TOKEN);
            let admin = admin.exists().then(|| read_token(&admin)).transpose()?;
            (Some(read_token(&folder.join(WORKER_TOKEN))?), admin)
        }
        None => (variable(WORKER_VARIABLE)?, variable(ADMIN_VARIABLE)?),
    };
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsPem {
            certificate: read(certificate)?,
            key: read(key)?,
            client_ca: arguments.tls_client_ca.as_deref().map(read).transpose()?,
        }),
        _ => None,
    };
    Ok(Access::new(AccessOptions { worker, admin, tls, allow_plaintext: arguments.allow_plaintext })?)
}

/// What a worker shows to its coordinator.
pub(crate) fn of_worker(arguments: &CredentialArguments) -> anyhow::Result<Credentials> {
    credentials(arguments, WORKER_VARIABLE)
}

/// What an admin shows to the coordinator.
pub(crate) fn of_admin(arguments: &CredentialArguments) -> anyhow::Result<Credentials> {
    credentials(arguments, ADMIN_VARIABLE)
}

fn credentials(arguments: &CredentialArguments, token: &str) -> anyhow::Result<Credentials> {
    let token = token_of(arguments.token_file.as_deref(), token)?;
    let identity = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(IdentityPem { certificate: read(certificate)?, key: read(key)? }),
        _ => None,
    };
    let ca = arguments.tls_ca.as_deref().map(read).transpose()?;
    Ok(Credentials { token, ca, identity, allow_plaintext: arguments.allow_plaintext })
}

/// What `influence serve` asks of its clients.
pub(crate) fn of_clients(token_file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    token_of(token_file, SERVE_VARIABLE)
}

/// What the dashboard asks of whoever wants to see it.
pub(crate) fn of_readers(token_file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    token_of(token_file, DASHBOARD_VARIABLE)
}

fn token_of(file: Option<&Path>, variable_name: &str) -> anyhow::Result<Option<Token>> {
    match file {
        Some(file) => Ok(Some(read_token(file)?)),
        None => variable(variable_name),
    }
}

/// `influence token create`.
pub(crate) fn token(command: &TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create { dir } = command;
    let paths = create_tokens(dir)?;
    print(&paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>())
}

fn variable(name: &str) -> anyhow::Result<Option<Token>> {
    let Some(text) = std::env::var_os(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    // Never shown, not even as what cannot be read.
    let text = OsString::into_string(text).unwrap_or_default();
    Ok(Some(Token::new(&text).with_context(|| format!("{name} holds no token"))?))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}
