//! As much of HTTP/1.1 as a client of the daemon needs, or of another VMM, over a Unix socket that
//! stays open.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::BenchError;
use crate::stats::microseconds;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client of a server, with a connection of its own.
pub struct Client {
    stream: BufReader<UnixStream>,
    /// Whose API it is.
    server: &'static str,
    /// What the server is to know it by.
    token: Option<String>,
}

/// What the server answered.
pub struct HttpAnswer {
    /// Its status.
    pub status: u16,
    /// Its body; null if there is none.
    pub body: Value,
    /// From the request to the last byte of the answer, microseconds.
    pub us: f64,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    pub fn connect(path: &Path, token: &str) -> std::io::Result<Self> {
        Ok(Self { token: Some(token.to_owned()), ..Self::of(path, "a daemon")? })
    }

    /// Connects to the API of `server`, which asks for no token, at `path`.
    pub fn of(path: &Path, server: &'static str) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream: BufReader::new(stream), server, token: None })
    }

    /// Asks for `method` of `path` with `body`, and sees to it that it is done.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<HttpAnswer, BenchError> {
        let doing = format!("{method} {path} of {}", self.server);
        let failed = |reason: String| BenchError::Daemon { doing, reason };
        match self.exchange(method, path, body) {
            Ok(answer) if (200..=299).contains(&answer.status) => Ok(answer),
            Ok(answer) => Err(failed(format!("status {}: {}", answer.status, answer.body))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<HttpAnswer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = self.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: tine\r\n{}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            token.unwrap_or_default(),
            body.len()
        );
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, bytes) = read_answer(&mut self.stream)?;
        let us = microseconds(begun.elapsed());
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes)?,
        };
        Ok(HttpAnswer { status, body, us })
    }
}

/// Status and body of the next answer.
fn read_answer(stream: &mut impl BufRead) -> std::io::Result<(u16, Vec<u8>)> {
    let nonsense = |what: &str| std::io::Error::other(format!("the answer has no {what}"));
    let mut line = String::new();
    let mut next = |stream: &mut dyn BufRead| -> std::io::Result<String> {
        line.clear();
        match stream.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = next(stream)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| nonsense("status"))?;
    let mut length = None;
    loop {
        let header = next(stream)?;
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    // No content comes without a length.
    let length = if status == 204 { 0 } else { length.ok_or_else(|| nonsense("length"))? };
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_each_other() {
        let text = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\
                    \r\n{}HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        let mut stream = text.as_bytes();
        assert_eq!(read_answer(&mut stream).unwrap(), (201, b"{}".to_vec()));
        assert_eq!(read_answer(&mut stream).unwrap(), (204, vec![]));
        assert!(read_answer(&mut stream).unwrap_err().to_string().contains("no length"));
        assert!(read_answer(&mut stream).is_err());
    }
}
