//! Programs that a thread plays, as lines of JSON.

use std::thread::JoinHandle;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tine_abi::agent::{CHUNK, Exit, receive, send};

use super::*;

/// A program that does `rest` when it was started.
pub(in crate::server) fn program<T: Send + 'static>(
    rest: impl FnOnce(UnixStream, Exec) -> T + Send + 'static,
) -> (UnixStream, JoinHandle<T>) {
    let (host, mut guest) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let Some(HostMessage::Open { request: Request::Exec(exec), .. }) =
            receive(&mut guest).unwrap()
        else {
            panic!("no request")
        };
        send(&mut guest, &AgentMessage::Started { pid: 7 }).unwrap();
        rest(guest, exec)
    });
    (host, thread)
}

async fn all(body: HttpBody) -> Vec<Value> {
    let bytes = body.collect().await.unwrap().to_bytes();
    let lines = std::str::from_utf8(&bytes).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn output_comes_as_text_with_no_character_cut() {
    let (stream, thread) = program(|mut guest, _| {
        for bytes in [&"ä".as_bytes()[..1], &"ä".as_bytes()[1..], &[0xff, 0], &[0xc3]] {
            send(&mut guest, &AgentMessage::Stdout(bytes.into())).unwrap();
        }
        send(&mut guest, &AgentMessage::Stderr(b"no\n".into())).unwrap();
        send(&mut guest, &AgentMessage::Exited(Exit::Code(3))).unwrap();
    });
    let program = Program::start(stream, Exec::default()).await.unwrap();
    assert_eq!(
        all(events(program, None)).await,
        [
            json!({"type": "started", "pid": 7}),
            json!({"type": "stdout", "data": "ä"}),
            json!({"type": "stdout", "base64": "/wA="}),
            json!({"type": "stderr", "data": "no\n"}),
            json!({"type": "stdout", "base64": "ww=="}),
            json!({"type": "exited", "code": 3}),
        ]
    );
    thread.join().unwrap();
}

#[tokio::test]
async fn a_program_may_write_before_it_reads() {
    const BYTES: usize = 4 << 20;
    let (stream, thread) = program(|mut guest, _| {
        for _ in 0..BYTES / CHUNK {
            send(&mut guest, &AgentMessage::Stdout(vec![b'x'; CHUNK])).unwrap();
        }
        let mut read = 0;
        while let Some(HostMessage::Data(bytes)) = receive(&mut guest).unwrap() {
            read += bytes.len();
        }
        send(&mut guest, &AgentMessage::Exited(Exit::TimedOut)).unwrap();
        read
    });
    let program = Program::start(stream, Exec::default()).await.unwrap();
    let events = all(events(program, Some("y".repeat(BYTES)))).await;
    let text = |event: &Value| event["data"].as_str().map_or(0, str::len);
    assert_eq!(events.iter().map(text).sum::<usize>(), BYTES / CHUNK * CHUNK);
    assert_eq!(events.last().unwrap(), &json!({"type": "timed_out"}));
    assert_eq!(thread.join().unwrap(), BYTES);
}

#[tokio::test]
async fn nobody_listening_kills_the_program() {
    let (stream, thread) = program(|mut guest, _| receive::<HostMessage>(&mut guest).unwrap());
    let program = Program::start(stream, Exec::default()).await.unwrap();
    let mut body = events(program, None);
    body.frame().await.unwrap().unwrap();
    drop(body);
    // The agent's thread is joined without holding up the runtime.
    let heard = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    assert_eq!(heard, None, "the connection was closed");
}

#[tokio::test]
async fn an_agent_that_dies_is_told() {
    let (stream, _thread) = program(|guest, _| drop(guest));
    let program = Program::start(stream, Exec::default()).await.unwrap();
    let events = all(events(program, None)).await;
    assert_eq!(events[1]["type"], "error");
    assert_eq!(events[1]["problem"]["status"], 502);
}
