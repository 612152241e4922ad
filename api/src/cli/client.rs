//! The command line's side of the HTTP API: one request, one connection.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::DEFAULT_ADDRESS;

/// How long a daemon may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What is sent.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Messages both ways.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Where the daemon is, and how to be let in.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// The daemon: HOST:PORT, or unix:PATH
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "TINE_SERVER",
        default_value = DEFAULT_ADDRESS,
        help_heading = "Daemon"
    )]
    pub server: Server,
    /// File that holds the daemon's token [default: token in tine's state directory]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TINE_TOKEN_FILE",
        help_heading = "Daemon"
    )]
    pub token_file: Option<PathBuf>,
}

/// Address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// Host and port.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs the path of a socket after it".to_owned());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) if !address.contains('/') => Ok(Self::Tcp(address.to_owned())),
            _ => Err("an address is HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Speaks with one daemon.
pub struct Client {
    runtime: Runtime,
    server: Server,
    token: Option<String>,
}

impl Client {
    /// A client of the daemon that `connection` names. Nothing is sent yet.
    pub fn new(connection: &Connection) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the client's runtime could not be started")?;
        let token = match &connection.token_file {
            Some(file) => Some(
                read_token(file)
                    .with_context(|| format!("the token file {} can't be read", file.display()))?,
            ),
            // A daemon elsewhere may not have written one here; if it wants a token, it says so.
            None => match super::default_token_file().map(|file| read_token(&file)) {
                Some(Ok(token)) => Some(token),
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context("the default token file can't be read");
                }
                _ => None,
            },
        };
        Ok(Self { runtime, server: connection.server.clone(), token })
    }

    /// What `GET path` answers.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, None)
    }

    /// What `POST path` answers to `body`.
    pub fn post(&self, path: &str, body: Option<Value>) -> Result<Value> {
        self.request(Method::POST, path, body)
    }

    /// What `DELETE path` answers; null if it has nothing to say.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.request(Method::DELETE, path, None)
    }

    /// Does `work`, to the end.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Gives `each` the pieces of what `GET path` answers, as they come.
    pub fn stream(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let mut response = self.send(Method::GET, path, None).await?;
            while let Some(frame) = response.frame().await {
                let frame = frame.context("the daemon ended the stream in its middle")?;
                if let Some(data) = frame.data_ref() {
                    each(data)?;
                }
            }
            Ok(())
        })
    }

    /// Sends `body` with `PUT path`.
    pub fn put(&self, path: &str, body: Body) -> Result<()> {
        let kind = (CONTENT_TYPE, "application/octet-stream".to_owned());
        let sent = self.call(Method::PUT, path, [kind], body, StatusCode::is_success);
        self.runtime.block_on(sent).map(drop)
    }

    /// Opens the WebSocket at `path`.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket> {
        let key = generate_key();
        let headers = [
            (CONNECTION, "Upgrade".to_owned()),
            (UPGRADE, "websocket".to_owned()),
            (SEC_WEBSOCKET_VERSION, "13".to_owned()),
            (SEC_WEBSOCKET_KEY, key.clone()),
        ];
        let switched = |status: &StatusCode| *status == StatusCode::SWITCHING_PROTOCOLS;
        let response = self.call(Method::GET, path, headers, Body::default(), switched).await?;
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            bail!("the daemon at {} does not speak WebSocket", self.server);
        }
        let upgraded =
            hyper::upgrade::on(response).await.context("the WebSocket was not opened")?;
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
    }

    fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        self.runtime.block_on(async {
            let response = self.send(method, path, body).await?;
            let bytes = body_of(response).await?;
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&bytes)
                .with_context(|| format!("the daemon at {} answered with no JSON", self.server))
        })
    }

    /// Sends a request with JSON in it, or nothing.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response<Incoming>> {
        let kind = body.as_ref().map(|_| (CONTENT_TYPE, "application/json".to_owned()));
        let bytes = body.map(|value| serde_json::to_vec(&value)).transpose()?.unwrap_or_default();
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        self.call(method, path, kind, body, StatusCode::is_success).await
    }

    /// Sends a request; a response that is not `wanted` becomes an error.
    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: impl IntoIterator<Item = (HeaderName, String)>,
        body: Body,
        wanted: impl FnOnce(&StatusCode) -> bool,
    ) -> Result<Response<Incoming>> {
        let host = match &self.server {
            Server::Tcp(address) => address.as_str(),
            Server::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).context("the request can't be written")?;
        let response = self.exchange(request).await?;
        let status = response.status();
        if wanted(&status) {
            return Ok(response);
        }
        let bytes = body_of(response).await?;
        Err(refusal(status, &bytes, self.token.is_some()))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        match &self.server {
            Server::Tcp(address) => {
                let stream = self.connect(TcpStream::connect(address)).await?;
                stream.set_nodelay(true).context("TCP_NODELAY can't be set")?;
                exchange(stream, request).await
            }
            Server::Unix(path) => {
                exchange(self.connect(UnixStream::connect(path)).await?, request).await
            }
        }
    }

    async fn connect<S>(&self, connecting: impl Future<Output = io::Result<S>>) -> Result<S> {
        let server = &self.server;
        let Ok(connected) = tokio::time::timeout(CONNECT_PATIENCE, connecting).await else {
            bail!("{server} did not accept a connection within {CONNECT_PATIENCE:?}");
        };
        connected.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => anyhow!(
                "no daemon answers at {server} ({error}); start one with \
                 `tine serve --listen {server}`, or name another with --server"
            ),
            _ => anyhow!(error).context(format!("{server} can't be reached")),
        })
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("the daemon does not speak HTTP")?;
    // Its errors reach the request or the body, which are both read to their end.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.context("the daemon closed the connection unanswered")
}

async fn body_of(response: Response<Incoming>) -> Result<Bytes> {
    let collected = response.into_body().collect().await;
    Ok(collected.context("the daemon ended its answer in the middle")?.to_bytes())
}

fn read_token(file: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}

/// The daemon said no, and why.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Refusal {
    /// In what way.
    pub status: StatusCode,
    text: String,
}

/// The error that a problem document (RFC 9457) describes.
fn refusal(status: StatusCode, body: &[u8], had_token: bool) -> anyhow::Error {
    if status == StatusCode::UNAUTHORIZED {
        let remedy = if had_token {
            "the token is not the daemon's; name the daemon's token file with --token-file"
        } else {
            "it wants a token; name the daemon's token file with --token-file"
        };
        return anyhow!("the daemon did not let the request in: {remedy}");
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(problem) if problem.is_object() => {
            anyhow!(Refusal { status, text: describe(&problem) })
        }
        _ => anyhow!("the daemon answered {status}"),
    }
}

/// A problem document in one sentence: its detail (or title), and the field at fault
/// where the detail does not name it.
pub fn describe(problem: &Value) -> String {
    let word = |key: &str| problem.get(key).and_then(Value::as_str);
    let what = word("detail").or_else(|| word("title")).unwrap_or("the daemon gave no reason");
    match word("field") {
        Some(field) if !what.contains(field) => format!("{field}: {what}"),
        _ => what.to_owned(),
    }
}

/// `text` as one segment of a path.
pub fn segment(text: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_a_port_or_a_socket() {
        let tcp = Ok(Server::Tcp("127.0.0.1:7070".to_owned()));
        assert_eq!("127.0.0.1:7070".parse(), tcp);
        assert_eq!("http://127.0.0.1:7070/".parse(), tcp);
        assert_eq!("[::1]:80".parse(), Ok(Server::Tcp("[::1]:80".to_owned())));
        assert_eq!("unix:/run/t".parse(), Ok(Server::Unix(PathBuf::from("/run/t"))));
        for bad in ["", "host", "host:", "host:99999", "unix:", "https://host:1", "host:1/v1"] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }

    #[test]
    fn problems_become_sentences() {
        assert_eq!(describe(&json!({"title": "Not Found"})), "Not Found");
        let problem = json!({"title": "Bad", "detail": "must not be zero", "field": "count"});
        assert_eq!(describe(&problem), "count: must not be zero");
        let problem = json!({"detail": "count must not be zero", "field": "count"});
        assert_eq!(describe(&problem), "count must not be zero");
    }

    #[test]
    fn names_are_safe_in_paths() {
        assert_eq!(segment("warm-1.a"), "warm-1.a");
        assert_eq!(segment("a/b ?"), "a%2Fb%20%3F");
    }
}
