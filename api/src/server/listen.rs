//! Where the daemon listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::UnixListener;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At an address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    /// `127.0.0.1:7070` or `unix:/run/tine.sock`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs the path of a socket after it".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| format!("{text:?} is no IP:PORT and no unix:PATH"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens at a Unix socket for the owner only. The socket of a daemon that died is replaced.
pub(super) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        let metadata = std::fs::symlink_metadata(path)?;
        if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
            std::fs::remove_file(path)?;
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_refused() {
        assert_eq!("unix:/a b".parse(), Ok(Listen::Unix("/a b".into())));
        assert!(matches!("[::1]:80".parse(), Ok(Listen::Tcp(_))));
        for wrong in ["", "unix:", "localhost", "127.0.0.1", "1.2.3.4:99999"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
