//! A daemon for tests of the command line: it has one sandbox, whose files are in a directory,
//! and whose one program sends its input back.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tempfile::TempDir;
use tine::model::{Entry, EntryKind, Listing, MkdirRequest, ReadQuery, WriteQuery};
use tine::problem::Problem;
use tine_abi::agent::Failure;

use super::client::{Client, Connection, Server};
use super::files::Files;

/// Id of the sandbox.
const ID: &str = "abcdefghijklmnopqrst";

/// The daemon, and a client of it.
pub struct Daemon {
    pub client: Client,
    root: TempDir,
}

impl Daemon {
    /// Starts one; its thread ends with the tests.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let files = format!("/v1/sandboxes/{ID}/files");
        let router = Router::new()
            .route(&files, get(read).put(write))
            .route(&format!("{files}/mkdir"), post(make_directory))
            .route(&format!("/v1/sandboxes/{ID}/exec"), get(exec))
            .layer(DefaultBodyLimit::disable())
            .with_state(root.path().to_path_buf());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        let server = Server::Tcp(told.recv().unwrap().to_string());
        let token_file = root.path().join("token");
        fs::write(&token_file, "token").unwrap();
        let client = Client::new(&Connection { server, token_file: Some(token_file.clone()) });
        fs::remove_file(token_file).unwrap();
        Self { client: client.unwrap(), root }
    }

    /// Where the sandbox's files are.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The sandbox's files.
    pub fn files(&self) -> Files<'_> {
        Files::of(&self.client, ID).unwrap()
    }

    /// The path of what the sandbox can do.
    pub fn path(&self, what: &str) -> String {
        format!("/v1/sandboxes/{ID}/{what}")
    }
}

async fn read(
    State(root): State<PathBuf>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Problem> {
    let path = inside(&root, &query.path);
    let refused = |error| refused(&query.path, error);
    if query.stat {
        let metadata = fs::symlink_metadata(&path).map_err(refused)?;
        return Ok(Json(entry(String::new(), &metadata)).into_response());
    }
    if query.list {
        let entries = fs::read_dir(&path).map_err(refused)?.map(|found| {
            let found = found.unwrap();
            entry(found.file_name().into_string().unwrap(), &found.metadata().unwrap())
        });
        return Ok(Json(Listing { entries: entries.collect() }).into_response());
    }
    Ok(fs::read(&path).map_err(refused)?.into_response())
}

async fn write(
    State(root): State<PathBuf>,
    Query(query): Query<WriteQuery>,
    body: Bytes,
) -> Result<(), Problem> {
    let path = inside(&root, &query.path);
    assert!(query.parents);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, body).map_err(|error| refused(&query.path, error))?;
    if let Some(mode) = query.mode {
        let mode = u32::from_str_radix(&mode, 8).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    Ok(())
}

async fn make_directory(State(root): State<PathBuf>, Json(request): Json<MkdirRequest>) {
    fs::create_dir_all(inside(&root, &request.path)).unwrap();
}

/// The guest's `path` as it is in `root`, to the letter: `/.` at its end must stay.
fn inside(root: &Path, path: &str) -> PathBuf {
    format!("{}{path}", root.display()).into()
}

fn refused(path: &str, error: std::io::Error) -> Problem {
    let errno = error.raw_os_error().unwrap();
    Failure::Os { action: format!("opening {path}"), errno }.into()
}

fn entry(name: String, metadata: &Metadata) -> Entry {
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_symlink() => EntryKind::Link,
        _ => EntryKind::Other,
    };
    Entry {
        name,
        kind,
        bytes: metadata.len(),
        mode: format!("{:04o}", metadata.mode() & 0o7777),
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_at: String::new(),
        target: None,
    }
}

async fn exec(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

/// Sends input back until its end.
async fn echo(mut socket: WebSocket) {
    socket.send(Message::text(r#"{"type":"started","pid":1}"#)).await.unwrap();
    while let Some(Ok(Message::Binary(bytes))) = socket.recv().await {
        socket.send(Message::binary([&[1], &bytes[..]].concat())).await.unwrap();
    }
    socket.send(Message::text(r#"{"type":"exited","code":5}"#)).await.unwrap();
}
