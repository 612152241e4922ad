//! SHA-256, by which the store knows its files.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::ImageError;
use crate::error::file;

/// The digest of `parts`, one behind the other, hexadecimal.
pub fn of(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // With its length, so that no two lists of parts are the same bytes.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// The digest of a file, hexadecimal.
pub fn of_file(path: &Path) -> Result<String, ImageError> {
    struct Sink(Sha256);
    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.update(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Sha256::new());
    let copied = File::open(path).and_then(|mut source| io::copy(&mut source, &mut sink));
    copied.map_err(file("reading", path))?;
    Ok(hex(&sink.0.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
