//! How the host speaks with the agent of a Linux guest, over vsock.
//!
//! The host opens one connection to [`PORT`] for each thing that it wants. On it both sides
//! send **frames**: four bytes of length, little-endian, and that many bytes of one message
//! in [postcard](https://postcard.jamesmunns.com/wire-format). The host's first message
//! is [`HostMessage::Open`]; what may follow, either way, depends on the request in it and is
//! said there. The agent's last message is the request's answer, and then it closes. A frame
//! that is too long or makes no sense ends the connection, and nothing else.
//!
//! When it is up, the agent connects to [`READY_PORT`] of the host once, sends
//! [`AgentMessage::Ready`], and closes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::string::{String, ToString};
use std::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of these messages. An agent answers another with [`Failure::Version`].
pub const VERSION: u16 = 1;
/// Port that the agent listens on.
pub const PORT: u32 = 1024;
/// Port of the host that the agent connects to when it is up.
pub const READY_PORT: u32 = 1025;
/// Longest message, bytes.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Most bytes in a [`HostMessage::Data`] or an [`AgentMessage::Data`] that the two sides send:
/// as much as fits into one vsock packet of Linux with its frame.
pub const CHUNK: usize = 60 << 10;

/// What the host sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// The first message of a connection.
    Open {
        /// [`VERSION`] of the host.
        version: u16,
        /// What it wants.
        request: Request,
    },
    /// Bytes: standard input of a program, or contents of a file.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// No more bytes.
    End,
    /// The terminal has another size.
    Resize(WindowSize),
    /// Send the program this signal.
    Signal(i32),
}

/// What the host can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Whether it is there. Answer: [`AgentMessage::Done`].
    Ping,
    /// Run a program. The host may send `Data`, `End`, `Resize` and `Signal`. The agent sends
    /// `Started`, `Stdout` and `Stderr`, and as answer [`AgentMessage::Exited`]. When the host
    /// closes before, the program's process group is killed.
    Exec(Exec),
    /// Take on what makes this machine another one than its parent. Answer: `Done`, when all
    /// of it has been done.
    Adopt(Adopt),
    /// Read a file. The agent sends `Data`, and as answer `End`.
    Read {
        /// Absolute path.
        path: String,
        /// First byte.
        offset: u64,
        /// Most bytes; all when none.
        length: Option<u64>,
    },
    /// Write a file: the host sends `Data` and `End`. It appears whole, or not at all.
    /// Answer: `Done`.
    Write {
        /// Absolute path.
        path: String,
        /// Permissions; of a file that exists they stay when none.
        mode: Option<u32>,
        /// Owner, as in [`Exec::user`]; root when none.
        owner: Option<String>,
        /// Whether missing directories above are made.
        parents: bool,
    },
    /// What is known of a file. Answer: [`AgentMessage::Entries`] with one.
    Stat {
        /// Absolute path.
        path: String,
    },
    /// What is in a directory, by name. Answer: `Entries` until `End`.
    List {
        /// Absolute path.
        path: String,
    },
    /// Make a directory, and those above it. Answer: `Done`.
    MakeDirectory {
        /// Absolute path.
        path: String,
    },
    /// Remove a file or directory. Answer: `Done`.
    Remove {
        /// Absolute path.
        path: String,
        /// Whether a directory goes with all in it.
        recursive: bool,
    },
    /// Give a file another name. Answer: `Done`.
    Rename {
        /// Absolute path.
        from: String,
        /// Absolute path.
        to: String,
    },
    /// Write what is in the page cache to the disks. Answer: `Done`.
    Sync,
    /// Stop everything and switch the machine off. Answer: `Done`, before it is off.
    PowerOff,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments. A name without a slash is looked for in `PATH` of `env`.
    pub argv: Vec<String>,
    /// Environment, over a minimal one (`PATH`, `HOME`, `USER`, with a terminal `TERM`).
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home when none.
    pub cwd: Option<String>,
    /// User by name or number, as /etc/passwd has it, with `:group` after it for another group
    /// than its own; root when none.
    pub user: Option<String>,
    /// Whether the host will send standard input; /dev/null otherwise. With a terminal it may
    /// always, and `End` types Control-D.
    pub stdin: bool,
    /// Runs it on a new terminal of this size: all output is then `Stdout`.
    pub terminal: Option<WindowSize>,
    /// Time after which it is killed, milliseconds.
    pub timeout_ms: Option<u64>,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What makes a clone another machine than its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// Nanoseconds since 1970, UTC, now.
    pub realtime_ns: u64,
    /// Fresh random bytes for the kernel's generator, which is reseeded at once.
    #[serde(with = "serde_bytes")]
    pub entropy: Vec<u8>,
    /// Host name; stays when none.
    pub hostname: Option<String>,
    /// 32 hexadecimal digits for /etc/machine-id; stays when none.
    pub machine_id: Option<String>,
}

/// What the agent sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// It is up. Sent to [`READY_PORT`] only.
    Ready {
        /// [`VERSION`] of the agent.
        version: u16,
    },
    /// The program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Bytes of its standard output.
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Bytes of its standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It ended.
    Exited(Exit),
    /// Contents of a file.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Files, some of those asked for.
    Entries(Vec<Entry>),
    /// That was all.
    End,
    /// It is done.
    Done,
    /// It can't be done.
    Failed(Failure),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed when its time was up.
    TimedOut,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, without the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Size, bytes.
    pub bytes: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, nanoseconds since 1970; negative before.
    pub modified_ns: i64,
    /// Where a symbolic link points.
    pub target: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// Why something can't be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The agent speaks this version only.
    Version(u16),
    /// The request contradicts itself: why.
    Invalid(String),
    /// There is no such file, program or user: which.
    NotFound(String),
    /// The kernel refused.
    Os {
        /// What was tried, and on what.
        action: String,
        /// `errno`.
        errno: i32,
    },
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Version(theirs) => {
                write!(f, "the agent speaks version {theirs} of the protocol, not {VERSION}")
            }
            Self::Invalid(why) => write!(f, "{why}"),
            Self::NotFound(what) => write!(f, "{what} does not exist"),
            Self::Os { action, errno } => {
                write!(f, "{action}: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// A message as a frame.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let frame = postcard::to_extend(message, std::vec![0; 4]).map_err(invalid)?;
    finish(frame)
}

fn finish(mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = frame.len() - 4;
    if length > MAX_MESSAGE {
        return Err(invalid(std::format!("a message of {length} bytes is too long")));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Sends a message.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(message)?)?;
    to.flush()
}

/// Waits for a message. None when the other side has closed between two of them.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => have += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = message_length(length)?;
    let mut message = std::vec![0; length];
    from.read_exact(&mut message)?;
    decode(&message).map(Some)
}

/// Length of the message that a frame announces in its first four bytes.
pub fn message_length(announced: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(announced) as usize;
    match length <= MAX_MESSAGE {
        true => Ok(length),
        false => Err(invalid(std::format!("a message of {length} bytes was announced"))),
    }
}

/// The message in `bytes`, which must be all of them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(invalid(std::format!("{} bytes after a message", rest.len()))),
        Err(error) => Err(invalid(error)),
    }
}

fn invalid(why: impl core::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let mut wire = Vec::new();
        let exec = Exec { argv: std::vec!["true".into()], ..Exec::default() };
        let open = HostMessage::Open { version: VERSION, request: Request::Exec(exec) };
        send(&mut wire, &open).unwrap();
        send(&mut wire, &HostMessage::End).unwrap();
        let mut from = wire.as_slice();
        assert_eq!(receive(&mut from).unwrap(), Some(open));
        assert_eq!(receive(&mut from).unwrap(), Some(HostMessage::End));
        assert_eq!(receive::<HostMessage>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_cut_or_endless_frame_is_an_error() {
        let wire = encode(&AgentMessage::Stdout(std::vec![7; 100])).unwrap();
        for cut in 1..wire.len() {
            assert!(receive::<AgentMessage>(&mut &wire[..cut]).is_err(), "{cut}");
        }
        assert!(receive::<AgentMessage>(&mut [0xff; 8].as_slice()).is_err());
        assert!(encode(&AgentMessage::Data(std::vec![0; MAX_MESSAGE + 1])).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_understood_but_never_fatal(bytes: Vec<u8>) {
            let _ = decode::<HostMessage>(&bytes);
            let _ = decode::<AgentMessage>(&bytes);
            let _ = receive::<HostMessage>(&mut bytes.as_slice());
        }
    }
}
