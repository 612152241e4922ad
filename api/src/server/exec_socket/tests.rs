//! Programs that a thread plays, over a WebSocket.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use tine_abi::agent::{AgentMessage, Exit, WindowSize, receive, send};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as ClientMessage;

use super::super::exec::tests::program;
use super::*;

/// The client's end of a WebSocket whose other end is served with `stream`.
async fn client(stream: UnixStream) -> WebSocketStream<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = Arc::new(Mutex::new(Some(stream)));
    let upgrade = async move |upgrade: WebSocketUpgrade| {
        let stream = stream.lock().unwrap().take().unwrap();
        upgrade.on_upgrade(move |socket| serve(socket, stream, Notes::default()))
    };
    let router = Router::new().route("/", get(upgrade));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let tcp = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://{address}/"), tcp).await.unwrap().0
}

fn json(value: Value) -> ClientMessage {
    ClientMessage::text(value.to_string())
}

/// The next message that is no ping.
async fn next(client: &mut WebSocketStream<TcpStream>) -> ClientMessage {
    loop {
        match client.next().await.unwrap().unwrap() {
            ClientMessage::Ping(_) => {}
            message => return message,
        }
    }
}

async fn event(client: &mut WebSocketStream<TcpStream>) -> Value {
    serde_json::from_str(next(client).await.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn both_ways_at_once_and_then_the_end() {
    let (stream, thread) = program(|mut guest, exec| {
        let heard: Vec<HostMessage> =
            (0..4).map(|_| receive(&mut guest).unwrap().unwrap()).collect();
        send(&mut guest, &AgentMessage::Stdout(b"out".into())).unwrap();
        send(&mut guest, &AgentMessage::Stderr(b"err".into())).unwrap();
        send(&mut guest, &AgentMessage::Exited(Exit::Signal(9))).unwrap();
        (exec, heard)
    });
    let mut client = client(stream).await;
    client.send(json(json!({"argv": ["cat"], "interactive": true}))).await.unwrap();
    assert_eq!(event(&mut client).await, json!({"type": "started", "pid": 7}));
    client.send(ClientMessage::binary(b"in".to_vec())).await.unwrap();
    client.send(json(json!({"type": "resize", "rows": 3, "columns": 4}))).await.unwrap();
    client.send(json(json!({"type": "signal", "signal": 15}))).await.unwrap();
    client.send(json(json!({"type": "end"}))).await.unwrap();
    assert_eq!(next(&mut client).await, ClientMessage::binary(b"\x01out".to_vec()));
    assert_eq!(next(&mut client).await, ClientMessage::binary(b"\x02err".to_vec()));
    assert_eq!(event(&mut client).await, json!({"type": "exited", "signal": 9}));
    assert!(next(&mut client).await.is_close());
    let (exec, heard) = thread.join().unwrap();
    assert!(exec.stdin && exec.argv == ["cat"]);
    let size = WindowSize { rows: 3, columns: 4 };
    assert_eq!(
        heard,
        [
            HostMessage::Data(b"in".into()),
            HostMessage::Resize(size),
            HostMessage::Signal(15),
            HostMessage::End
        ]
    );
}

#[tokio::test]
async fn a_client_that_goes_takes_the_program_with_it() {
    let (stream, thread) = program(|mut guest, _| receive::<HostMessage>(&mut guest).unwrap());
    let mut client = client(stream).await;
    client.send(json(json!({"argv": ["sleep"]}))).await.unwrap();
    next(&mut client).await;
    drop(client);
    let heard = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    assert_eq!(heard, None, "the connection was closed");
}

#[tokio::test]
async fn nonsense_is_answered_with_a_problem() {
    async fn problem(messages: Vec<ClientMessage>) -> Value {
        let (stream, _thread) = program(|mut guest, _| receive::<HostMessage>(&mut guest));
        let mut client = client(stream).await;
        for message in messages {
            client.send(message).await.unwrap();
        }
        loop {
            let event = event(&mut client).await;
            if event["type"] == "error" {
                return event["problem"].clone();
            }
        }
    }
    let sleep = || json(json!({"argv": ["sleep"]}));
    assert_eq!(problem(vec![json(json!({"argv": []}))]).await["field"], "argv");
    assert_eq!(problem(vec![ClientMessage::binary(vec![1])]).await["status"], 400);
    assert_eq!(problem(vec![ClientMessage::text("{")]).await["status"], 400);
    let unasked = problem(vec![sleep(), ClientMessage::binary(vec![1])]).await;
    assert_eq!(unasked["field"], "interactive");
    let wrong = problem(vec![sleep(), json(json!({"type": "signal", "signal": 99}))]).await;
    assert_eq!(wrong["field"], "signal");
}
