//! A daemon for tests, spoken with over real HTTP.

#![allow(dead_code, reason = "not every test needs everything")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tine::server::{Limits, Listen, ServeOptions, Server, StopReport};
use tine_cell::NurseryConfig;

/// Cells that come from the program under test.
pub fn cells() -> NurseryConfig {
    NurseryConfig { program: env!("CARGO_BIN_EXE_tine").into(), ..NurseryConfig::default() }
}

/// A daemon on a port of its own.
pub struct Daemon {
    pub address: SocketAddr,
    pub token: String,
    pub stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub thread: Option<JoinHandle<StopReport>>,
    _directory: tempfile::TempDir,
}

/// The program `tine serve`, killed when dropped.
pub struct Process {
    pub child: Child,
    pub daemon: Daemon,
    /// What it logs, as JSON.
    pub log: BufReader<ChildStderr>,
}

impl Process {
    /// Starts one whose token and state are in `directory`.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_with(directory, arguments, |_| ())
    }

    /// The same with a command that `change` has changed.
    pub fn start_with(
        directory: &Path,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let token_file = directory.join("token");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tine"));
        command
            .args(["serve", "--log-json", "--listen", "127.0.0.1:0", "--state"])
            .arg(directory)
            .arg("--token-file")
            .arg(&token_file)
            .args(arguments)
            .env("TINE_LOG", "info")
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let serving = wait_for(&mut log, "serving");
        let address = serving["fields"]["listen"].as_str().unwrap().parse().unwrap();
        let token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        let unused = tempfile::tempdir().unwrap();
        let daemon = Daemon { address, token, stop: None, thread: None, _directory: unused };
        Self { child, daemon, log }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: it only sends a signal, to a child that was not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Reads `log` until an event says `message`.
pub fn wait_for(log: &mut impl BufRead, message: &str) -> Value {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "no {message:?} in {seen}");
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["fields"]["message"].as_str().is_some_and(|text| text.contains(message)) {
            return event;
        }
        seen.push_str(&line);
    }
}

/// What the daemons of tests admit.
pub fn limits() -> Limits {
    Limits { sandboxes: 40, snapshots: 5, body_bytes: 4096, ..Limits::for_host(4 << 30) }
}

impl Daemon {
    pub fn start(limits: Limits) -> Self {
        Self::start_with(|options| options.limits = limits)
    }

    /// Starts one with options that `change` has changed.
    pub fn start_with(change: impl FnOnce(&mut ServeOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let mut options = ServeOptions::new(listen, token_file.clone());
        options.cells = Some(cells());
        options.limits = limits();
        options.drain = Duration::from_secs(1);
        change(&mut options);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let server = Server::bind(&options).await.unwrap();
                tell.send(server.listens_at().unwrap()).unwrap();
                let shutdown = async {
                    stopped.await.unwrap();
                };
                server.run(shutdown).await.unwrap()
            })
        });
        let Listen::Tcp(address) = told.recv().unwrap() else { unreachable!() };
        let token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        Self { address, token, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    pub fn stop(&mut self) -> StopReport {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Sends `head` and `body` as they are.
    pub fn raw(&self, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // The daemon may refuse and close before it has read everything.
        let _sent = stream.write_all(body);
        let mut answer = Vec::new();
        let _read = stream.read_to_end(&mut answer);
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP answer");
        let head = String::from_utf8(answer[..split].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), answer[split + 4..].to_vec())
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        self.send_with("", method, path, kind, body)
    }

    /// The same with more `headers`, each with its line end.
    pub fn send_with(
        &self,
        headers: &str,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: tine\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n{headers}\r\n",
            self.token,
            body.len()
        );
        self.raw(&head, body)
    }

    /// Sends a request with a JSON body, whose answer is not read yet.
    pub fn open(&self, headers: &str, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: tine\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            self.token,
            body.len()
        )
        .unwrap();
        stream
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { vec![] } else { serde_json::to_vec(body).unwrap() };
        let (status, head, answer) = self.send(method, path, "application/json", &body);
        if status >= 400 {
            assert!(head.contains("application/problem+json"), "{head}");
        }
        let value =
            if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer).unwrap() };
        (status, value)
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub fn post(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.call("POST", path, &body);
        assert!(status < 300, "{path}: {value}");
        value
    }

    pub fn spawn(&self, body: Value) -> Vec<String> {
        ids(&self.post("/v1/sandboxes", body))
    }

    pub fn fork(&self, id: &str, count: u32) -> Vec<String> {
        ids(&self.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": count})))
    }

    pub fn work(&self, id: &str, body: Value) -> Value {
        self.post(&format!("/v1/sandboxes/{id}/workload"), body)
    }

    pub fn checksum(&self, id: &str) -> String {
        self.work(id, json!({"op": "checksum"}))["value"].as_str().unwrap().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.stop.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// The ids in the answer to a spawn or a fork.
pub fn ids(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|one| one["sandbox"]["id"].as_str().expect("a sandbox").to_owned()).collect()
}

/// Waits until `done`.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} never happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}
