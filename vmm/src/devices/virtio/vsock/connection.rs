//! One connection: where it stands, and what is to be told to the guest about it.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vm_memory::{ReadVolatile, VolatileSlice};
use vmm_sys_util::epoll::EventSet;

use super::credit::Credit;
use super::outlet::{Outlet, io_error};
use super::packet::{Header, Ports, op, shutdown};
use super::span::Span;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host wants it, the guest does not know of it.
    Wanted,
    /// The guest was asked.
    Asked,
    /// The guest asked and was accepted, which it does not know.
    Accepted,
    /// Both sides know of it.
    Open,
}

/// What becomes of a connection after something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Lives,
    /// It is over, and the guest knows or never knew of it.
    Ends,
    /// It is over, and the guest is to be told.
    Resets,
}

/// One connection between a stream of the host and a port of the guest.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    outlet: Outlet,
    phase: Phase,
    credit: Credit,
    /// What the host does no more, of [`shutdown`]; and what of it the guest was told.
    host_shut: u32,
    told_shut: u32,
    /// What the guest does no more.
    guest_shut: u32,
    /// There may be something to read; the edge that told so will not come again.
    readable: bool,
    /// The host's end is closed.
    hung_up: bool,
    /// The guest asked for a word about our buffer.
    update_owed: bool,
    /// The guest was asked for a word about its buffer.
    room_asked: bool,
    /// The host waits for a line that names its port before anything else.
    greeting_owed: bool,
}

impl Connection {
    /// One that the host wants. `greeting`: the host is told its port when the guest accepts.
    pub fn wanted(ports: Ports, socket: UnixStream, greeting: bool) -> Self {
        Self::new(ports, socket, Phase::Wanted, greeting)
    }

    /// One that the guest asked for, by the packet `request`.
    pub fn accepted(ports: Ports, socket: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(ports, socket, Phase::Accepted, false);
        connection.credit.hear(request);
        connection
    }

    fn new(ports: Ports, socket: UnixStream, phase: Phase, greeting_owed: bool) -> Self {
        Self {
            ports,
            outlet: Outlet::new(socket),
            phase,
            credit: Credit::default(),
            host_shut: 0,
            told_shut: 0,
            guest_shut: 0,
            readable: false,
            hung_up: false,
            update_owed: false,
            room_asked: false,
            greeting_owed,
        }
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether the guest was never told of it.
    pub fn is_unheard(&self) -> bool {
        self.phase == Phase::Wanted
    }

    /// Whether bytes wait for the host to take them.
    pub fn waits(&self) -> bool {
        self.outlet.waits()
    }

    /// What still goes to the host when the connection is over.
    pub fn into_outlet(self) -> Outlet {
        self.outlet
    }

    /// The guest sends a packet of this connection, with `payload` if it carries data.
    pub fn hear(&mut self, header: &Header, payload: &Span<'_>) -> Fate {
        self.credit.hear(header);
        if self.credit.room() > 0 {
            self.room_asked = false;
        }
        match (header.op, self.phase) {
            (op::RST, _) => Fate::Ends,
            (op::RESPONSE, Phase::Asked) => self.open(),
            (op::RW, Phase::Accepted | Phase::Open) => self.receive(payload),
            (op::SHUTDOWN, Phase::Accepted | Phase::Open) => self.guest_shuts(header.flags),
            (op::CREDIT_UPDATE, Phase::Accepted | Phase::Open) => Fate::Lives,
            (op::CREDIT_REQUEST, Phase::Accepted | Phase::Open) => {
                self.update_owed = true;
                Fate::Lives
            }
            (operation, phase) => {
                tracing::debug!(operation, ?phase, ?self.ports, "packet out of place");
                Fate::Resets
            }
        }
    }

    fn open(&mut self) -> Fate {
        self.phase = Phase::Open;
        if self.greeting_owed {
            let line = format!("OK {}\n", self.ports.host);
            // The stream's buffer is empty, so there is room for a line in it.
            if let Err(error) = self.outlet.socket().write_all(line.as_bytes()) {
                tracing::debug!(%error, "nobody waits for the guest's answer any more");
                return Fate::Resets;
            }
        }
        Fate::Lives
    }

    fn receive(&mut self, payload: &Span<'_>) -> Fate {
        let Ok(bytes) = u32::try_from(payload.len()) else { return Fate::Resets };
        if self.guest_shut & shutdown::SEND != 0 || !self.credit.receive(bytes) {
            tracing::debug!(bytes, ?self.ports, "the guest sent more than it may");
            return Fate::Resets;
        }
        if self.host_shut & shutdown::RECEIVE != 0 {
            self.credit.forward(bytes);
            return Fate::Lives;
        }
        let result = self.outlet.put(payload);
        self.forwarded(result);
        Fate::Lives
    }

    /// Accounts for what the host took. What it will not take counts as taken: the guest
    /// learns that the host is gone from a packet, not from credit that never returns.
    fn forwarded(&mut self, taken: io::Result<usize>) {
        match taken {
            Ok(bytes) => self.credit.forward(u32::try_from(bytes).unwrap_or(u32::MAX)),
            Err(error) => {
                tracing::debug!(%error, ?self.ports, "the host receives no more");
                self.outlet.discard();
                self.credit.forward(self.credit.held());
                self.host_shut |= shutdown::RECEIVE;
            }
        }
    }

    fn guest_shuts(&mut self, flags: u32) -> Fate {
        self.guest_shut |= flags & shutdown::BOTH;
        if self.guest_shut == shutdown::BOTH {
            return Fate::Resets;
        }
        if self.guest_shut & shutdown::RECEIVE != 0 {
            self.outlet.shut(Shutdown::Read);
        }
        self.shut_when_flushed();
        Fate::Lives
    }

    /// The host sees the end of what the guest sends after the last byte of it.
    fn shut_when_flushed(&self) {
        if self.guest_shut & shutdown::SEND != 0 && !self.outlet.waits() {
            self.outlet.shut(Shutdown::Write);
        }
    }

    /// Something happened to the host's stream.
    pub fn host_event(&mut self, events: EventSet) -> Fate {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.hung_up = true;
            match self.phase {
                Phase::Wanted => return Fate::Ends,
                Phase::Asked => return Fate::Resets,
                Phase::Accepted | Phase::Open => {}
            }
            // Otherwise the guest gets all that was sent before it is told.
            let unwanted = self.guest_shut & shutdown::RECEIVE != 0;
            if unwanted || self.host_shut & shutdown::SEND != 0 {
                self.host_shut = shutdown::BOTH;
            }
        }
        if !events.difference(EventSet::OUT).is_empty() {
            self.readable = true;
        }
        if self.outlet.waits() {
            let result = self.outlet.flush();
            self.forwarded(result);
            self.shut_when_flushed();
        }
        Fate::Lives
    }

    /// Whether there is a packet for the guest.
    pub fn speaks(&self) -> bool {
        match self.phase {
            Phase::Wanted | Phase::Accepted => true,
            Phase::Asked => false,
            Phase::Open => {
                self.may_read() && (self.credit.room() > 0 || !self.room_asked)
                    || self.host_shut != self.told_shut
                    || self.must_update()
            }
        }
    }

    fn may_read(&self) -> bool {
        self.readable
            && self.host_shut & shutdown::SEND == 0
            && self.guest_shut & shutdown::RECEIVE == 0
    }

    fn must_update(&self) -> bool {
        self.update_owed || self.credit.stale() && self.guest_shut & shutdown::SEND == 0
    }

    /// The next packet for the guest, whose data, if it has any, is put into `room`. None
    /// when there is none, which makes [`speaks`](Self::speaks) false.
    pub fn speak(&mut self, room: &Span<'_>) -> Option<Header> {
        let (operation, flags, len) = match self.phase {
            Phase::Wanted => {
                self.phase = Phase::Asked;
                (op::REQUEST, 0, 0)
            }
            Phase::Asked => return None,
            Phase::Accepted => {
                self.phase = Phase::Open;
                (op::RESPONSE, 0, 0)
            }
            Phase::Open => self.say(room)?,
        };
        let mut header = Header { flags, len, ..Header::to_guest(self.ports, operation) };
        self.credit.tell(&mut header);
        self.update_owed = false;
        Some(header)
    }

    /// Operation, flags and length of the next packet of an open connection.
    fn say(&mut self, room: &Span<'_>) -> Option<(u16, u32, u32)> {
        let starved = self.credit.room() == 0;
        if self.may_read() && !starved {
            let len = self.read(room);
            if len > 0 {
                self.credit.send(len);
                return Some((op::RW, 0, len));
            }
        }
        if self.host_shut != self.told_shut {
            self.told_shut = self.host_shut;
            return Some((op::SHUTDOWN, self.host_shut, 0));
        }
        if self.must_update() {
            return Some((op::CREDIT_UPDATE, 0, 0));
        }
        if self.may_read() && starved && !self.room_asked {
            self.room_asked = true;
            return Some((op::CREDIT_REQUEST, 0, 0));
        }
        None
    }

    /// Reads what the host sends into `room`, as far as the guest has credit for it.
    fn read(&mut self, room: &Span<'_>) -> u32 {
        let mut left = self.credit.room() as usize;
        let mut read = 0;
        for piece in room.pieces() {
            let Ok(mut piece) = piece.subslice(0, piece.len().min(left)) else { break };
            if piece.is_empty() {
                break;
            }
            match self.read_piece(&mut piece) {
                Ok(0) => {
                    self.host_shut |= if self.hung_up { shutdown::BOTH } else { shutdown::SEND };
                    break;
                }
                Ok(bytes) => {
                    read += bytes;
                    left -= bytes;
                    if bytes < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, ?self.ports, "the host's stream broke");
                    self.host_shut = shutdown::BOTH;
                    break;
                }
            }
        }
        u32::try_from(read).unwrap_or(u32::MAX)
    }

    fn read_piece(&mut self, piece: &mut VolatileSlice<'_>) -> io::Result<usize> {
        loop {
            match self.outlet.socket().read_volatile(piece).map_err(io_error) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.outlet.as_raw_fd()
    }
}
