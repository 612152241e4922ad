//! Sockets between host and guest, without a network (virtio 1.2, 5.10).
//!
//! Each connection of the guest is a Unix stream on the host. [`VsockHost`] opens and
//! accepts them in this process; other programs do so through Unix sockets, by the
//! convention of hybrid vsock: who connects to the socket `<path>` and writes
//! `CONNECT <port>\n` is connected to that port of the guest, and reads `OK <port>\n`, its
//! own port, first. What the guest connects to, and nobody listens at in this process, is
//! the socket `<path>_<port>`.

mod connection;
mod credit;
mod host;
mod hybrid;
mod muxer;
mod outlet;
mod packet;
mod span;
mod watch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use host::VsockHost;

use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::{EpollEvent, EventSet};

use self::host::{Answer, Desk};
use self::hybrid::Hybrid;
use self::muxer::Muxer;
use self::packet::{GUEST_CID, Header, op};
use self::span::Span;
use self::watch::{Token, Watch};
use super::{Broken, Chain, DeviceId, DeviceState, Rings, VirtioDevice};
use crate::devices::DeviceError;

/// Queues (5.10.2).
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;

/// `VIRTIO_VSOCK_F_STREAM` (5.10.3): stream sockets, and no others.
const FEATURES: u64 = 1;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (5.10.6.7), as it lies in memory.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

/// Events of the host that are served before others have their turn.
const TURN: usize = 64;

/// What is saved of the device. No connection outlives the machine that it was made with, so
/// the driver of a saved machine, if there is one, always has to be told of their end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// What the driver took, if it was ready.
    features: Option<u64>,
    /// When it has done all that events told it to: see the device's field.
    told_when: u16,
    /// The port of the host that the next call comes from.
    next_port: u32,
}

/// How far the driver knows that its connections are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// It knows all there is to know.
    Taken,
    /// It has to be told.
    Owed,
    /// It was told, and is at work on it.
    Given,
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    /// What it was made from, and goes back to; none after power-on.
    origin: Option<VsockState>,
    features: Option<u64>,
    notice: Notice,
    /// The driver has done what all events told it to when it has put so many chains into the
    /// event queue, modulo 2^16: it gives each buffer back when it is done with the event.
    told_when: u16,
    watch: Watch,
    desk: Desk,
    desk_token: Token,
    hybrid: Option<Hybrid>,
    muxer: Muxer,
}

impl Vsock {
    /// A device after power-on, and the host's end of it. `uds`: path of the Unix sockets
    /// for other programs of the host, if there are to be any.
    ///
    /// # Errors
    /// When there are no descriptors left, or `uds` exists already or can't be made.
    pub fn new(uds: Option<PathBuf>) -> Result<(Self, VsockHost), DeviceError> {
        let mut watch = Watch::new()?;
        let (desk, host) = host::open()?;
        let desk_token = watch.add(&desk, EventSet::IN).map_err(|source| DeviceError::Host {
            device: "vsock",
            operation: "watching an event descriptor".into(),
            source,
        })?;
        let hybrid = uds.map(|path| Hybrid::new(path, &mut watch)).transpose()?;
        let device = Self {
            origin: None,
            features: None,
            notice: Notice::Taken,
            told_when: 0,
            watch,
            desk,
            desk_token,
            hybrid,
            muxer: Muxer::new(),
        };
        Ok((device, host))
    }

    /// A device in a saved state, and the host's end of it, at which nobody listens yet.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn restored(
        state: &VsockState,
        uds: Option<PathBuf>,
    ) -> Result<(Self, VsockHost), DeviceError> {
        let (mut device, host) = Self::new(uds)?;
        device.origin = Some(state.clone());
        device.go_back();
        Ok((device, host))
    }

    /// Goes back to what it was made from. The driver, if there is one, has to be told that
    /// its connections are gone.
    fn go_back(&mut self) {
        if let Some(origin) = &self.origin {
            self.features = origin.features;
            self.told_when = origin.told_when;
            self.muxer.set_next_port(origin.next_port);
        }
        self.notice = if self.features.is_some() { Notice::Owed } else { Notice::Taken };
    }

    /// Sends the guest what there is for it.
    fn speak(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !self.knows(rings)? {
            return Ok(());
        }
        while self.muxer.speaks() {
            let Some(chain) = rings.pop(RX)? else { return Ok(()) };
            let head = chain.head_index();
            let buffer =
                Span::writable(chain, rings.memory()).map_err(|why| Broken::new(RX, why))?;
            let parts = buffer.split_at(packet::SIZE).filter(|(_, room)| room.len() > 0);
            let Some((front, room)) = parts else {
                return Err(Broken::new(RX, "a buffer without room for a packet with data"));
            };
            let Some(header) = self.muxer.speak(&mut self.watch, &room) else {
                rings.put_back(RX);
                return Ok(());
            };
            front.write(&header.encode()).map_err(|error| Broken::new(RX, error))?;
            rings.push(RX, head, packet::SIZE as u32 + header.len)?;
        }
        Ok(())
    }

    /// Whether the driver knows what it must, and if not, tells it. Until it does nothing
    /// is sent: it would take a new connection for one of those that are gone, and end it.
    fn knows(&mut self, rings: &mut Rings<'_>) -> Result<bool, Broken> {
        match self.notice {
            Notice::Owed => self.give_notice(rings)?,
            Notice::Given if reached(rings.added(EVENT)?, self.told_when) => {
                self.notice = Notice::Taken;
            }
            Notice::Given | Notice::Taken => {}
        }
        Ok(self.notice == Notice::Taken)
    }

    fn give_notice(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let Some(chain) = rings.pop(EVENT)? else { return Ok(()) };
        let head = chain.head_index();
        tell(chain, rings).map_err(|why| Broken::new(EVENT, why))?;
        let added = rings.added(EVENT)?;
        // It may still be at work on the events that its parent gave it.
        let before = if reached(added, self.told_when) { added } else { self.told_when };
        self.told_when = before.wrapping_add(1);
        self.notice = Notice::Given;
        rings.push(EVENT, head, TRANSPORT_RESET.len() as u32)
    }

    /// The guest sends a packet.
    fn hear(&mut self, chain: Chain<'_>, rings: &Rings<'_>) -> Result<(), Broken> {
        let broken = |why| Broken::new(TX, why);
        let span = Span::readable(chain, rings.memory()).map_err(broken)?;
        let short = |what| Broken::new(TX, format!("a chain shorter than its {what}"));
        let (front, rest) = span.split_at(packet::SIZE).ok_or_else(|| short("header"))?;
        let mut bytes = [0; packet::SIZE];
        front.read(&mut bytes).map_err(|error| Broken::new(TX, error))?;
        let header = Header::decode(&bytes);
        let payload = match header.op {
            op::RW => rest.split_at(header.len as usize).ok_or_else(|| short("data"))?.0,
            _ => Span::default(),
        };
        let (desk, hybrid) = (&self.desk, self.hybrid.as_ref());
        self.muxer.hear(&mut self.watch, &header, &payload, |port| match desk.answer(port) {
            Answer::Stream(stream) => Some(stream),
            Answer::Busy => None,
            Answer::Nobody => hybrid?.answer(port),
        });
        Ok(())
    }

    fn take_calls(&mut self) {
        for _ in 0..TURN {
            let Some(call) = self.desk.call() else { return };
            self.muxer.call(&mut self.watch, call.socket, call.port, false);
        }
        // The others are told of again.
        if let Err(error) = self.watch.change(&self.desk, self.desk_token, EventSet::IN) {
            tracing::warn!(%error, "connections that the host wants wait");
        }
    }

    fn host_event(&mut self, token: Token, events: EventSet) {
        if token == self.desk_token {
            self.take_calls();
        } else if let Some((stream, port)) =
            self.hybrid.as_mut().and_then(|hybrid| hybrid.host_event(&mut self.watch, token))
        {
            self.muxer.call(&mut self.watch, stream, port, true);
        } else {
            self.muxer.host_event(&mut self.watch, token, events);
        }
    }
}

/// Whether a count modulo 2^16 has come to `goal`, or a little further.
fn reached(count: u16, goal: u16) -> bool {
    count.wrapping_sub(goal) < 1 << 15
}

/// Puts the news that all connections are gone into `chain`.
fn tell(chain: Chain<'_>, rings: &Rings<'_>) -> Result<(), String> {
    let buffer = Span::writable(chain, rings.memory())?;
    let (event, _) = buffer.split_at(TRANSPORT_RESET.len()).ok_or("a buffer too small")?;
    event.write(&TRANSPORT_RESET).map_err(|error| error.to_string())
}

impl VirtioDevice for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::Vsock
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 16]
    }

    fn config(&self) -> Vec<u8> {
        GUEST_CID.to_le_bytes().to_vec()
    }

    fn activate(&mut self, features: u64) {
        self.features = Some(features);
    }

    fn reset(&mut self) {
        self.features = None;
        self.notice = Notice::Taken;
        self.told_when = 0;
        self.muxer.forget(&self.watch);
    }

    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if queue == TX {
            while let Some(chain) = rings.pop(TX)? {
                let head = chain.head_index();
                self.hear(chain, rings)?;
                rings.push(TX, head, 0)?;
            }
        }
        self.speak(rings)
    }

    fn host_events(&self) -> Option<RawFd> {
        Some(self.watch.as_raw_fd())
    }

    fn serve_host(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut events = [EpollEvent::default(); TURN];
        let count = self.watch.poll(&mut events);
        for event in &events[..count] {
            self.host_event(event.data(), EventSet::from_bits_truncate(event.events()));
        }
        self.speak(rings)
    }

    fn state(&self) -> DeviceState {
        DeviceState::Vsock(VsockState {
            features: self.features,
            told_when: self.told_when,
            next_port: self.muxer.next_port(),
        })
    }

    fn resume(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.muxer.forget(&self.watch);
        self.go_back();
        self.speak(rings)
    }
}
