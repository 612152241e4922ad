//! Files of a guest that a thread plays.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use tine_abi::agent::{CHUNK, Failure, receive, send};

use super::*;

/// A connection to an agent that takes the request and then does `rest`.
async fn asked<T: Send + 'static>(
    rest: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> (AgentConnection, JoinHandle<T>) {
    let (host, mut guest) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        receive::<HostMessage>(&mut guest).unwrap();
        rest(guest)
    });
    (AgentConnection::open(host, Request::Ping).await.unwrap(), thread)
}

fn no_space() -> AgentMessage {
    let failure = Failure::Os { action: "writing /a".into(), errno: libc::ENOSPC };
    AgentMessage::Failed(failure)
}

#[tokio::test]
async fn a_file_comes_whole_or_breaks_off() {
    let sends = |last: AgentMessage| {
        move |mut guest: UnixStream| {
            for byte in 0..20 {
                send(&mut guest, &AgentMessage::Data(vec![byte; CHUNK])).unwrap();
            }
            send(&mut guest, &last).unwrap();
        }
    };
    let (connection, _) = asked(sends(AgentMessage::End)).await;
    let whole = contents(connection).await.unwrap().collect().await.unwrap().to_bytes();
    assert!(whole.len() == 20 * CHUNK && whole[19 * CHUNK..].iter().all(|byte| *byte == 19));
    let (connection, _) = asked(sends(no_space())).await;
    assert!(contents(connection).await.unwrap().collect().await.is_err());
    let (connection, _) = asked(|mut guest| send(&mut guest, &AgentMessage::End)).await;
    assert!(contents(connection).await.unwrap().collect().await.unwrap().to_bytes().is_empty());
    let (connection, _) = asked(|mut guest| send(&mut guest, &no_space())).await;
    assert_eq!(Problem::from(contents(connection).await.unwrap_err()).status, 507);
}

/// Takes a file; none if it broke off.
fn take(guest: &mut UnixStream) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    loop {
        match receive(guest).unwrap() {
            Some(HostMessage::Data(bytes)) => file.extend(bytes),
            Some(HostMessage::End) => return Some(file),
            Some(other) => panic!("{other:?}"),
            None => return None,
        }
    }
}

#[tokio::test]
async fn an_upload_arrives_whole() {
    let (connection, thread) = asked(|mut guest| {
        let file = take(&mut guest);
        send(&mut guest, &AgentMessage::Done).unwrap();
        file
    })
    .await;
    let file: Vec<u8> = (0..10 * CHUNK).map(|index| (index / 7) as u8).collect();
    upload(connection, HttpBody::from(file.clone())).await.unwrap();
    assert!(thread.join().unwrap() == Some(file));
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_ends() {
    let (connection, thread) = asked(|mut guest| take(&mut guest)).await;
    let (pieces, receiver) = channel(2);
    pieces.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    pieces.send(Err(io::Error::other("gone"))).await.unwrap();
    let problem = upload(connection, HttpBody::new(Channel(receiver))).await.unwrap_err();
    assert_eq!(problem.status, 400);
    assert_eq!(thread.join().unwrap(), None);
}

#[tokio::test]
async fn the_reason_of_a_refusal_is_told_in_the_middle_of_an_upload() {
    let (connection, _) = asked(|mut guest| send(&mut guest, &no_space())).await;
    let problem = upload(connection, HttpBody::from(vec![0; 64 * CHUNK])).await;
    let problem = problem.unwrap_err();
    assert_eq!((problem.status, problem.detail.contains("/a")), (507, true));
}

#[tokio::test]
async fn listings_are_bounded() {
    let entry = |length| agent::Entry {
        name: "x".repeat(length),
        kind: agent::EntryKind::File,
        bytes: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified_ns: 0,
        target: None,
    };
    let (mut connection, _) = asked(move |mut guest| {
        for _ in 0..3 {
            send(&mut guest, &AgentMessage::Entries(vec![entry(1), entry(2)])).unwrap();
        }
        send(&mut guest, &AgentMessage::End).unwrap();
    })
    .await;
    assert_eq!(listed(&mut connection).await.unwrap().entries.len(), 6);
    let (mut connection, _) =
        asked(
            move |mut guest| {
                while send(&mut guest, &AgentMessage::Entries(vec![entry(200_000)])).is_ok() {}
            },
        )
        .await;
    assert_eq!(listed(&mut connection).await.unwrap_err().field.as_deref(), Some("path"));
}
