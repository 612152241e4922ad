//! Connections that go well, and that don't.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};

use common::Agent;
use tine_abi::agent::{Adopt, AgentMessage, Failure, HostMessage, Request, VERSION, encode};

#[test]
fn it_is_there() {
    let agent = Agent::start();
    assert_eq!(agent.ask(Request::Ping), AgentMessage::Done);
    assert_eq!(agent.ask(Request::Sync), AgentMessage::Done);
}

#[test]
fn garbage_ends_its_connection_only() {
    let agent = Agent::start();
    let open = encode(&HostMessage::Open { version: VERSION, request: Request::Ping }).unwrap();
    let garbage: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100], &[0; 64], &[1, 0, 0, 0, 99], &open[..6]];
    for bytes in garbage {
        let mut host = agent.connect();
        host.0.write_all(bytes).unwrap();
        host.0.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // It may be reset, as not all was read.
        let _reset = host.0.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    assert_eq!(agent.ask(Request::Ping), AgentMessage::Done);
}

#[test]
fn garbage_after_the_start_ends_the_program() {
    let agent = Agent::start();
    let mut host = agent.exec(common::shell("sleep 1000"));
    let pid = host.started();
    host.0.write_all(&[0xff; 8]).unwrap();
    common::wait_until_gone(pid);
}

#[test]
fn another_version_is_told() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.send(HostMessage::Open { version: VERSION + 1, request: Request::Ping });
    assert_eq!(host.failure(), Failure::Version(VERSION));
}

#[test]
fn the_first_message_opens() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.send(HostMessage::End);
    assert!(matches!(host.failure(), Failure::Invalid(_)));
}

#[test]
fn many_may_be_connected_and_more_are_closed() {
    let agent = Agent::start();
    // A few more than may be, as those that `start` looked with may not all be gone.
    let mut silent: Vec<_> = (0..260).map(|_| agent.connect()).collect();
    let mut nothing = [0];
    assert_eq!(silent.pop().unwrap().0.read(&mut nothing).unwrap(), 0);
    // Each of the others still has its turn.
    let mut host = silent.swap_remove(0);
    host.send(HostMessage::Open { version: VERSION, request: Request::Ping });
    assert_eq!(host.last(), AgentMessage::Done);
}

#[test]
fn a_machine_that_is_not_its_own_is_left_alone() {
    let agent = Agent::start();
    let adopt = Adopt { realtime_ns: 0, entropy: vec![], hostname: None, machine_id: None };
    assert!(matches!(agent.open(Request::Adopt(adopt)).failure(), Failure::Invalid(_)));
    assert!(matches!(agent.open(Request::PowerOff).failure(), Failure::Invalid(_)));
    assert_eq!(agent.ask(Request::Ping), AgentMessage::Done);
}
