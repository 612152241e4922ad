//! Who is let in: whoever has the token.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Random bytes in a new token; it is written as twice as many hexadecimal digits.
const TOKEN_BYTES: usize = 32;
/// Fewest characters of a token that someone else wrote.
const MIN_TOKEN: usize = 16;

/// What can go wrong with a token file.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It can't be read or made.
    #[error("{action} the token file {path} failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error("others can read the token file {path} (mode {mode:o}); chmod 600 it")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What it holds is no token.
    #[error(
        "the token file {0} holds no token of {MIN_TOKEN} printable characters at least; remove it to get a new one"
    )]
    Weak(PathBuf),
    /// No random numbers.
    #[error("no random numbers for a token: {0}")]
    Random(getrandom::Error),
}

/// The secret that requests must carry.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The token in the file at `path`, which is made when absent, for its owner only.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let failed = |action| {
            let path = path.to_path_buf();
            move |source| TokenError::Io { action, path, source }
        };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(path),
            Err(error) => return Err(failed("reading")(error)),
        };
        let mode = file.metadata().map_err(failed("reading"))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Open { path: path.to_path_buf(), mode });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed("reading"))?;
        let token = text.trim();
        if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Weak(path.to_path_buf()));
        }
        Ok(Self(token.to_owned()))
    }

    fn create(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io { action: "making", path: path.to_path_buf(), source };
        let mut random = [0u8; TOKEN_BYTES];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(directory) = path.parent().filter(|parent| *parent != Path::new("")) {
            // Records come to lie beside it.
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        // Written whole under another name first: nobody ever reads half a token.
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.new", std::process::id()));
        let unfinished = path.with_file_name(name);
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(token.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&unfinished, path)
        };
        write().map_err(|error| {
            let _gone_or_never_made = fs::remove_file(&unfinished);
            failed(error)
        })?;
        Ok(Self(token))
    }

    /// Whether `headers` carry it.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, token)| token.trim());
        bool::from(given.as_bytes().ct_eq(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_for_its_owner_and_then_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/token");
        let made = Token::load(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let directory_mode = fs::metadata(path.parent().unwrap()).unwrap().mode();
        assert_eq!(directory_mode & 0o777, 0o700);
        assert_eq!(made.0.len(), 2 * TOKEN_BYTES);
        assert_eq!(Token::load(&path).unwrap().0, made.0);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Token::load(&path), Err(TokenError::Open { mode: 0o640, .. })));
    }

    #[test]
    fn short_tokens_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "short\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Token::load(&path), Err(TokenError::Weak(_))));
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let token = Token("0123456789abcdef".into());
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.admits(&headers)
        };
        assert!(admits("Bearer 0123456789abcdef") && admits("bearer 0123456789abcdef"));
        for wrong in [
            "Bearer 0123456789abcdee",
            "Bearer 0123456789abcde",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
        ] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }
}
