//! Tokens in files.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use influence_proto::{InvalidToken, Token};

/// The workers' token, in a folder of tokens.
pub const WORKER_TOKEN: &str = "worker.token";
/// The admins' token, in a folder of tokens.
pub const ADMIN_TOKEN: &str = "admin.token";
/// The dashboard's, in a folder of tokens.
const DASHBOARD_TOKEN: &str = "dashboard.token";

/// Random bytes in a new token.
const BYTES: usize = 32;
/// Nothing longer is read: it is no token.
const LONGEST: u64 = 4096;

/// A token that cannot be read from its file or written to it.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The system refuses.
    #[error("the token file {} cannot be used: {source}; `influence token create` makes token files", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is no token.
    #[error("the token file {} holds no token: {source}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidToken,
    },
    /// There is no randomness to be had.
    #[error("the operating system gives no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

/// Reads a token. A file that others can read is used with a warning.
///
/// # Errors
/// When there is no such file, or no token in it.
pub fn read_token(path: &Path) -> Result<Token, TokenFileError> {
    let failed = |source| TokenFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(), mode = format!("{mode:o}"),
            "others on this machine can read the token; chmod 600 the file"
        );
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    Token::new(&text).map_err(|source| TokenFileError::Invalid { path: path.to_owned(), source })
}

/// Makes a worker's, an admin's and the dashboard's token in `folder`, which only the owner can read, and returns their files. Files
/// that are there already are kept, if they hold tokens.
///
/// # Errors
/// When a file cannot be written, or one that is there holds no token.
pub fn create_tokens(folder: &Path) -> Result<[PathBuf; 3], TokenFileError> {
    let made = std::fs::create_dir_all(folder);
    made.map_err(|source| TokenFileError::Io { path: folder.to_owned(), source })?;
    let files = [WORKER_TOKEN, ADMIN_TOKEN, DASHBOARD_TOKEN].map(|name| folder.join(name));
    for file in &files {
        create(file)?;
    }
    Ok(files)
}

fn create(path: &Path) -> Result<(), TokenFileError> {
    if path.exists() {
        return read_token(path).map(|_| ());
    }
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(TokenFileError::NoRandomness)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written beside its name: a file of that name is always whole.
    let draft = path.with_extension("token.new");
    let written = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        // A draft that was left over keeps its own mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(format!("{token}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    written().map_err(|source| TokenFileError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_made_once_for_their_owner_only_and_differ() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("deep/tokens");
        let files = create_tokens(&tokens).unwrap();
        let texts = files.clone().map(|file| {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::read_to_string(&file).unwrap()
        });
        assert_ne!(texts[0], texts[1]);
        for text in &texts {
            assert_eq!(text.trim().len(), 64, "256 bits");
        }
        assert_eq!(create_tokens(&tokens).unwrap(), files);
        assert_eq!(files.clone().map(|file| std::fs::read_to_string(file).unwrap()), texts, "they are kept");
        assert_eq!(read_token(&files[0]).unwrap().digest(), influence_proto::Digest::of(texts[0].trim()));
        assert_eq!(std::fs::read_dir(&tokens).unwrap().count(), 3, "no drafts are left");
    }

    #[test]
    fn a_file_without_a_token_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(WORKER_TOKEN);
        let missing = read_token(&file).unwrap_err().to_string();
        std::fs::write(&file, "hunter2\n").unwrap();
        let short = create_tokens(folder.path()).unwrap_err().to_string();
        for refused in [&missing, &short] {
            assert!(refused.contains("worker.token") && refused.contains("influence token create"), "{refused}");
        }
        assert!(short.contains("7 characters") && !short.contains("hunter2"), "{short}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "hunter2\n");
    }
}
