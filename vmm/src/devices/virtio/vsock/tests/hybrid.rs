//! Unix sockets for other programs of the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::devices::DeviceError;
use crate::devices::virtio::vsock::Vsock;
use crate::devices::virtio::vsock::packet::{op, shutdown};
use crate::devices::virtio::vsock::testing::{Guest, Peer};

#[test]
fn a_program_is_connected_to_the_port_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let (device, _host) = Vsock::new(Some(path.clone())).unwrap();
    let mut guest = Guest::new(device);
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONN").unwrap();
    guest.settle();
    program.write_all(b"ECT 52\nhello").unwrap();
    let mut peer = Peer::accept(&mut guest);
    assert_eq!(peer.guest, 52);
    assert_eq!(guest.expect(op::RW).len, 5);
    peer.heard.buf_alloc = 100;
    peer.write(&mut guest, b"welcome", 1);
    peer.say(&mut guest, op::SHUTDOWN, shutdown::BOTH);
    let mut reader = BufReader::new(program);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", peer.host));
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "welcome");
}

#[test]
fn a_program_that_names_no_port_is_sent_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let (device, _host) = Vsock::new(Some(path.clone())).unwrap();
    let mut guest = Guest::new(device);
    for line in [
        "CONNECT\n",
        "CONNECT x\n",
        "connect 5\n",
        "CONNECT 4294967296\n",
        "\n",
        "GET / HTTP/1.1 and more",
    ] {
        let mut program = UnixStream::connect(&path).unwrap();
        program.write_all(line.as_bytes()).unwrap();
        guest.settle();
        // It may be told by a reset, for what it wrote was not read to the end.
        assert!(!matches!(program.read(&mut [0]), Ok(1..)), "{line}");
        assert!(guest.next().is_none());
    }
}

#[test]
fn a_guest_reaches_the_programs_that_listen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let listener = UnixListener::bind(directory.path().join("vsock_77")).unwrap();
    let (device, host) = Vsock::new(Some(path)).unwrap();
    let mut guest = Guest::new(device);
    let mut peer = Peer::connect(&mut guest, 77, 1);
    let (mut program, _) = listener.accept().unwrap();
    peer.write(&mut guest, b"hello", 1);
    let mut bytes = [0; 5];
    program.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    Peer::new(78, 1).say(&mut guest, op::REQUEST, 0);
    guest.expect(op::RST);
    // Who listens in this process comes first.
    let streams = host.listen(77);
    Peer::connect(&mut guest, 77, 2);
    assert!(streams.try_recv().is_ok());
}

#[test]
fn a_listener_whose_backlog_is_full_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(directory.path().join("vsock_77")).unwrap();
    let (device, _host) = Vsock::new(Some(directory.path().join("vsock"))).unwrap();
    let mut guest = Guest::new(device);
    let refused = (0..1024).any(|port| {
        Peer::new(77, port).say(&mut guest, op::REQUEST, 0);
        guest.next().unwrap().0.op == op::RST
    });
    // The standard library listens with a backlog that may be as long as there are
    // connections; either bound refuses.
    Peer::new(77, 5000).say(&mut guest, op::REQUEST, 0);
    assert!(refused || guest.next().unwrap().0.op == op::RST);
}

#[test]
fn the_socket_is_made_once_and_goes_with_the_device() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let (device, _host) = Vsock::new(Some(path.clone())).unwrap();
    let second = Vsock::new(Some(path.clone()));
    assert!(matches!(second, Err(DeviceError::Host { .. })));
    assert!(path.exists());
    drop(device);
    assert!(!path.exists());
}

#[test]
fn programs_that_say_nothing_make_room_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let (device, _host) = Vsock::new(Some(path.clone())).unwrap();
    let mut guest = Guest::new(device);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(UnixStream::connect(&path).unwrap());
        guest.settle();
    }
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0);
    silent[99].write_all(b"CONNECT 52\n").unwrap();
    guest.expect(op::REQUEST);
}
