//! A guest for tests: a driver of the device in a few megabytes of memory, which notifies
//! and sleeps by the rules of `VIRTIO_F_EVENT_IDX`, so that a wake-up that gets lost makes a
//! test fail.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;

use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::packet::{self, GUEST_CID, HOST_CID, Header, STREAM, op};
use super::{EVENT, RX, TX, Vsock};
use crate::devices::virtio::{Broken, Rings, VirtioDevice};

/// Guest memory, bytes.
pub const MEMORY: usize = 4 << 20;
/// Size of a receive buffer, as Linux has it.
pub const RX_BUFFER: u32 = 4096;
/// Where what is sent lies.
const SENT: u64 = 0x20_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One split ring of the driver.
#[derive(Clone)]
struct Ring {
    base: u64,
    size: u16,
    added: u16,
    used: u16,
    free: Vec<u16>,
}

impl Ring {
    fn desc(&self, index: u16) -> GuestAddress {
        GuestAddress(self.base + 16 * u64::from(index))
    }

    fn avail(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.base + 0x1000 + offset)
    }

    fn used(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.base + 0x2000 + offset)
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_desc_table_address(Some(self.desc(0).0 as u32), None);
        queue.set_avail_ring_address(Some(self.avail(0).0 as u32), None);
        queue.set_used_ring_address(Some(self.used(0).0 as u32), None);
        queue.set_event_idx(true);
        queue.set_ready(true);
        queue
    }

    /// Adds a chain of `pieces`. Whether the device is to be notified; none when the ring
    /// is full.
    fn add(&mut self, memory: &GuestMemoryMmap, pieces: &[(u64, u32)], flags: u16) -> Option<bool> {
        if self.free.len() < pieces.len() {
            return None;
        }
        let indices = self.free.split_off(self.free.len() - pieces.len());
        for (at, &(address, length)) in pieces.iter().enumerate() {
            let next = indices.get(at + 1);
            let flags = flags | next.map_or(0, |_| NEXT);
            let desc = self.desc(indices[at]);
            memory.write_obj(address, desc).unwrap();
            memory.write_obj(length, GuestAddress(desc.0 + 8)).unwrap();
            memory.write_obj(flags, GuestAddress(desc.0 + 12)).unwrap();
            memory.write_obj(next.copied().unwrap_or(0), GuestAddress(desc.0 + 14)).unwrap();
        }
        let slot = 4 + 2 * u64::from(self.added % self.size);
        memory.write_obj(indices[0], self.avail(slot)).unwrap();
        let old = self.added;
        self.added = old.wrapping_add(1);
        memory.write_obj(self.added, self.avail(2)).unwrap();
        let event: u16 = memory.read_obj(self.used(4 + 8 * u64::from(self.size))).unwrap();
        Some(event == old)
    }

    /// The next chain that came back: its pieces and the bytes written.
    fn take(&mut self, memory: &GuestMemoryMmap) -> Option<(Vec<(u64, u32)>, u32)> {
        if memory.read_obj::<u16>(self.used(2)).unwrap() == self.used {
            return None;
        }
        let slot = self.used(4 + 8 * u64::from(self.used % self.size));
        let [head, written]: [u32; 2] = memory.read_obj(slot).unwrap();
        self.used = self.used.wrapping_add(1);
        let (mut index, mut pieces) = (u16::try_from(head).unwrap(), Vec::new());
        loop {
            let desc = self.desc(index);
            let at = |offset| GuestAddress(desc.0 + offset);
            pieces.push((memory.read_obj(at(0)).unwrap(), memory.read_obj(at(8)).unwrap()));
            self.free.push(index);
            if memory.read_obj::<u16>(at(12)).unwrap() & NEXT == 0 {
                return Some((pieces, written));
            }
            index = memory.read_obj(at(14)).unwrap();
        }
    }
}

/// A guest's memory and queues at one time.
pub struct Picture {
    memory: Vec<u8>,
    queues: Vec<QueueState>,
    rings: Vec<Ring>,
}

/// A guest, and the device that it drives.
pub struct Guest {
    pub memory: GuestMemoryMmap,
    pub device: Vsock,
    pub queues: Vec<Queue>,
    rings: Vec<Ring>,
    events: Epoll,
    /// Put back each receive buffer when it was read.
    pub refill: bool,
    received: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    /// A guest whose driver has just begun, with all the buffers it can have.
    pub fn new(mut device: Vsock) -> Self {
        device.activate(1);
        let mut guest = Self::bare(device);
        guest.give(usize::MAX);
        guest.give_events(8);
        guest
    }

    /// A guest whose driver has given no buffers yet.
    pub fn bare(device: Vsock) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let ring = |(at, &size): (u64, &u16)| Ring {
            base: 0x1_0000 * (at + 1),
            size,
            added: 0,
            used: 0,
            free: (0..size).collect(),
        };
        let rings: Vec<Ring> = (0..).zip(device.queue_sizes()).map(ring).collect();
        let queues = rings.iter().map(Ring::queue).collect();
        let events = watched(&device);
        let received = VecDeque::new();
        Self { memory, device, queues, rings, events, refill: true, received }
    }

    /// The guest as a clone has it, on a device of its own.
    pub fn cloned(mut self, device: Vsock) -> Self {
        self.events = watched(&device);
        self.device = device;
        self.received.clear();
        self
    }

    /// A snapshot of all but the device.
    pub fn picture(&self) -> Picture {
        let mut memory = vec![0; MEMORY];
        self.memory.read_slice(&mut memory, GuestAddress(0)).unwrap();
        let queues = self.queues.iter().map(Queue::state).collect();
        Picture { memory, queues, rings: self.rings.clone() }
    }

    /// Goes back to a snapshot, on the same device.
    pub fn put_back(&mut self, picture: &Picture) {
        self.memory.write_slice(&picture.memory, GuestAddress(0)).unwrap();
        let queue = |state: &QueueState| Queue::try_from(*state).unwrap();
        self.queues = picture.queues.iter().map(queue).collect();
        self.rings = picture.rings.clone();
        self.received.clear();
    }

    /// One turn of the device, and those that are due because a turn was over.
    pub fn run<F>(&mut self, mut work: F) -> Result<(), Broken>
    where
        F: FnMut(&mut Vsock, &mut Rings<'_>) -> Result<(), Broken>,
    {
        let mut rings = Rings::new(&self.memory, &mut self.queues);
        work(&mut self.device, &mut rings)?;
        let mut unfinished = rings.unfinished();
        while let Some(queue) = unfinished.pop() {
            let mut rings = Rings::new(&self.memory, &mut self.queues);
            self.device.serve(queue, &mut rings)?;
            unfinished.extend(rings.unfinished());
        }
        self.collect();
        Ok(())
    }

    /// Lets the device serve `queue` and then the host, whatever comes of it.
    pub fn serve_raw(&mut self, queue: usize) {
        let mut rings = Rings::new(&self.memory, &mut self.queues);
        let served = self.device.serve(queue, &mut rings);
        let _ = served.and_then(|()| self.device.serve_host(&mut rings));
    }

    /// Puts a chain of `pieces` into `queue`, and tells nobody.
    pub fn post(&mut self, queue: usize, pieces: &[(u64, u32)]) {
        let flags = if queue == TX { 0 } else { WRITE };
        self.rings[queue].add(&self.memory, pieces, flags).unwrap();
    }

    /// The driver notifies the device of `queue`.
    pub fn notify(&mut self, queue: usize) {
        self.run(|device, rings| device.serve(queue, rings)).unwrap();
    }

    /// Gives at most `count` receive buffers.
    pub fn give(&mut self, count: usize) {
        let mut notify = false;
        for _ in 0..count {
            let ring = &mut self.rings[RX];
            let Some(&index) = ring.free.last() else { break };
            let at = 0x10_0000 + u64::from(index) * u64::from(RX_BUFFER);
            notify |= ring.add(&self.memory, &[(at, RX_BUFFER)], WRITE).unwrap();
        }
        if notify {
            self.notify(RX);
        }
    }

    /// Gives `count` buffers for events.
    pub fn give_events(&mut self, count: usize) {
        let mut notify = false;
        for _ in 0..count {
            let ring = &mut self.rings[EVENT];
            let at = 0x8_0000 + 4 * u64::from(*ring.free.last().unwrap());
            notify |= ring.add(&self.memory, &[(at, 4)], WRITE).unwrap();
        }
        if notify {
            self.notify(EVENT);
        }
    }

    /// The next event, whose buffer is not given back.
    pub fn event(&mut self) -> Option<u32> {
        let (pieces, written) = self.rings[EVENT].take(&self.memory)?;
        assert_eq!(written, 4);
        Some(self.memory.read_obj(GuestAddress(pieces[0].0)).unwrap())
    }

    /// Reads what came from the device.
    fn collect(&mut self) {
        let mut count = 0;
        while let Some((pieces, written)) = self.rings[RX].take(&self.memory) {
            let mut bytes = vec![0; written as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(pieces[0].0)).unwrap();
            let (front, data) = bytes.split_first_chunk().unwrap();
            let header = Header::decode(front);
            assert_eq!(header.len as usize, data.len());
            self.received.push_back((header, data.to_vec()));
            count += 1;
        }
        if self.refill {
            self.give(count);
        }
    }

    /// The next packet from the device that has come already.
    pub fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        self.received.pop_front()
    }

    /// The next packet, which must be one of `operation`.
    pub fn expect(&mut self, operation: u16) -> Header {
        while self.received.is_empty() {
            self.wait();
        }
        let (header, _) = self.next().unwrap();
        assert_eq!(header.op, operation, "{header:?}");
        header
    }

    /// Whether the device would be woken now.
    pub fn is_due(&self) -> bool {
        self.events.wait(0, &mut [EpollEvent::default()]).unwrap() > 0
    }

    /// Lets the device serve the host until it has nothing to do.
    pub fn settle(&mut self) {
        while self.is_due() {
            self.run(|device, rings| device.serve_host(rings)).unwrap();
        }
    }

    /// Sleeps until the host does something, and lets the device serve it.
    pub fn wait(&mut self) {
        const FOREVER_MS: i32 = 60_000;
        let count = self.events.wait(FOREVER_MS, &mut [EpollEvent::default()]).unwrap();
        assert!(count > 0, "the device sleeps and nothing wakes it");
        self.run(|device, rings| device.serve_host(rings)).unwrap();
    }

    /// Sends a packet, cut into `pieces` descriptors.
    pub fn send_in(&mut self, header: Header, data: &[u8], pieces: usize) {
        let bytes = [&header.encode()[..], data].concat();
        self.memory.write_slice(&bytes, GuestAddress(SENT)).unwrap();
        let size = bytes.len().div_ceil(pieces);
        let cut =
            |at: usize| (SENT + (at * size) as u64, bytes[at * size..].len().min(size) as u32);
        let pieces: Vec<_> = (0..bytes.len().div_ceil(size)).map(cut).collect();
        if self.rings[TX].add(&self.memory, &pieces, 0).unwrap() {
            self.notify(TX);
        }
        let (_, written) = self.rings[TX].take(&self.memory).expect("a packet not taken");
        assert_eq!(written, 0);
    }

    /// Sends a packet in one piece.
    pub fn send(&mut self, header: Header, data: &[u8]) {
        self.send_in(header, data, 1);
    }
}

fn watched(device: &Vsock) -> Epoll {
    let events = Epoll::new().unwrap();
    let device = device.host_events().unwrap().as_raw_fd();
    events.ctl(ControlOperation::Add, device, EpollEvent::new(EventSet::IN, 0)).unwrap();
    events
}

/// A socket of the guest, with its account of credit.
#[derive(Clone, Debug)]
pub struct Peer {
    pub host: u32,
    pub guest: u32,
    /// Size of its buffer, bytes.
    pub buffer: u32,
    /// Bytes that its program has read.
    pub read: u32,
    /// Bytes that came.
    pub came: u32,
    /// Bytes that it sent.
    pub sent: u32,
    /// What the device told last.
    pub heard: Header,
}

impl Peer {
    /// A socket at `guest`, connected to nobody.
    pub fn new(host: u32, guest: u32) -> Self {
        let heard = Header::default();
        Self { host, guest, buffer: 256 << 10, read: 0, came: 0, sent: 0, heard }
    }

    /// A packet from it.
    pub fn header(&self, operation: u16) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: self.guest,
            dst_port: self.host,
            kind: STREAM,
            op: operation,
            buf_alloc: self.buffer,
            fwd_cnt: self.read,
            ..Header::default()
        }
    }

    /// Sends a packet without data.
    pub fn say(&self, guest: &mut Guest, operation: u16, flags: u32) {
        guest.send(Header { flags, ..self.header(operation) }, &[]);
    }

    /// Takes account of a packet from the device.
    pub fn hear(&mut self, header: &Header) {
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
        assert_eq!((header.src_port, header.dst_port), (self.host, self.guest));
        self.came = self.came.wrapping_add(header.len);
        let held = self.came.wrapping_sub(self.read);
        assert!(held <= self.buffer, "more than the guest has room for");
        self.heard = *header;
    }

    /// Bytes that it may send.
    pub fn room(&self) -> u32 {
        self.heard.buf_alloc - self.sent.wrapping_sub(self.heard.fwd_cnt)
    }

    /// Sends data in a packet of `pieces` descriptors.
    pub fn write(&mut self, guest: &mut Guest, data: &[u8], pieces: usize) {
        let len = data.len() as u32;
        self.sent = self.sent.wrapping_add(len);
        guest.send_in(Header { len, ..self.header(op::RW) }, data, pieces);
    }

    /// Connects to a port of the host at which somebody listens.
    pub fn connect(guest: &mut Guest, host: u32, port: u32) -> Self {
        let mut peer = Self::new(host, port);
        peer.say(guest, op::REQUEST, 0);
        peer.hear(&guest.expect(op::RESPONSE));
        peer
    }

    /// Accepts the connection that the host asks for next.
    pub fn accept(guest: &mut Guest) -> Self {
        let request = guest.expect(op::REQUEST);
        let mut peer = Self::new(request.src_port, request.dst_port);
        peer.hear(&request);
        peer.say(guest, op::RESPONSE, 0);
        peer
    }
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, from: usize, count: usize) -> Vec<u8> {
    let byte = |at: usize| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) ^ seed;
    (from..from + count).map(|at| byte(at) as u8).collect()
}

/// The size of a header.
pub const HEADER: usize = packet::SIZE;
