//! Guests that break the rules.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::vsock::packet::{Header, op};
use crate::devices::virtio::vsock::testing::{Guest, HEADER, Peer};
use crate::devices::virtio::vsock::{EVENT, RX, TX, Vsock, VsockHost};

fn guest() -> (Guest, VsockHost, Receiver<UnixStream>) {
    let (device, host) = Vsock::new(None).unwrap();
    let streams = host.listen(7);
    (Guest::new(device), host, streams)
}

#[test]
fn packets_to_or_from_elsewhere_reach_nobody() {
    let (mut guest, _host, streams) = guest();
    let request = Peer::new(7, 1).header(op::REQUEST);
    guest.send(Header { src_cid: 4, ..request }, &[]);
    assert!(guest.next().is_none());
    guest.send(Header { dst_cid: 9, ..request }, &[]);
    let refusal = guest.expect(op::RST);
    assert_eq!((refusal.src_cid, refusal.dst_cid), (9, 3));
    // Seqpacket, and what nobody has heard of.
    for kind in [0, 2, 77] {
        guest.send(Header { kind, ..request }, &[]);
        assert_eq!(guest.expect(op::RST).kind, kind);
    }
    assert!(streams.try_recv().is_err());
}

#[test]
fn packets_out_of_place_end_the_connection() {
    for operation in [0, op::REQUEST, op::RESPONSE, 8, 999] {
        let (mut guest, _host, _streams) = guest();
        let peer = Peer::connect(&mut guest, 7, 1);
        peer.say(&mut guest, operation, 0);
        guest.expect(op::RST);
        Peer::connect(&mut guest, 7, 1);
    }
}

#[test]
fn strangers_are_refused_and_their_refusals_are_not() {
    let (mut guest, _host, _streams) = guest();
    let stranger = Peer::new(7, 1);
    for operation in [op::RESPONSE, op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, 0, 999] {
        stranger.say(&mut guest, operation, 0);
        guest.expect(op::RST);
    }
    for _ in 0..5000 {
        stranger.say(&mut guest, op::RST, 0);
    }
    assert!(guest.next().is_none());
}

#[test]
fn refusals_that_nobody_takes_are_not_kept_forever() {
    let (device, _host) = Vsock::new(None).unwrap();
    let mut guest = Guest::bare(device);
    for port in 0..5000 {
        Peer::new(7, port).say(&mut guest, op::RW, 0);
    }
    guest.give(usize::MAX);
    let refusals =
        std::iter::from_fn(|| guest.next()).inspect(|(header, _)| assert_eq!(header.op, op::RST));
    assert_eq!(refusals.count(), 1024);
}

#[test]
fn chains_that_are_too_short_break_the_device_and_no_more() {
    for (queue, pieces) in [
        (TX, vec![(0x20_0000, 43)]),
        (TX, vec![(0x20_0000, 44), (0x20_1000, 99)]),
        (TX, vec![(0x20_0000, 44), (0xffff_ffff_ffff, 100)]),
        (TX, vec![(u64::MAX, 44)]),
        (RX, vec![(0x20_0000, 44)]),
        (RX, vec![(0x40_0000, 4096)]),
        (EVENT, vec![(0x20_0000, 3)]),
    ] {
        let (mut device, host) = Vsock::new(None).unwrap();
        device.activate(1);
        let mut guest = Guest::bare(device);
        let data = Header { len: 100, ..Peer::new(7, 1).header(op::RW) };
        guest.memory.write_slice(&data.encode(), GuestAddress(0x20_0000)).unwrap();
        let _stream = host.connect(52).unwrap();
        guest.settle();
        if queue == EVENT {
            guest.run(|device, rings| device.resume(rings)).unwrap();
        }
        guest.post(queue, &pieces);
        let result = guest.run(|device, rings| device.serve(queue, rings));
        assert_eq!(result.unwrap_err().queue, queue, "{pieces:x?}");
        assert!(matches!(guest.device.state(), crate::devices::virtio::DeviceState::Vsock(_)));
    }
}

fn header() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![8 => Just(3_u64), 8 => Just(2_u64), 1 => any::<u64>()];
    let port = prop_oneof![8 => 5..9_u32, 2 => (1_u32 << 30)..(1 << 30) + 4, 1 => any::<u32>()];
    let amount = prop_oneof![4 => Just(256_u32 << 10), 1 => any::<u32>()];
    let op = prop_oneof![8 => 1..8_u16, 1 => any::<u16>()];
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    (cid.clone(), cid, port.clone(), port, kind, op, 0..5_u32, amount.clone(), amount).prop_map(
        |(src_cid, dst_cid, src_port, dst_port, kind, op, flags, buf_alloc, fwd_cnt)| Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len: 0,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_packets_are_survived(
        packets in prop::collection::vec((header(), 0..5000_u32), 1..300),
    ) {
        let (mut guest, host, streams) = guest();
        let mut ends = vec![host.connect(7).unwrap(), host.connect(8).unwrap()];
        for (header, len) in packets {
            guest.send_in(Header { len, ..header }, &vec![9; len as usize], 3);
            ends.extend(streams.try_iter());
            // Each end says something now and then; that it is closed is fine.
            for end in &mut ends {
                end.set_nonblocking(true).unwrap();
                let _ = end.write(b"hello");
            }
            guest.settle();
            while guest.next().is_some() {}
        }
        // The device still does its work.
        Peer::new(7, 77_777).say(&mut guest, op::REQUEST, 0);
        prop_assert_eq!(guest.next().map(|(header, _)| header.op), Some(op::RESPONSE));
    }

    /// Rings of any content, with heads within and without them, and any descriptors.
    #[test]
    fn any_memory_is_survived(
        table in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u16>(), any::<u16>()), 128),
        near in any::<bool>(),
        heads in prop::collection::vec(any::<u16>(), 128),
        added in prop::collection::vec(0..200_u16, 3),
        first in header(),
    ) {
        let (mut device, host) = Vsock::new(None).unwrap();
        device.activate(1);
        let mut guest = Guest::bare(device);
        let streams = host.listen(7);
        let _call = host.connect(7).unwrap();
        for (queue, added) in added.into_iter().enumerate() {
            let base = 0x1_0000 * (queue as u64 + 1);
            for (at, &(address, length, flags, next)) in (0..).zip(&table) {
                let mut address = address;
                let (mut length, mut next) = (length, next);
                if near {
                    // Addresses that exist, and chains that go on: loops among them.
                    (address, length, next) = (address % 0x50_0000, length % 9000, next % 128);
                }
                let desc = base + 16 * at;
                guest.memory.write_obj(address, GuestAddress(desc)).unwrap();
                guest.memory.write_obj(length, GuestAddress(desc + 8)).unwrap();
                guest.memory.write_obj(flags & 7, GuestAddress(desc + 12)).unwrap();
                guest.memory.write_obj(next, GuestAddress(desc + 14)).unwrap();
                if near && address < 0x10_0000 {
                    continue;
                }
                if near && address + (HEADER as u64) < 0x40_0000 {
                    let packet = Header { len: length % 5000, ..first };
                    guest.memory.write_slice(&packet.encode(), GuestAddress(address)).unwrap();
                }
            }
            for (at, &head) in (0..).zip(&heads) {
                let head = if near { head % 130 } else { head };
                guest.memory.write_obj(head, GuestAddress(base + 0x1004 + 2 * at)).unwrap();
            }
            guest.memory.write_obj(added, GuestAddress(base + 0x1002)).unwrap();
        }
        // Broken or not: it returns. What comes back is not read, for the guest is mad.
        for queue in [TX, RX, EVENT, TX] {
            guest.serve_raw(queue);
        }
        drop(streams);
    }
}
