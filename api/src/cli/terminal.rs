//! This process's terminal, or what it has instead, as that of a program in a guest.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hyper::body::Bytes;
use rustix::termios::{self, OptionalActions, Termios};
use tine::agent::{AgentConnection, AgentReceiver, AgentSender};
use tine_abi::agent::{AgentMessage, CHUNK, Exit, HostMessage, WindowSize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

use super::output::ReaderLeft;

/// What a shell adds to the number of the signal that ended a program.
const SIGNALLED: u8 = 128;
/// How timeout(1) exits when the time was up.
const TIMED_OUT: u8 = 124;

/// The way to a program.
pub trait ToProgram {
    /// Sends it something, and waits while it takes no more.
    async fn send(&mut self, message: HostMessage) -> Result<()>;
}

/// The way from a program.
pub trait FromProgram {
    /// Waits for what comes next: output, or the end. Nothing else comes, and nothing is lost
    /// when the waiting is given up.
    async fn receive(&mut self) -> Result<AgentMessage>;
}

impl ToProgram for AgentSender {
    async fn send(&mut self, message: HostMessage) -> Result<()> {
        Ok(AgentSender::send(self, message).await?)
    }
}

impl FromProgram for AgentReceiver {
    async fn receive(&mut self) -> Result<AgentMessage> {
        let message = AgentReceiver::receive(self).await?;
        message.context("the guest's agent is gone, and the program with it")
    }
}

/// Connects the program that `connection` was opened for with this process's standard input
/// (if `stdin`), output and error, through its terminal (if `tty`), until the program ends;
/// how it ended, as an exit code.
pub async fn attach(mut connection: AgentConnection, stdin: bool, tty: bool) -> Result<ExitCode> {
    match connection.answer().await? {
        AgentMessage::Started { .. } => {}
        other => bail!(tine::agent::unexpected(&other)),
    }
    let (to, from) = connection.into_split();
    pump(to, from, stdin, tty).await
}

/// The same for a program that runs at the other end of `to` and `from`.
pub async fn pump(
    mut to: impl ToProgram,
    mut from: impl FromProgram,
    stdin: bool,
    tty: bool,
) -> Result<ExitCode> {
    let _raw = if stdin && tty { Some(Raw::enter()?) } else { None };
    let mut input = Input::open(stdin, tty)?;
    let mut ends = if tty { Some(Ends::listen()?) } else { None };
    let mut outputs = (tokio::io::stdout(), tokio::io::stderr());
    let hearing = async {
        loop {
            match from.receive().await? {
                AgentMessage::Stdout(bytes) => write(&mut outputs.0, &bytes).await?,
                AgentMessage::Stderr(bytes) => write(&mut outputs.1, &bytes).await?,
                AgentMessage::Exited(exit) => return Ok(ExitCode::from(exit_code(exit))),
                AgentMessage::Failed(failure) => return Err(anyhow!(failure.to_string())),
                other => bail!(tine::agent::unexpected(&other)),
            }
        }
    };
    // The program may wait for its output to be taken before it reads on: both at once.
    tokio::select! {
        never = tell(&mut input, &mut to) => match never {},
        number = ended(&mut ends) => Ok(ExitCode::from(SIGNALLED + number)),
        ended = hearing => ended,
    }
}

/// Tells the program what comes, as long as it listens; then it is about to end.
async fn tell(input: &mut Input, to: &mut impl ToProgram) -> Infallible {
    let mut listens = true;
    loop {
        let message = input.next().await;
        listens = listens && to.send(message).await.is_ok();
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match written.await {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => bail!(ReaderLeft),
        result => result.context("the program's output can't be written"),
    }
}

/// How this process exits after a program that ended so: as a shell has it.
pub fn exit_code(exit: Exit) -> u8 {
    match exit {
        // Linux keeps eight bits of it, too.
        Exit::Code(code) => code as u8,
        Exit::Signal(signal) => SIGNALLED.wrapping_add(signal as u8),
        Exit::TimedOut => TIMED_OUT,
    }
}

/// Size of the terminal of this process.
pub fn size() -> Result<WindowSize> {
    let size = termios::tcgetwinsize(io::stdin())
        .or_else(|_| termios::tcgetwinsize(io::stdout()))
        .or_else(|_| termios::tcgetwinsize(io::stderr()))
        .context("a terminal for the program (-t) needs a terminal here; leave -t away")?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The terminal passes every key on, and shows nothing by itself, as long as this lives.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = io::stdin();
        ensure!(
            stdin.is_terminal(),
            "a terminal for the program (-t) takes its input from one, which standard input is \
             not; leave -t away"
        );
        let before = termios::tcgetattr(&stdin).context("the terminal's mode can't be read")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw)
            .context("the terminal's mode can't be set")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let stdin = io::stdin();
        if let Err(error) = termios::tcsetattr(&stdin, OptionalActions::Now, &self.before) {
            eprintln!("tine: the terminal's mode can't be restored ({error}); try `reset`");
        }
    }
}

/// Pieces of what is read.
pub type Pieces = Receiver<io::Result<Bytes>>;

/// What the program is told: standard input, and the terminal's size.
struct Input {
    stdin: Option<Pieces>,
    resized: Option<Signal>,
}

impl Input {
    fn open(stdin: bool, tty: bool) -> Result<Self> {
        let resized = if tty { Some(listen(SignalKind::window_change())?) } else { None };
        let stdin = if stdin { Some(read_ahead(io::stdin())?) } else { None };
        Ok(Self { stdin, resized })
    }

    /// Waits for what comes next.
    async fn next(&mut self) -> HostMessage {
        loop {
            tokio::select! {
                piece = piece(&mut self.stdin) => match piece {
                    Some(Ok(bytes)) => return HostMessage::Data(bytes.into()),
                    end => {
                        if let Some(Err(error)) = end {
                            eprintln!("tine: standard input can't be read: {error}");
                        }
                        self.stdin = None;
                        return HostMessage::End;
                    }
                },
                () = raised(&mut self.resized) => {
                    if let Ok(size) = size() {
                        return HostMessage::Resize(size);
                    }
                }
            }
        }
    }
}

async fn piece(stdin: &mut Option<Pieces>) -> Option<io::Result<Bytes>> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None => std::future::pending().await,
    }
}

async fn raised(signal: &mut Option<Signal>) {
    // A signal that can't come any more is one that never comes.
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending().await
    }
}

/// The signals that end this process. By default they would, and leave the terminal raw.
struct Ends {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn listen() -> Result<Self> {
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("signals can't be handled")
}

/// The number of the signal that came.
async fn ended(ends: &mut Option<Ends>) -> u8 {
    let Some(Ends { hangup, interrupt, terminate }) = ends else {
        return std::future::pending().await;
    };
    let kind = tokio::select! {
        _ = hangup.recv() => SignalKind::hangup(),
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    };
    kind.as_raw_value() as u8
}

/// Reads `from` on a thread of its own, a piece at a time. The thread may wait for input
/// that never comes; it ends with the process.
pub fn read_ahead(mut from: impl Read + Send + 'static) -> Result<Pieces> {
    let (sender, receiver) = channel(1);
    let read = move || {
        loop {
            let mut bytes = vec![0; CHUNK];
            let piece = match from.read(&mut bytes) {
                Ok(0) => return,
                Ok(length) => {
                    bytes.truncate(length);
                    Ok(Bytes::from(bytes))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if sender.blocking_send(piece).is_err() || last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(read);
    thread.context("a thread that reads can't be started; check the limit on processes")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(Exit::Code(0)), 0);
        assert_eq!(exit_code(Exit::Code(3)), 3);
        assert_eq!(exit_code(Exit::Code(256 + 7)), 7);
        assert_eq!(exit_code(Exit::Signal(9)), 137);
        assert_eq!(exit_code(Exit::TimedOut), 124);
    }
}
