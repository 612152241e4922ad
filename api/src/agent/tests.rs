//! Conversations with a thread that plays the agent.

use std::io::Write;
use std::thread::JoinHandle;

use tine_abi::agent::{Exec, Exit, MAX_MESSAGE, receive, send};

use super::*;

/// An agent that takes the request and then does `rest`.
fn agent<T: Send + 'static>(
    rest: impl FnOnce(BlockingStream, Request) -> T + Send + 'static,
) -> (BlockingStream, JoinHandle<T>) {
    let (host, mut guest) = BlockingStream::pair().unwrap();
    let thread = std::thread::spawn(move || match receive(&mut guest).unwrap() {
        Some(HostMessage::Open { version: VERSION, request }) => rest(guest, request),
        other => panic!("{other:?}"),
    });
    (host, thread)
}

#[tokio::test]
async fn a_program_gets_its_input_and_tells_its_end() {
    let (host, thread) = agent(|mut guest, request| {
        assert!(matches!(request, Request::Exec(_)));
        send(&mut guest, &AgentMessage::Started { pid: 7 }).unwrap();
        let mut input = Vec::new();
        while let Some(HostMessage::Data(bytes)) = receive(&mut guest).unwrap() {
            assert!(bytes.len() <= CHUNK);
            input.extend(bytes);
        }
        send(&mut guest, &AgentMessage::Exited(Exit::Code(3))).unwrap();
        input
    });
    let request = Request::Exec(Exec::default());
    let mut connection = AgentConnection::open(host, request).await.unwrap();
    assert_eq!(connection.answer().await.unwrap(), AgentMessage::Started { pid: 7 });
    let (mut sender, mut receiver) = connection.into_split();
    let input: Vec<u8> = (0..3 * CHUNK).map(|index| index as u8).collect();
    sender.send_data(&input).await.unwrap();
    sender.send(HostMessage::End).await.unwrap();
    let exited = AgentMessage::Exited(Exit::Code(3));
    assert_eq!(receiver.receive().await.unwrap(), Some(exited));
    assert_eq!(receiver.receive().await.unwrap(), None);
    assert!(thread.join().unwrap() == input);
}

#[tokio::test]
async fn a_message_in_pieces_outlives_a_wait_that_was_given_up() {
    let (go, went) = std::sync::mpsc::channel::<()>();
    let (host, thread) = agent(move |mut guest, _| {
        let frame = encode(&AgentMessage::Data(vec![9; 1000])).unwrap();
        for piece in [&frame[..2], &frame[2..500], &frame[500..]] {
            guest.write_all(piece).unwrap();
            went.recv().unwrap();
        }
    });
    let mut connection = AgentConnection::open(host, Request::Ping).await.unwrap();
    for _ in 0..2 {
        let waiting = timeout(Duration::from_millis(20), connection.receive()).await;
        assert!(waiting.is_err(), "no message is whole yet");
        go.send(()).unwrap();
    }
    let whole = connection.receive().await.unwrap();
    assert_eq!(whole, Some(AgentMessage::Data(vec![9; 1000])));
    go.send(()).unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn what_an_agent_does_wrong_is_its_own_fault() {
    async fn answer(rest: impl FnOnce(BlockingStream) + Send + 'static) -> Problem {
        let (host, thread) = agent(|guest, _| rest(guest));
        let mut connection = AgentConnection::open(host, Request::Sync).await.unwrap();
        let problem = connection.done().await.unwrap_err().into();
        thread.join().unwrap();
        problem
    }
    let fails = |failure| {
        move |mut guest: BlockingStream| send(&mut guest, &AgentMessage::Failed(failure)).unwrap()
    };
    let missing = answer(fails(Failure::NotFound("/no/such".into()))).await;
    assert_eq!((missing.status, missing.detail.contains("/no/such")), (404, true));
    assert_eq!(answer(fails(Failure::Version(2))).await.status, 502);
    assert_eq!(answer(drop).await.status, 502);
    assert_eq!(answer(|mut guest| guest.write_all(&[4, 0, 0]).unwrap()).await.status, 502);
    let endless = (MAX_MESSAGE as u32 + 1).to_le_bytes();
    assert_eq!(answer(move |mut guest| guest.write_all(&endless).unwrap()).await.status, 502);
    // A frame without a message.
    assert_eq!(answer(|mut guest| guest.write_all(&[0; 4]).unwrap()).await.status, 502);
    let misplaced = |mut guest| send(&mut guest, &AgentMessage::End).unwrap();
    assert!(answer(misplaced).await.detail.contains("End"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_given_up() {
    let (host, _silent) = BlockingStream::pair().unwrap();
    let mut connection = AgentConnection::open(host, Request::Ping).await.unwrap();
    assert!(matches!(connection.answer().await, Err(AgentError::Silent(FIRST_ANSWER_LIMIT))));
    assert_eq!(Problem::from(AgentError::Silent(DONE_LIMIT)).status, 504);
}

#[tokio::test]
async fn a_request_too_long_is_the_callers_fault() {
    let (host, _agent) = BlockingStream::pair().unwrap();
    let path = "x".repeat(MAX_MESSAGE);
    let opened = AgentConnection::open(host, Request::Stat { path }).await;
    assert_eq!(Problem::from(opened.unwrap_err()).status, 413);
}
