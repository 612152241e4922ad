//! Clones, and machines that were put back to their snapshot.

use std::io::{Read, Write};

use crate::devices::virtio::vsock::packet::op;
use crate::devices::virtio::vsock::testing::{Guest, Peer};
use crate::devices::virtio::vsock::{Vsock, VsockHost, VsockState};
use crate::devices::virtio::{DeviceState, VirtioDevice};

fn state(guest: &Guest) -> VsockState {
    match guest.device.state() {
        DeviceState::Vsock(state) => state,
        other => panic!("{other:?}"),
    }
}

/// A guest that goes on as a clone.
fn cloned(parent: Guest) -> (Guest, VsockHost) {
    let (device, host) = Vsock::restored(&state(&parent), None).unwrap();
    (parent.cloned(device), host)
}

#[test]
fn a_clone_is_told_and_only_then_called() {
    let (device, host) = Vsock::new(None).unwrap();
    let mut parent = Guest::new(device);
    let mut old = host.connect(52).unwrap();
    let peer = Peer::accept(&mut parent);

    let (mut clone, host) = cloned(parent);
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
    let mut stream = host.connect(52).unwrap();
    stream.write_all(b"hello").unwrap();
    clone.run(|device, rings| device.resume(rings)).unwrap();
    assert_eq!(clone.event(), Some(0));
    assert_eq!(clone.event(), None);
    // The driver is at work on it; what it does meanwhile to the parent's connection is
    // answered later too.
    peer.say(&mut clone, op::CREDIT_UPDATE, 0);
    clone.settle();
    assert!(clone.next().is_none());
    // It gives the buffer back when all its sockets are reset.
    clone.give_events(1);
    clone.expect(op::RST);
    Peer::accept(&mut clone);
    assert_eq!(clone.expect(op::RW).len, 5);
    assert_eq!(clone.event(), None);
}

#[test]
fn a_clone_without_a_buffer_for_events_is_told_when_it_has_one() {
    let (mut device, _host) = Vsock::new(None).unwrap();
    device.activate(1);
    let mut parent = Guest::bare(device);
    parent.give(8);
    let (mut clone, host) = cloned(parent);
    clone.run(|device, rings| device.resume(rings)).unwrap();
    let _stream = host.connect(52).unwrap();
    clone.settle();
    assert_eq!(clone.event(), None);
    clone.give_events(2);
    assert_eq!(clone.event(), Some(0));
    assert!(clone.next().is_none());
    clone.give_events(1);
    clone.expect(op::REQUEST);
}

#[test]
fn a_clone_of_a_clone_that_was_not_told_yet_owes_it_still() {
    let (mut device, _host) = Vsock::new(None).unwrap();
    device.activate(1);
    let (mut clone, _host) = cloned(Guest::bare(device));
    clone.run(|device, rings| device.resume(rings)).unwrap();
    let (mut grandchild, _host) = cloned(clone);
    grandchild.run(|device, rings| device.resume(rings)).unwrap();
    grandchild.give_events(2);
    assert_eq!(grandchild.event(), Some(0));
    assert_eq!(grandchild.event(), None);
}

#[test]
fn a_clone_of_a_clone_that_was_at_work_on_it_does_all_of_it_first() {
    let (device, _host) = Vsock::new(None).unwrap();
    let (mut clone, _host) = cloned(Guest::new(device));
    clone.run(|device, rings| device.resume(rings)).unwrap();
    let (mut grandchild, host) = cloned(clone);
    grandchild.run(|device, rings| device.resume(rings)).unwrap();
    let _stream = host.connect(52).unwrap();
    // The event of its parent, and its own.
    for _ in 0..2 {
        grandchild.settle();
        assert!(grandchild.next().is_none());
        assert_eq!(grandchild.event(), Some(0));
        grandchild.give_events(1);
    }
    grandchild.expect(op::REQUEST);
}

#[test]
fn a_machine_put_back_again_and_again_keeps_its_listeners_and_nothing_else() {
    let (device, _host) = Vsock::new(None).unwrap();
    let (mut guest, host) = cloned(Guest::new(device));
    let picture = guest.picture();
    let streams = host.listen(7);
    guest.run(|device, rings| device.resume(rings)).unwrap();
    for _ in 0..4 {
        assert_eq!(guest.event(), Some(0));
        guest.give_events(1);
        let peer = Peer::connect(&mut guest, 7, 1);
        let mut stream = streams.try_recv().unwrap();
        guest.put_back(&picture);
        // As the transport does it.
        guest.device.reset();
        guest.run(|device, rings| device.resume(rings)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        peer.say(&mut guest, op::CREDIT_UPDATE, 0);
        assert!(guest.next().is_none());
        assert_eq!(guest.event(), Some(0));
        guest.give_events(1);
        guest.expect(op::RST);
        guest.put_back(&picture);
        guest.run(|device, rings| device.resume(rings)).unwrap();
    }
}

#[test]
fn a_driver_that_never_began_is_told_nothing() {
    let (device, host) = Vsock::new(None).unwrap();
    let (mut clone, clone_host) = cloned(Guest::bare(device));
    drop(host);
    clone.run(|device, rings| device.resume(rings)).unwrap();
    clone.give_events(1);
    assert_eq!(clone.event(), None);
    let _stream = clone_host.connect(52).unwrap();
    clone.give(1);
    clone.expect(op::REQUEST);
}
