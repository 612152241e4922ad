//! As much of Redis's protocol (RESP 2) as the measurements need. Requests go out together and
//! answers are read one by one, so that the time of each is known.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the server may take for an answer: it may stand still for a fork.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest string that is taken for one.
const MAX_BYTES: usize = 64 << 20;

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A word.
    Word(String),
    /// A number.
    Number(i64),
    /// Bytes; none when there is no such key.
    Bytes(Option<Vec<u8>>),
}

/// A connection to a server.
pub struct Client {
    stream: BufReader<UnixStream>,
    out: Vec<u8>,
}

impl Client {
    /// Connects to the server that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream: BufReader::with_capacity(1 << 16, stream), out: Vec::new() })
    }

    /// Adds a command to those that go out next.
    pub fn push(&mut self, words: &[&[u8]]) {
        encode(&mut self.out, words);
    }

    /// Sends what was added.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The next answer. One that says that something failed is an error.
    pub fn answer(&mut self) -> io::Result<Answer> {
        read_answer(&mut self.stream)
    }

    /// One command and its answer.
    pub fn ask(&mut self, words: &[&str]) -> io::Result<Answer> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.push(&words);
        self.send()?;
        self.answer()
    }

    /// The field `name` of the server's account of `section`.
    pub fn info(&mut self, section: &str, name: &str) -> io::Result<String> {
        match self.ask(&["INFO", section])? {
            Answer::Bytes(Some(text)) => field(&String::from_utf8_lossy(&text), name),
            other => Err(nonsense(&format!("INFO was answered with {other:?}"))),
        }
    }

    /// The same, a number.
    pub fn info_number(&mut self, section: &str, name: &str) -> io::Result<u64> {
        let text = self.info(section, name)?;
        text.parse().map_err(|_| nonsense(&format!("{name} is {text:?}, which is no number")))
    }
}

fn encode(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend(*word);
        out.extend(b"\r\n");
    }
}

fn read_answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut line = Vec::with_capacity(16);
    if stream.take(MAX_BYTES as u64).read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&line);
    let text = text.trim_end();
    let (kind, rest) = text.split_at_checked(1).ok_or_else(|| nonsense("an empty answer"))?;
    let number = || rest.parse::<i64>().map_err(|_| nonsense(&format!("no number: {text:?}")));
    match kind {
        "+" => Ok(Answer::Word(rest.to_owned())),
        "-" => Err(io::Error::other(format!("the server refused: {rest}"))),
        ":" => Ok(Answer::Number(number()?)),
        "$" if rest == "-1" => Ok(Answer::Bytes(None)),
        "$" => {
            let length = usize::try_from(number()?).ok().filter(|&length| length <= MAX_BYTES);
            let length = length.ok_or_else(|| nonsense(&format!("no length: {text:?}")))?;
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(Answer::Bytes(Some(bytes)))
        }
        _ => Err(nonsense(&format!("an answer of an unknown kind: {text:.40?}"))),
    }
}

fn field(text: &str, name: &str) -> io::Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
        .ok_or_else(|| nonsense(&format!("this server does not tell {name}")))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_each_other() {
        let mut stream = &b"+OK\r\n:42\r\n$5\r\na\r\nbc\r\n$-1\r\n-ERR no\r\n?\r\n$x\r\n"[..];
        let mut next = || read_answer(&mut stream);
        assert_eq!(next().unwrap(), Answer::Word("OK".into()));
        assert_eq!(next().unwrap(), Answer::Number(42));
        assert_eq!(next().unwrap(), Answer::Bytes(Some(b"a\r\nbc".to_vec())));
        assert_eq!(next().unwrap(), Answer::Bytes(None));
        assert!(next().unwrap_err().to_string().contains("ERR no"));
        assert!(next().is_err() && next().is_err() && next().is_err());
    }

    #[test]
    fn commands_have_lengths_and_fields_have_names() {
        let mut out = Vec::new();
        encode(&mut out, &[b"GET", b"a b"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
        assert_eq!(field("# Stats\r\nforks:1\r\nfork:23\r\n", "fork").unwrap(), "23");
        assert!(field("a:1\r\n", "b").is_err());
    }
}
