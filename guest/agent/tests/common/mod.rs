//! An agent on a Unix socket, and a host that speaks with it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tine_abi::agent::{
    AgentMessage, Exec, Exit, Failure, HostMessage, Request, VERSION, receive, send,
};

/// The agent, killed when this is dropped.
pub struct Agent {
    process: Child,
    pub directory: TempDir,
}

impl Agent {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_tine-agent"))
            .arg("--unix")
            .arg(directory.path().join("agent.sock"))
            .spawn()
            .unwrap();
        let agent = Self { process, directory };
        while UnixStream::connect(agent.socket()).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        agent
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// A path in the test's directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().into()
    }

    pub fn connect(&self) -> Host {
        Host(UnixStream::connect(self.socket()).unwrap())
    }

    pub fn open(&self, request: Request) -> Host {
        let mut host = self.connect();
        host.send(HostMessage::Open { version: VERSION, request });
        host
    }

    /// The only answer to a request.
    pub fn ask(&self, request: Request) -> AgentMessage {
        self.open(request).last()
    }

    pub fn exec(&self, exec: Exec) -> Host {
        self.open(Request::Exec(exec))
    }

    /// A shell's output and end.
    pub fn shell(&self, script: &str) -> Ended {
        self.exec(shell(script)).end()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

pub fn shell(script: &str) -> Exec {
    Exec { argv: ["/bin/sh", "-c", script].map(String::from).into(), ..Exec::default() }
}

/// The host's side of a connection.
pub struct Host(pub UnixStream);

/// What a program wrote, and how it ended.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

impl Host {
    pub fn send(&mut self, message: HostMessage) {
        send(&mut self.0, &message).unwrap();
    }

    pub fn data(&mut self, data: &[u8]) {
        self.send(HostMessage::Data(data.into()));
    }

    pub fn next(&mut self) -> Option<AgentMessage> {
        receive(&mut self.0).unwrap()
    }

    /// The only message that comes.
    pub fn last(mut self) -> AgentMessage {
        let message = self.next().unwrap();
        assert_eq!(self.next(), None);
        message
    }

    pub fn failure(self) -> Failure {
        match self.last() {
            AgentMessage::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// The process id of the program, when it has started.
    pub fn started(&mut self) -> u32 {
        match self.next() {
            Some(AgentMessage::Started { pid }) => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the start and the end of a program.
    pub fn end(mut self) -> Ended {
        self.started();
        self.rest()
    }

    /// Waits for the end of a program that has started.
    pub fn rest(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                Some(AgentMessage::Stdout(data)) => stdout.extend(data),
                Some(AgentMessage::Stderr(data)) => stderr.extend(data),
                Some(AgentMessage::Exited(exit)) => {
                    assert_eq!(self.next(), None);
                    return Ended { stdout, stderr, exit };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until the program has written a line with `text` in it.
    pub fn until(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            match self.next() {
                Some(AgentMessage::Stdout(data)) => seen.extend(data),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&seen)),
            }
        }
    }
}

/// Waits until there is no such process.
pub fn wait_until_gone(pid: u32) {
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        thread::sleep(Duration::from_millis(1));
    }
}
