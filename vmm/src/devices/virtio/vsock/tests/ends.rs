//! How connections begin and end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::vsock::packet::{Header, op, shutdown};
use crate::devices::virtio::vsock::testing::{Guest, Peer, pattern};
use crate::devices::virtio::vsock::{TX, Vsock, VsockHost};

fn guest() -> (Guest, VsockHost) {
    let (device, host) = Vsock::new(None).unwrap();
    (Guest::new(device), host)
}

/// A connection that the host asked for: the guest, its end and the host's.
fn called() -> (Guest, Peer, UnixStream) {
    let (mut guest, host) = guest();
    let stream = host.connect(52).unwrap();
    let peer = Peer::accept(&mut guest);
    assert_eq!((peer.host, peer.guest), (1 << 30, 52));
    (guest, peer, stream)
}

/// Checks that the device knows nothing of the connection of `peer`.
fn assert_gone(guest: &mut Guest, peer: &Peer) {
    assert!(guest.next().is_none());
    peer.say(guest, op::CREDIT_UPDATE, 0);
    guest.expect(op::RST);
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let (mut guest, host) = guest();
    drop(host.listen(9));
    for port in [9, 10] {
        Peer::new(port, 5).say(&mut guest, op::REQUEST, 0);
        let refusal = guest.expect(op::RST);
        assert_eq!((refusal.src_port, refusal.dst_port), (port, 5));
    }
}

#[test]
fn a_guest_that_refuses_closes_the_stream() {
    let (mut guest, host) = guest();
    let mut stream = host.connect(52).unwrap();
    let request = guest.expect(op::REQUEST);
    Peer::new(request.src_port, 52).say(&mut guest, op::RST, 0);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn calls_have_ports_of_their_own() {
    let (mut guest, host) = guest();
    let _streams = [host.connect(52).unwrap(), host.connect(52).unwrap()];
    let ports = [Peer::accept(&mut guest).host, Peer::accept(&mut guest).host];
    assert_eq!(ports, [1 << 30, (1 << 30) + 1]);
}

#[test]
fn a_call_that_is_given_up_is_taken_back() {
    let (mut guest, host) = guest();
    let stream = host.connect(52).unwrap();
    guest.expect(op::REQUEST);
    drop(stream);
    guest.expect(op::RST);
}

#[test]
fn a_call_waits_for_the_driver() {
    let (device, host) = Vsock::new(None).unwrap();
    let mut guest = Guest::bare(device);
    let mut stream = host.connect(52).unwrap();
    stream.write_all(b"early").unwrap();
    let given_up = host.connect(53).unwrap();
    guest.settle();
    drop(given_up);
    guest.settle();
    assert!(!guest.is_due());
    // Linux resets the device before it begins.
    guest.device.reset();
    guest.give(16);
    let peer = Peer::accept(&mut guest);
    assert_eq!(peer.guest, 52);
    assert_eq!(guest.expect(op::RW).len, 5);
    assert!(guest.next().is_none());
}

#[test]
fn each_side_may_stop_to_send_and_go_on_to_receive() {
    let (mut guest, mut peer, mut stream) = called();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::RW).len, 8);
    let end = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::SEND);
    peer.hear(&end);
    peer.write(&mut guest, b"answer", 1);
    peer.say(&mut guest, op::SHUTDOWN, shutdown::SEND);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    // Nothing can follow in either direction, so the connection is over.
    guest.settle();
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::BOTH);
    peer.say(&mut guest, op::RST, 0);
    assert_gone(&mut guest, &peer);
}

#[test]
fn a_guest_that_stops_to_send_still_receives() {
    let (mut guest, peer, mut stream) = called();
    peer.say(&mut guest, op::SHUTDOWN, shutdown::SEND);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(op::RW).len, 10);
}

#[test]
fn a_guest_that_stops_to_receive_still_sends() {
    let (mut guest, mut peer, mut stream) = called();
    peer.say(&mut guest, op::SHUTDOWN, shutdown::RECEIVE);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    peer.heard.buf_alloc = 100;
    peer.write(&mut guest, b"still here", 1);
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    drop(stream);
    guest.settle();
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::BOTH);
}

#[test]
fn a_host_that_stops_to_receive_still_sends() {
    let (mut guest, mut peer, mut stream) = called();
    stream.shutdown(Shutdown::Read).unwrap();
    peer.write(&mut guest, b"unwanted", 1);
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::RECEIVE);
    // What is under way is lost, and takes no room.
    peer.write(&mut guest, b"unwanted", 1);
    stream.write_all(b"still here").unwrap();
    let data = guest.expect(op::RW);
    assert_eq!((data.len, data.fwd_cnt), (10, 16));
}

#[test]
fn what_a_host_sent_before_it_closed_comes_before_the_end() {
    let (mut guest, peer, mut stream) = called();
    stream.write_all(&pattern(1, 0, 50_000)).unwrap();
    drop(stream);
    let mut got = Vec::new();
    let end = loop {
        match guest.next() {
            Some((header, data)) if header.op == op::RW => got.extend(data),
            Some((header, _)) => break header,
            None => guest.wait(),
        }
    };
    assert!(got == pattern(1, 0, 50_000));
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, shutdown::BOTH));
    peer.say(&mut guest, op::RST, 0);
    assert_gone(&mut guest, &peer);
}

#[test]
fn what_a_guest_sent_before_it_closed_comes_to_a_host_that_is_slow() {
    let (mut guest, mut peer, mut stream) = called();
    peer.heard.buf_alloc = 256 << 10;
    let mut sent = 0;
    while peer.room() > 0 {
        let count = peer.room().min(60_000) as usize;
        peer.write(&mut guest, &pattern(2, sent, count), 1);
        sent += count;
        while let Some((header, _)) = guest.next() {
            peer.hear(&header);
        }
    }
    // The guest is free at once, and may use the port again.
    peer.say(&mut guest, op::SHUTDOWN, shutdown::BOTH);
    guest.expect(op::RST);
    assert_gone(&mut guest, &peer);
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    while !reader.is_finished() {
        guest.settle();
        thread::yield_now();
    }
    assert!(reader.join().unwrap() == pattern(2, 0, sent));
}

#[test]
fn a_guest_that_resets_ends_the_stream() {
    let (mut guest, mut peer, mut stream) = called();
    peer.write(&mut guest, b"last words", 1);
    peer.say(&mut guest, op::RST, 0);
    let mut words = String::new();
    stream.read_to_string(&mut words).unwrap();
    assert_eq!(words, "last words");
    assert_gone(&mut guest, &peer);
}

#[test]
fn a_driver_that_resets_the_device_ends_what_it_knew_of() {
    let (mut guest, host) = guest();
    let listener = host.listen(7);
    let mut old = host.connect(52).unwrap();
    let peer = Peer::accept(&mut guest);
    guest.device.reset();
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
    assert_gone(&mut guest, &peer);
    Peer::connect(&mut guest, 7, 1);
    assert!(listener.try_recv().is_ok());
}

#[test]
fn a_listener_that_takes_nothing_fills_up() {
    let (mut guest, host) = guest();
    let streams = host.listen(7);
    let (mut accepted, mut refused) = (0, 0);
    for port in 0..300 {
        let peer = Peer::new(7, port);
        peer.say(&mut guest, op::REQUEST, 0);
        match guest.next().unwrap().0 {
            Header { op: op::RESPONSE, .. } => accepted += 1,
            Header { op: op::RST, .. } => refused += 1,
            header => panic!("{header:?}"),
        }
    }
    assert_eq!((accepted, refused), (128, 172));
    assert_eq!(streams.try_iter().count(), 128);
    Peer::connect(&mut guest, 7, 1000);
}

#[test]
fn there_are_only_so_many_connections() {
    let (mut guest, host) = guest();
    let streams = host.listen(7);
    let mut ends = Vec::new();
    for port in 0..1024 {
        Peer::connect(&mut guest, 7, port);
        ends.extend(streams.try_recv());
    }
    Peer::new(7, 2000).say(&mut guest, op::REQUEST, 0);
    guest.expect(op::RST);
    let mut stream = host.connect(52).unwrap();
    guest.settle();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // Each that ends makes room for one.
    Peer::new(7, 3).say(&mut guest, op::RST, 0);
    Peer::connect(&mut guest, 7, 2000);
}

#[test]
fn when_the_machine_is_gone_so_is_its_vsock() {
    let (mut guest, host) = guest();
    let streams = host.listen(7);
    let mut open = host.connect(52).unwrap();
    guest.expect(op::REQUEST);
    let mut waiting = host.connect(53).unwrap();
    drop(guest);
    assert!(streams.recv().is_err());
    assert!(host.listen(8).recv().is_err());
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
    assert_eq!(host.connect(54).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn a_queue_that_is_left_in_the_middle_is_finished() {
    // More than one turn of `Rings` in one notification.
    let (mut guest, host) = guest();
    let _streams: Vec<UnixStream> = (0..300).map(|_| host.connect(52).unwrap()).collect();
    guest.settle();
    let requests =
        std::iter::from_fn(|| guest.next()).filter(|(header, _)| header.op == op::REQUEST);
    assert_eq!(requests.count(), 300);
    guest.notify(TX);
}
