//! All connections of one guest: which packet is whose, and who speaks next.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Fate};
use super::outlet::Outlet;
use super::packet::{GUEST_CID, HOST_CID, Header, Ports, STREAM, op};
use super::span::Span;
use super::watch::{Token, Watch};

/// Connections that one machine has at most, those that are over but not yet read included.
pub const MOST_CONNECTIONS: usize = 1024;
/// Refusals that wait for the guest to take them. A guest that takes none gets no more.
const MOST_RESETS: usize = 1024;
/// First port of the host that it calls from; those below are for its listeners.
const FIRST_PORT: u32 = 1 << 30;

const CALM: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP);
const WAITING: EventSet = CALM.union(EventSet::OUT);

/// A connection, and what the muxer notes about it.
#[derive(Debug)]
struct Member {
    connection: Connection,
    /// It stands in the line of those that speak.
    in_line: bool,
    /// It is watched for room in the host's stream.
    waiting: bool,
}

/// The connections of one guest.
#[derive(Debug)]
pub struct Muxer {
    members: HashMap<Token, Member>,
    tokens: HashMap<Ports, Token>,
    /// Streams of connections that are over, whose host has not yet taken everything.
    drains: HashMap<Token, Outlet>,
    line: VecDeque<Token>,
    resets: VecDeque<Header>,
    next_port: u32,
}

impl Muxer {
    /// No connections.
    pub fn new() -> Self {
        Self {
            members: HashMap::new(),
            tokens: HashMap::new(),
            drains: HashMap::new(),
            line: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
        }
    }

    /// The port of the host that the next call comes from.
    pub fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Has the next call come from `port`. A clone goes on where its parent was: its driver may
    /// still have an end of the parent's connections, and would take a call from the same port
    /// for one of them.
    pub fn set_next_port(&mut self, port: u32) {
        self.next_port = port.max(FIRST_PORT);
    }

    fn is_full(&self) -> bool {
        self.members.len() + self.drains.len() >= MOST_CONNECTIONS
    }

    /// Opens a connection from `socket` to a port of the guest. When there are too many,
    /// `socket` is closed. `greeting`: the host is told its port when the guest accepts.
    pub fn call(&mut self, watch: &mut Watch, socket: UnixStream, guest: u32, greeting: bool) {
        if self.is_full() {
            tracing::warn!(guest, "no connection: {MOST_CONNECTIONS} are open");
            return;
        }
        let ports = Ports { host: self.free_port(guest), guest };
        self.join(watch, Connection::wanted(ports, socket, greeting));
    }

    /// A port of the host that has no connection to the port `guest`.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_PORT);
            // Ends, because there are more ports than there may be connections.
            if !self.tokens.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn join(&mut self, watch: &mut Watch, connection: Connection) -> bool {
        let ports = connection.ports();
        match watch.add(&connection, CALM) {
            Ok(token) => {
                self.tokens.insert(ports, token);
                let member = Member { connection, in_line: false, waiting: false };
                self.members.insert(token, member);
                self.settle(watch, token, Fate::Lives);
                true
            }
            Err(error) => {
                tracing::warn!(%error, ?ports, "no connection: its stream can't be watched");
                false
            }
        }
    }

    /// The guest sends a packet, with `payload` if it carries data. `answer` gives a stream
    /// for a port of the host, if somebody listens there.
    pub fn hear(
        &mut self,
        watch: &mut Watch,
        header: &Header,
        payload: &Span<'_>,
        answer: impl FnOnce(u32) -> Option<UnixStream>,
    ) {
        if header.src_cid != GUEST_CID {
            tracing::debug!(?header, "packet in another's name");
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let addressed = header.dst_cid == HOST_CID && header.kind == STREAM;
        let token = self.tokens.get(&ports).copied().filter(|_| addressed);
        match (token, header.op) {
            (Some(token), _) => {
                let Some(member) = self.members.get_mut(&token) else { return };
                let fate = member.connection.hear(header, payload);
                self.settle(watch, token, fate);
            }
            (None, op::REQUEST) if addressed => self.accept(watch, ports, header, answer),
            // A refusal is never refused: there would be no end.
            (None, op::RST) => {}
            (None, _) => self.reset(header.refusal()),
        }
    }

    fn accept(
        &mut self,
        watch: &mut Watch,
        ports: Ports,
        request: &Header,
        answer: impl FnOnce(u32) -> Option<UnixStream>,
    ) {
        let socket = if self.is_full() { None } else { answer(ports.host) };
        let joined = socket
            .is_some_and(|socket| self.join(watch, Connection::accepted(ports, socket, request)));
        if !joined {
            self.reset(request.refusal());
        }
    }

    fn reset(&mut self, packet: Header) {
        if self.resets.len() < MOST_RESETS {
            self.resets.push_back(packet);
        } else {
            tracing::debug!(?packet, "the guest takes no refusals");
        }
    }

    /// Something happened to the stream that `token` names.
    pub fn host_event(&mut self, watch: &mut Watch, token: Token, events: EventSet) {
        if let Some(member) = self.members.get_mut(&token) {
            let fate = member.connection.host_event(events);
            self.settle(watch, token, fate);
        } else if let Some(outlet) = self.drains.get_mut(&token) {
            let flushed = outlet.flush();
            if flushed.is_err() || !outlet.waits() {
                self.close(watch, token);
            }
        }
    }

    fn close(&mut self, watch: &Watch, drain: Token) {
        if let Some(outlet) = self.drains.remove(&drain) {
            watch.remove(&outlet);
        }
    }

    /// Does what follows for a connection to which something happened.
    fn settle(&mut self, watch: &mut Watch, token: Token, mut fate: Fate) {
        let Some(member) = self.members.get_mut(&token) else { return };
        let waits = member.connection.waits();
        if fate == Fate::Lives && waits != member.waiting {
            let events = if waits { WAITING } else { CALM };
            match watch.change(&member.connection, token, events) {
                Ok(()) => member.waiting = waits,
                Err(error) => {
                    tracing::warn!(%error, "a stream can't be watched");
                    fate = Fate::Resets;
                }
            }
        }
        if fate != Fate::Lives {
            return self.end(watch, token, fate == Fate::Resets);
        }
        if member.connection.speaks() && !member.in_line {
            member.in_line = true;
            self.line.push_back(token);
        }
    }

    /// Ends a connection; `tell` the guest or not. What the guest sent before goes on to
    /// the host.
    fn end(&mut self, watch: &Watch, token: Token, tell: bool) {
        let Some(Member { connection, in_line, .. }) = self.members.remove(&token) else { return };
        if in_line {
            self.line.retain(|other| *other != token);
        }
        let ports = connection.ports();
        self.tokens.remove(&ports);
        if tell {
            self.reset(Header::to_guest(ports, op::RST));
        }
        let outlet = connection.into_outlet();
        if outlet.waits() && watch.change(&outlet, token, EventSet::OUT).is_ok() {
            outlet.shut(std::net::Shutdown::Read);
            self.drains.insert(token, outlet);
        } else {
            watch.remove(&outlet);
        }
    }

    /// Ends all connections that the guest knows of, without a word to it.
    pub fn forget(&mut self, watch: &Watch) {
        self.resets.clear();
        let known = self.members.iter().filter(|(_, member)| !member.connection.is_unheard());
        for token in known.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.end(watch, token, false);
        }
    }

    /// Whether there is a packet for the guest, or may be.
    pub fn speaks(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// The next packet for the guest, whose data, if it has any, is put into `room`. All
    /// connections take turns.
    pub fn speak(&mut self, watch: &mut Watch, room: &Span<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(token) = self.line.pop_front() {
            let Some(member) = self.members.get_mut(&token) else { continue };
            member.in_line = false;
            if let Some(header) = member.connection.speak(room) {
                self.settle(watch, token, Fate::Lives);
                return Some(header);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::shutdown;
    use super::*;

    #[test]
    fn connections_that_end_leave_nothing() {
        let (mut watch, mut muxer, mut ends) = (Watch::new().unwrap(), Muxer::new(), vec![]);
        for guest in 0..3000 {
            for op in [op::REQUEST, op::RW, [op::RST, op::SHUTDOWN][guest as usize % 2]] {
                let (src_cid, dst_cid, kind) = (GUEST_CID, HOST_CID, STREAM);
                let (src_port, dst_port, flags) = (guest, 7, shutdown::BOTH);
                let header = Header {
                    src_cid,
                    dst_cid,
                    src_port,
                    dst_port,
                    kind,
                    op,
                    flags,
                    ..Header::default()
                };
                muxer.hear(&mut watch, &header, &Span::default(), |_| {
                    let (host, device) = UnixStream::pair().unwrap();
                    ends = vec![host];
                    Some(device)
                });
            }
        }
        assert!(muxer.members.is_empty() && muxer.tokens.is_empty() && muxer.drains.is_empty());
        assert!(muxer.line.is_empty());
        assert_eq!(muxer.resets.len(), MOST_RESETS);
    }
}
