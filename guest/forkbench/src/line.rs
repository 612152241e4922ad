//! A line between a parent and its child. Each waits for the other on it; when one has gone, the
//! other hears it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure};

/// One end.
#[derive(Debug)]
pub struct Line(UnixStream);

/// What is said: a value, or what went wrong instead.
#[derive(Serialize, Deserialize)]
enum Said<T> {
    Value(T),
    Failed(String),
}

impl Line {
    /// Both ends.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors.
    pub fn pair() -> Result<(Self, Self), Failure> {
        let (one, other) = UnixStream::pair().during("making a pair of sockets")?;
        Ok((Self(one), Self(other)))
    }

    /// Tells the other end something.
    ///
    /// # Errors
    ///
    /// When it has gone.
    pub fn tell<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        self.send(&Said::Value(value))
    }

    /// Tells the other end that there will be nothing.
    ///
    /// # Errors
    ///
    /// When it has gone.
    pub fn tell_failure(&mut self, why: &str) -> Result<(), Failure> {
        self.send(&Said::<()>::Failed(why.into()))
    }

    fn send<T: Serialize>(&mut self, said: &Said<T>) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(said)
            .map_err(|source| Failure::Json { what: "a message", source })?;
        let length = (bytes.len() as u64).to_ne_bytes();
        let message = [&length[..], &bytes].concat();
        self.0.write_all(&message).during("telling the other process")
    }

    /// Waits for what the other end tells. None when it has gone.
    ///
    /// # Errors
    ///
    /// When it failed, or says something else.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let mut length = [0; 8];
        match self.0.read_exact(&mut length) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            read => read.during("hearing the other process")?,
        }
        let mut bytes = vec![0; u64::from_ne_bytes(length) as usize];
        self.0.read_exact(&mut bytes).during("hearing the other process")?;
        match serde_json::from_slice(&bytes) {
            Ok(Said::Value(value)) => Ok(Some(value)),
            Ok(Said::Failed(ended)) => {
                Err(Failure::Child { doing: "work".into(), ended: format!("failed: {ended}") })
            }
            Err(source) => Err(Failure::Json { what: "a message", source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_failures_and_ends_are_heard() {
        let (mut one, mut other) = Line::pair().unwrap();
        one.tell(&vec![1.5, 2.0]).unwrap();
        one.tell_failure("no memory").unwrap();
        drop(one);
        assert_eq!(other.hear::<Vec<f64>>().unwrap(), Some(vec![1.5, 2.0]));
        assert!(other.hear::<Vec<f64>>().unwrap_err().to_string().contains("no memory"));
        assert_eq!(other.hear::<Vec<f64>>().unwrap(), None);
    }
}
