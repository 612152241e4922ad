//! This process's terminal, or pipes, joined to a program in a guest.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tine::agent::{AgentConnection, AgentError};
use tine_abi::agent::{AgentMessage, CHUNK, Exit, HostMessage, WindowSize};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::interrupt::Interrupt;

/// Exit code of a program whose time was up, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// What is added to a signal's number, as shells have it.
const BY_SIGNAL: i32 = 128;

/// Messages that wait to be sent, or shown.
pub const WAITING: usize = 8;

/// What a program in a guest is joined by: messages each way.
pub struct Program {
    /// To it.
    pub sender: mpsc::Sender<HostMessage>,
    /// From it; ends when nothing more comes.
    pub receiver: mpsc::Receiver<Result<AgentMessage>>,
}

impl Program {
    /// The program behind an agent's connection.
    pub fn of(connection: AgentConnection) -> Self {
        let (sender, mut wanted) = mpsc::channel(WAITING);
        let (heard, receiver) = mpsc::channel(WAITING);
        let (mut agent_sender, mut agent_receiver) = connection.split();
        tokio::spawn(async move {
            while let Some(message) = wanted.recv().await {
                // When it takes no more, what comes from it says why.
                if agent_sender.send(&message).await.is_err() {
                    return;
                }
            }
            // Closing this half would end the program.
            std::future::pending::<()>().await;
        });
        tokio::spawn(async move {
            loop {
                let message = agent_receiver.receive().await;
                if matches!(message, Err(AgentError::Closed)) {
                    return;
                }
                let over = message.is_err();
                if heard.send(message.map_err(anyhow::Error::from)).await.is_err() || over {
                    return;
                }
            }
        });
        Self { sender, receiver }
    }
}

/// Size of the terminal on this process's standard input, if that is one.
pub fn size() -> Option<WindowSize> {
    nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes a winsize to where the pointer points, which is one.
    let known = unsafe { window_size(libc::STDIN_FILENO, &raw mut size) };
    known.ok().map(|_| WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// A terminal that passes every key on; it is what it was when this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("the terminal can't be examined")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).context("the terminal can't be set")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before) {
            eprintln!("tine: the terminal is left as the guest's program set it: {error}");
        }
    }
}

/// Passes input and output between this process and `program` until that ends. Returns the exit
/// code for this process. `stdin`: pass standard input; `tty`: the program has a terminal,
/// which this process's is to be.
pub async fn attach(program: Program, stdin: bool, tty: bool) -> Result<ExitCode> {
    let Program { sender, mut receiver } = program;
    let raw = if tty && size().is_some() { Some(Raw::enter()?) } else { None };
    let mut interrupt = Interrupt::listen()?;
    let mut resized = signal(SignalKind::window_change()).context("signals can't be handled")?;
    let input = stdin.then(|| tokio::spawn(pass_input(sender.clone())));
    let code = loop {
        tokio::select! {
            message = receiver.recv() => match message {
                Some(message) => if let Some(exit) = show(message?)? { break exit_code(exit) },
                None => bail!("the connection to the guest ended before its program did"),
            },
            () = changed(&mut resized), if tty => {
                if let Some(size) = size() {
                    // A program that is gone needs no size.
                    let _gone = sender.send(HostMessage::Resize(size)).await;
                }
            }
            () = interrupt.wait() => {
                let _gone = sender.send(HostMessage::Signal(libc::SIGINT)).await;
            }
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    drop(raw);
    Ok(ExitCode::from(code))
}

async fn changed(resized: &mut Signal) {
    if resized.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Shows what the program wrote. How it ended, when it did.
fn show(message: AgentMessage) -> Result<Option<Exit>> {
    let write = |to: &mut dyn Write, bytes: &[u8]| to.write_all(bytes).and_then(|()| to.flush());
    match message {
        AgentMessage::Started { .. } => {}
        AgentMessage::Stdout(bytes) => {
            write(&mut io::stdout(), &bytes).context("stdout can't be written")?;
        }
        AgentMessage::Stderr(bytes) => {
            write(&mut io::stderr(), &bytes).context("stderr can't be written")?;
        }
        AgentMessage::Exited(exit) => return Ok(Some(exit)),
        AgentMessage::Failed(failure) => bail!("{failure}"),
        _ => bail!("the guest's agent answered what makes no sense here"),
    }
    Ok(None)
}

/// The exit code that tells how a program ended.
pub fn exit_code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code as u8,
        Exit::Signal(signal) => (BY_SIGNAL + signal) as u8,
        Exit::TimedOut => TIMED_OUT,
    }
}

async fn pass_input(sender: mpsc::Sender<HostMessage>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        let message = match stdin.read(&mut buffer).await {
            Ok(0) => HostMessage::End,
            Ok(bytes) => HostMessage::Data(buffer[..bytes].to_vec()),
            Err(error) => {
                eprintln!("tine: standard input can't be read: {error}");
                HostMessage::End
            }
        };
        let over = message == HostMessage::End;
        if sender.send(message).await.is_err() || over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_shells_have() {
        assert_eq!(exit_code(Exit::Code(3)), 3);
        assert_eq!(exit_code(Exit::Signal(9)), 137);
        assert_eq!(exit_code(Exit::TimedOut), 124);
    }
}
