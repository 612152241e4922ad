//! SHA-256, in hexadecimal.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{ImageError, io_error};

/// Of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// Of what is in `path`.
pub(crate) fn of_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(io_error("read", path))?;
    Ok(hex(hash.finalize().as_slice()))
}

/// Of several digests, one a line.
pub(crate) fn of_digests<S: AsRef<str>>(digests: impl IntoIterator<Item = S>) -> String {
    let lines: String =
        digests.into_iter().map(|digest| format!("{}\n", digest.as_ref())).collect();
    of(lines.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_sha256sum_prints() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(b"abc"), abc);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        assert_eq!(of_file(file.path()).unwrap(), abc);
    }
}
