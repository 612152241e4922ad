//! `tine exec`: a program in a guest, with this process's input and output.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tine_abi::agent::{AgentMessage, Exit, HostMessage, WindowSize};
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, WebSocket, describe, segment};
use super::resolve;
use super::terminal::{self, FromProgram, ToProgram};

/// First byte of a message of standard output; the other is standard error.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Options of `tine exec`.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// Program and arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    command: Vec<String>,
    #[command(flatten)]
    program: ProgramArgs,
}

/// How a program is to run.
#[derive(Args, Clone, Debug, Default)]
pub struct ProgramArgs {
    /// Give it standard input
    #[arg(long, short)]
    pub interactive: bool,
    /// Run it on a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Set a variable of its environment; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// Working directory [default: the user's home]
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, by name or number [default: root]
    #[arg(long, short)]
    pub user: Option<String>,
    /// Kill it after this many seconds, and exit with 124
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is KEY=VALUE".to_owned()),
    }
}

impl ProgramArgs {
    /// Its environment, and the size of its terminal if it has one: this process's, whose kind
    /// it is told.
    pub fn surroundings(&self) -> Result<(BTreeMap<String, String>, Option<WindowSize>)> {
        let mut env: BTreeMap<String, String> = self.env.iter().cloned().collect();
        if !self.tty {
            return Ok((env, None));
        }
        if let Ok(kind) = std::env::var("TERM") {
            env.entry("TERM".to_owned()).or_insert(kind);
        }
        Ok((env, Some(terminal::size()?)))
    }
}

impl ExecArgs {
    /// Runs it, and exits as it does.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let request = self.request()?;
        client.block_on(async {
            let path = format!("/v1/sandboxes/{}/exec", segment(&id));
            let (mut to, from) = client.websocket(&path).await?.split();
            to.send(Message::text(request.to_string())).await.context(LEFT)?;
            let mut from = Events(from);
            from.started().await?;
            terminal::pump(Commands(to), from, self.program.interactive, self.program.tty).await
        })
    }

    fn request(&self) -> Result<Value> {
        let program = &self.program;
        let (env, size) = program.surroundings()?;
        let mut request = json!({
            "argv": self.command,
            "env": env,
            "interactive": program.interactive,
            "cwd": program.workdir,
            "user": program.user,
            "timeout_s": program.timeout,
        });
        if let Some(size) = size {
            request["tty"] = json!({"rows": size.rows, "columns": size.columns});
        }
        Ok(request)
    }
}

const LEFT: &str = "the daemon closed the connection before the program's end";

/// The way to the daemon.
struct Commands(SplitSink<WebSocket, Message>);

impl ToProgram for Commands {
    async fn send(&mut self, message: HostMessage) -> Result<()> {
        let message = match message {
            HostMessage::Data(bytes) => Message::binary(bytes),
            HostMessage::End => Message::text(json!({"type": "end"}).to_string()),
            HostMessage::Resize(size) => Message::text(
                json!({"type": "resize", "rows": size.rows, "columns": size.columns}).to_string(),
            ),
            HostMessage::Signal(signal) => {
                Message::text(json!({"type": "signal", "signal": signal}).to_string())
            }
            HostMessage::Open { .. } => bail!("a request is no input"),
        };
        self.0.send(message).await.context(LEFT)
    }
}

/// The way from the daemon.
struct Events(SplitStream<WebSocket>);

impl Events {
    async fn started(&mut self) -> Result<()> {
        match self.receive().await? {
            AgentMessage::Started { .. } => Ok(()),
            other => bail!(tine::agent::unexpected(&other)),
        }
    }
}

impl FromProgram for Events {
    async fn receive(&mut self) -> Result<AgentMessage> {
        loop {
            match self.0.next().await.context(LEFT)?.context(LEFT)? {
                Message::Binary(bytes) => return output(&bytes),
                Message::Text(text) => return event(&text),
                Message::Close(_) => bail!(LEFT),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

fn output(message: &[u8]) -> Result<AgentMessage> {
    match message.split_first() {
        Some((&STDOUT, bytes)) => Ok(AgentMessage::Stdout(bytes.to_vec())),
        Some((&STDERR, bytes)) => Ok(AgentMessage::Stderr(bytes.to_vec())),
        _ => bail!("the daemon sent output of no stream"),
    }
}

fn event(text: &str) -> Result<AgentMessage> {
    let event: Value = serde_json::from_str(text).context("the daemon sent no JSON")?;
    let number = |key: &str| event.get(key).and_then(Value::as_i64);
    let small = |key: &str| number(key).and_then(|number| i32::try_from(number).ok());
    Ok(match event.get("type").and_then(Value::as_str) {
        Some("started") => {
            let pid = number("pid").and_then(|pid| u32::try_from(pid).ok());
            AgentMessage::Started { pid: pid.unwrap_or_default() }
        }
        Some("exited") => match (small("code"), small("signal")) {
            (Some(code), _) => AgentMessage::Exited(Exit::Code(code)),
            (None, Some(signal)) => AgentMessage::Exited(Exit::Signal(signal)),
            (None, None) => bail!("the daemon did not say how the program ended"),
        },
        Some("timed_out") => AgentMessage::Exited(Exit::TimedOut),
        Some("error") => return Err(anyhow!(describe(&event["problem"]))),
        _ => bail!("the daemon sent an event that this tine does not know: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArgs,
    }

    fn parse(line: &[&str]) -> Result<ExecArgs, clap::Error> {
        Line::try_parse_from([&["exec"], line].concat()).map(|line| line.exec)
    }

    #[test]
    fn options_are_tines_before_the_dashes_and_the_programs_after() {
        let exec = parse(
            &["-i", "-e", "A=b=c", "-w", "/tmp", "-u", "me", "--timeout", "3", "abc"]
                .into_iter()
                .chain(["--", "ls", "-t", "--", "x"])
                .collect::<Vec<_>>(),
        )
        .unwrap();
        assert_eq!(
            exec.request().unwrap(),
            json!({"argv": ["ls", "-t", "--", "x"], "interactive": true, "cwd": "/tmp",
                "user": "me", "timeout_s": 3, "env": {"A": "b=c"}})
        );
        assert!(parse(&["abc"]).is_err() && parse(&["abc", "--"]).is_err());
        assert!(parse(&["-e", "A", "abc", "--", "ls"]).is_err());
        assert!(parse(&["-it", "abc", "--", "sh"]).unwrap().program.tty);
    }

    #[test]
    fn a_websocket_goes_both_ways() {
        let daemon = super::super::daemon::Daemon::start();
        let path = daemon.path("exec");
        daemon.client.block_on(async {
            let (to, from) = daemon.client.websocket(&path).await.unwrap().split();
            let (mut to, mut from) = (Commands(to), Events(from));
            for message in [HostMessage::Data(b"a".into()), HostMessage::End] {
                to.send(message).await.unwrap();
            }
            from.started().await.unwrap();
            let echo = AgentMessage::Stdout(b"a".into());
            assert_eq!(from.receive().await.unwrap(), echo);
            let end = AgentMessage::Exited(Exit::Code(5));
            assert_eq!(from.receive().await.unwrap(), end);
            assert!(from.receive().await.is_err());
            let refused = daemon.client.websocket("/v1/nothing").await.unwrap_err();
            assert!(refused.to_string().contains("404"), "{refused}");
        });
    }

    #[test]
    fn what_the_daemon_sends_is_understood() {
        assert_eq!(output(b"\x01a\n").unwrap(), AgentMessage::Stdout(b"a\n".to_vec()));
        assert_eq!(output(b"\x02").unwrap(), AgentMessage::Stderr(vec![]));
        assert!(output(b"").is_err() && output(b"\x03a").is_err());
        let exited = |text| match event(text).unwrap() {
            AgentMessage::Exited(exit) => exit,
            other => panic!("{other:?}"),
        };
        assert_eq!(exited(r#"{"type":"exited","code":3}"#), Exit::Code(3));
        assert_eq!(exited(r#"{"type":"exited","signal":9}"#), Exit::Signal(9));
        assert_eq!(exited(r#"{"type":"timed_out"}"#), Exit::TimedOut);
        assert_eq!(
            event(r#"{"type":"started","pid":7}"#).unwrap(),
            AgentMessage::Started { pid: 7 }
        );
        let error = event(r#"{"type":"error","problem":{"detail":"no such program"}}"#);
        assert_eq!(error.unwrap_err().to_string(), "no such program");
        for nonsense in ["", "{}", r#"{"type":"exited"}"#, r#"{"type":"exited","code":1e20}"#] {
            assert!(event(nonsense).is_err(), "{nonsense}");
        }
    }
}
