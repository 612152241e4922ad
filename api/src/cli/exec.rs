//! `tine exec`: a program in a sandbox that exists.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tine::model::{ExecControl, ExecEvent, ExecRequest, TerminalSize};
use tine::server::{STDERR, STDOUT};
use tine_abi::agent::{AgentMessage, HostMessage, WindowSize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, segment};
use super::{resolve, terminal};

/// Size of a terminal that nobody told.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// The program, and how it is to run.
#[derive(Args, Debug, Default)]
pub struct Program {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Run it on a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Working directory [default: the user's home]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User, by name or number [default: root]
    #[arg(short, long)]
    user: Option<String>,
    /// Kill it after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The program and its arguments [default: a shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("an environment variable is KEY=VALUE".to_owned()),
    }
}

impl Program {
    /// Whether no program was named.
    pub fn is_empty(&self) -> bool {
        self.command.is_empty()
    }

    /// What the API is asked for. Without a command a shell, on this terminal if there is one.
    pub fn request(&self) -> ExecRequest {
        let is_shell = self.command.is_empty();
        let at_terminal = std::io::stdin().is_terminal();
        let argv = if is_shell { vec!["/bin/sh".to_owned()] } else { self.command.clone() };
        let tty = self.tty || (is_shell && at_terminal);
        let size = terminal::size().unwrap_or(DEFAULT_SIZE);
        let mut env: BTreeMap<String, String> = self.env.iter().cloned().collect();
        if tty && let Ok(term) = std::env::var("TERM") {
            env.entry("TERM".to_owned()).or_insert(term);
        }
        ExecRequest {
            argv,
            env,
            cwd: self.workdir.clone(),
            user: self.user.clone(),
            stdin: None,
            interactive: self.interactive || is_shell,
            timeout_s: self.timeout,
            tty: tty.then_some(TerminalSize { rows: size.rows, columns: size.columns }),
        }
    }
}

/// Options of `tine exec`.
#[derive(Args, Debug)]
pub struct Exec {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    program: Program,
}

impl Exec {
    /// Runs it.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let request = self.program.request();
        let (stdin, tty) = (request.interactive, request.tty.is_some());
        let path = format!("/v1/sandboxes/{}/exec", segment(&id));
        client.websocket(&path, async move |mut socket| {
            let text = serde_json::to_string(&request)?;
            socket.send(Message::Text(text.into())).await.context("the request was not sent")?;
            terminal::attach(program_of(socket), stdin, tty).await
        })
    }
}

/// The program behind a WebSocket of the daemon.
fn program_of<S>(socket: WebSocketStream<S>) -> terminal::Program
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    let (sender, mut wanted) = mpsc::channel(terminal::WAITING);
    let (heard, receiver) = mpsc::channel(terminal::WAITING);
    tokio::spawn(async move {
        while let Some(message) = wanted.recv().await {
            let Some(frame) = frame(message) else { continue };
            // When it takes no more, what comes from it says why.
            if sink.send(frame).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(message) = stream.next().await {
            let message = match message.context("the connection to the daemon broke") {
                Ok(Message::Binary(bytes)) => output(&bytes),
                Ok(Message::Text(text)) => event(&text),
                Ok(Message::Close(_)) => return,
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            let over = message.is_err();
            if heard.send(message).await.is_err() || over {
                return;
            }
        }
    });
    terminal::Program { sender, receiver }
}

/// What is said to the daemon.
fn frame(message: HostMessage) -> Option<Message> {
    let control = match message {
        HostMessage::Data(bytes) => return Some(Message::Binary(bytes.into())),
        HostMessage::End => ExecControl::End,
        HostMessage::Resize(WindowSize { rows, columns }) => ExecControl::Resize { rows, columns },
        HostMessage::Signal(signal) => ExecControl::Signal { signal },
        HostMessage::Open { .. } => return None,
    };
    serde_json::to_string(&control).ok().map(|text| Message::Text(text.into()))
}

fn output(bytes: &[u8]) -> Result<AgentMessage> {
    match bytes.split_first() {
        Some((&STDOUT, rest)) => Ok(AgentMessage::Stdout(rest.to_vec())),
        Some((&STDERR, rest)) => Ok(AgentMessage::Stderr(rest.to_vec())),
        _ => bail!("the daemon sent output of no known stream"),
    }
}

fn event(text: &str) -> Result<AgentMessage> {
    let event: ExecEvent =
        serde_json::from_str(text).context("the daemon sent an event that makes no sense")?;
    if let ExecEvent::Error { detail } = &event {
        bail!("{detail}");
    }
    event.message().context("the daemon sent an event that does not belong here")
}
