//! Data, both ways.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;

use crate::devices::virtio::vsock::Vsock;
use crate::devices::virtio::vsock::credit::BUFFER;
use crate::devices::virtio::vsock::packet::{Header, op};
use crate::devices::virtio::vsock::testing::{Guest, Peer, RX_BUFFER, pattern};

/// A connection from the guest: the guest, its end and the host's.
fn connection() -> (Guest, Peer, UnixStream) {
    let (device, host) = Vsock::new(None).unwrap();
    let streams = host.listen(1024);
    let mut guest = Guest::new(device);
    let peer = Peer::connect(&mut guest, 1024, 5000);
    let stream = streams.try_recv().unwrap();
    (guest, peer, stream)
}

/// Moves `up` bytes to the host, which reads `take` at a time, and `down` bytes to the guest.
fn exchange(up: usize, down: usize, take: usize) {
    let (mut guest, mut peer, stream) = connection();
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
    let host_reads = thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), vec![0_u8; take]);
        while all.len() < up {
            let count = reader.read(&mut some).unwrap();
            assert!(count > 0, "end of file after {} bytes", all.len());
            all.extend_from_slice(&some[..count]);
        }
        all
    });
    let host_writes = thread::spawn(move || {
        writer.write_all(&pattern(2, 0, down)).unwrap();
        writer
    });
    let (mut sent, mut got, mut pieces) = (0, Vec::new(), 0);
    while sent < up || got.len() < down {
        while let Some((header, data)) = guest.next() {
            let expected = [op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST];
            assert!(expected.contains(&header.op), "{header:?}");
            peer.hear(&header);
            got.extend(data);
            // The guest's program reads in large bites.
            if peer.came - peer.read >= peer.buffer / 2 {
                peer.read = peer.came;
                peer.say(&mut guest, op::CREDIT_UPDATE, 0);
            }
        }
        let count = (up - sent).min(peer.room() as usize).min(64 << 10);
        if count > 0 {
            pieces = pieces % 19 + 1;
            peer.write(&mut guest, &pattern(1, sent, count), pieces);
            sent += count;
        } else if sent < up || got.len() < down {
            guest.wait();
        }
    }
    // What the host has not taken yet is pushed on as it reads.
    while !host_reads.is_finished() {
        guest.settle();
        thread::yield_now();
    }
    assert!(host_reads.join().unwrap() == pattern(1, 0, up));
    assert!(got == pattern(2, 0, down));
    drop(host_writes.join().unwrap());
}

#[test]
fn megabytes_go_both_ways_at_once() {
    exchange(9_000_001, 7_000_003, 1 << 20);
}

#[test]
fn a_slow_reader_gets_everything() {
    exchange(3_000_000, 0, 700);
}

#[test]
fn a_host_that_reads_nothing_is_sent_no_more_than_fits() {
    let (mut guest, mut peer, mut stream) = connection();
    let mut sent = 0;
    while peer.room() > 0 {
        let count = peer.room().min(60_000) as usize;
        peer.write(&mut guest, &pattern(3, sent, count), 2);
        sent += count;
        while let Some((header, _)) = guest.next() {
            peer.hear(&header);
        }
    }
    assert!(sent >= BUFFER as usize);
    // Only what the host takes makes room.
    guest.settle();
    assert!(guest.next().is_none());
    let mut all = vec![0; sent];
    let reader = thread::spawn(move || {
        stream.read_exact(&mut all).unwrap();
        (all, stream)
    });
    let update = guest.expect(op::CREDIT_UPDATE);
    peer.hear(&update);
    assert!(peer.room() > 0);
    while !reader.is_finished() {
        guest.settle();
        thread::yield_now();
    }
    assert!(reader.join().unwrap().0 == pattern(3, 0, sent));
}

#[test]
fn a_guest_without_room_is_asked_once_and_then_served() {
    let (mut guest, mut peer, mut stream) = connection();
    peer.buffer = 1000;
    peer.say(&mut guest, op::CREDIT_UPDATE, 0);
    stream.write_all(&pattern(4, 0, 1500)).unwrap();
    let data = guest.expect(op::RW);
    assert_eq!(data.len, 1000);
    peer.hear(&data);
    guest.expect(op::CREDIT_REQUEST);
    guest.settle();
    assert!(guest.next().is_none() && !guest.is_due());
    peer.read = 1000;
    peer.say(&mut guest, op::CREDIT_UPDATE, 0);
    assert_eq!(guest.expect(op::RW).len, 500);
}

#[test]
fn a_question_about_room_is_answered() {
    let (mut guest, mut peer, _stream) = connection();
    peer.write(&mut guest, b"12345", 1);
    peer.say(&mut guest, op::CREDIT_REQUEST, 0);
    let answer = guest.expect(op::CREDIT_UPDATE);
    assert_eq!((answer.buf_alloc, answer.fwd_cnt), (BUFFER, 5));
}

#[test]
fn a_guest_without_buffers_wakes_nobody_and_gets_all_when_it_has_some() {
    let (mut guest, mut peer, mut stream) = connection();
    peer.buffer = 16 << 20;
    peer.say(&mut guest, op::CREDIT_UPDATE, 0);
    guest.refill = false;
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(count) = stream.write(&pattern(5, sent, 10_000)) {
        sent += count;
        guest.settle();
    }
    assert!(sent > 128 * RX_BUFFER as usize);
    assert!(!guest.is_due());
    let (mut got, mut more) = (Vec::new(), true);
    while more {
        more = false;
        while let Some((_, data)) = guest.next() {
            got.extend(data);
            more = true;
        }
        guest.give(7);
    }
    assert!(got == pattern(5, 0, sent));
}

#[test]
fn connections_take_turns() {
    let (device, host) = Vsock::new(None).unwrap();
    let streams = host.listen(1024);
    let mut guest = Guest::new(device);
    let peers: Vec<Peer> = (0..3).map(|at| Peer::connect(&mut guest, 1024, at)).collect();
    guest.refill = false;
    let mut ends: Vec<UnixStream> = streams.try_iter().collect();
    for end in &mut ends {
        end.write_all(&[7; 40_000]).unwrap();
    }
    guest.settle();
    let mut order = Vec::new();
    while let Some((header, _)) = guest.next() {
        order.push(header.dst_port);
    }
    assert_eq!(order.len(), 3 * 40_000_usize.div_ceil(RX_BUFFER as usize - 44));
    let turns: Vec<&[u32]> = order.chunks(3).collect();
    assert!(turns.iter().all(|turn| peers.iter().all(|peer| turn.contains(&peer.guest))));
}

#[derive(Clone, Debug)]
enum Step {
    GuestSends { count: usize, pieces: usize },
    GuestReads(u32),
    HostSends(usize),
    HostReads(usize),
    Give(usize),
    Serve,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..70_000_usize, 1..20_usize)
            .prop_map(|(count, pieces)| Step::GuestSends { count, pieces }),
        any::<u32>().prop_map(Step::GuestReads),
        (1..100_000_usize).prop_map(Step::HostSends),
        (1..200_000_usize).prop_map(Step::HostReads),
        (1..20_usize).prop_map(Step::Give),
        Just(Step::Serve),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of things, each byte comes once and in order, and no more is under
    /// way than there is room for.
    #[test]
    fn no_byte_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 1..120), buffer in 1000..300_000_u32,
    ) {
        let (mut guest, mut peer, mut stream) = connection();
        stream.set_nonblocking(true).unwrap();
        guest.refill = false;
        peer.buffer = buffer;
        peer.say(&mut guest, op::CREDIT_UPDATE, 0);
        let (mut up, mut down) = ((0, 0), (0, 0));
        // In the end everything is read.
        let rest = [Step::Serve, Step::Give(9), Step::GuestReads(u32::MAX), Step::HostReads(99_999)];
        for step in steps.into_iter().chain(std::iter::repeat_n(rest, 200).flatten()) {
            match step {
                Step::GuestSends { count, pieces } => {
                    let count = count.min(peer.room() as usize);
                    peer.write(&mut guest, &pattern(6, up.0, count), pieces);
                    up.0 += count;
                }
                Step::GuestReads(count) => {
                    peer.read += count.min(peer.came - peer.read);
                    peer.say(&mut guest, op::CREDIT_UPDATE, 0);
                }
                Step::HostSends(count) => {
                    down.0 += stream.write(&pattern(7, down.0, count)).unwrap_or(0);
                }
                Step::HostReads(count) => {
                    let mut bytes = vec![0; count];
                    let count = stream.read(&mut bytes).unwrap_or(0);
                    prop_assert!(bytes[..count] == pattern(6, up.1, count));
                    up.1 += count;
                }
                Step::Give(count) => guest.give(count),
                Step::Serve => guest.settle(),
            }
            while let Some((header, data)) = guest.next() {
                prop_assert!(matches!(header.op, op::RW | op::CREDIT_UPDATE | op::CREDIT_REQUEST));
                peer.hear(&header);
                prop_assert!(data == pattern(7, down.1, data.len()));
                down.1 += data.len();
            }
        }
        prop_assert_eq!(up.0, up.1);
        prop_assert_eq!(down.0, down.1);
    }
}

#[test]
fn more_than_there_is_room_for_ends_the_connection() {
    let (mut guest, mut peer, mut stream) = connection();
    // Fill the stream, then the buffer, without listening to what the device says.
    for _ in 0..100 {
        peer.write(&mut guest, &[8; 60_000], 1);
        if let Some((Header { op: op::RST, .. }, _)) = guest.next() {
            // What came before is not lost.
            let reader = thread::spawn(move || stream.read_to_end(&mut Vec::new()).unwrap());
            while !reader.is_finished() {
                guest.settle();
                thread::yield_now();
            }
            assert!(reader.join().unwrap() >= BUFFER as usize);
            return;
        }
    }
    panic!("the guest filled the host's memory");
}
