//! Everything that is on a machine's buses: made, saved and restored as one.

use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::events::{self, Event, EventDevice};
use super::serial::{self, ConsoleLog, SerialState};
use super::virtio::balloon::Balloon;
use super::virtio::block::Block;
use super::virtio::entropy::Entropy;
use super::virtio::mmio::{Transport, TransportState};
use super::virtio::vsock::{Vsock, VsockHost};
use super::virtio::{DeviceState, VirtioDevice};
use super::{Bus, ConsoleSink, DeviceError, SerialConsole, generation};
use crate::boot::platform::slot;
use crate::boot::platform::{
    CONSOLE_PORT, EVENTS_PORT, VIRTIO_BYTES, VIRTIO_SLOTS, virtio_address,
};
use crate::lock;
use crate::memory::ram::RamAccess;

/// How much of its console a board remembers, to say why a kernel stopped, bytes.
const TAIL_BYTES: usize = 4 << 10;

/// The devices of one machine.
#[derive(Debug)]
pub struct Board {
    serial: Arc<Mutex<SerialConsole>>,
    platform: Option<Platform>,
}

/// What a Linux guest has beside its console.
#[derive(Debug)]
struct Platform {
    events: Arc<Mutex<EventDevice>>,
    transports: Vec<Arc<Transport>>,
    /// The host's end of its sockets: another one after a reset.
    vsock: Mutex<VsockHost>,
    memory: RamAccess,
    tail: ConsoleLog,
}

/// The virtio devices of a Linux guest, by slot, and the host's end of its sockets.
pub struct Devices {
    devices: Vec<(u8, Box<dyn VirtioDevice>)>,
    vsock: VsockHost,
}

impl Devices {
    /// What every guest has, and `disks`, the first of which holds its root file system.
    pub fn new(memory: &RamAccess, disks: Vec<Disk>) -> Result<Self, DeviceError> {
        let count = disks.len();
        if count > usize::from(slot::VSOCK) {
            let place = format!("{count} disks");
            return Err(DeviceError::place("the board", place, "it has room for 8"));
        }
        let mut devices: Vec<(u8, Box<dyn VirtioDevice>)> = Vec::with_capacity(count + 3);
        for (slot, disk) in (slot::ROOT..).zip(disks) {
            devices.push((slot, Box::new(Block::new(disk))));
        }
        let (device, vsock) = Vsock::new(None)?;
        devices.push((slot::VSOCK, Box::new(device)));
        devices.push((slot::ENTROPY, Box::new(Entropy)));
        devices.push((slot::BALLOON, Box::new(Balloon::new(memory.clone()))));
        Ok(Self { devices, vsock })
    }

    /// The slots that are taken.
    pub fn slots(&self) -> Vec<u8> {
        self.devices.iter().map(|(slot, _)| *slot).collect()
    }

    /// The devices of a saved board.
    fn restored(state: &PlatformState, memory: &RamAccess) -> Result<Self, DeviceError> {
        let mut vsock = None;
        let mut devices = Vec::with_capacity(state.transports.len());
        for saved in &state.transports {
            let device: Box<dyn VirtioDevice> = match &saved.device {
                DeviceState::Block(state) => Box::new(Block::restored(state)),
                DeviceState::Entropy => Box::new(Entropy),
                DeviceState::Balloon(state) => Box::new(Balloon::restored(*state, memory.clone())),
                DeviceState::Vsock(state) => {
                    let (device, host) = Vsock::restored(state, None)?;
                    vsock = Some(host);
                    Box::new(device)
                }
            };
            devices.push((saved.slot, device));
        }
        let reason = "it has no sockets".into();
        let vsock = vsock.ok_or(DeviceError::State { device: "the board", reason })?;
        Ok(Self { devices, vsock })
    }
}

/// What is saved of a board.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoardState {
    serial: SerialState,
    platform: Option<PlatformState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PlatformState {
    events: u32,
    transports: Vec<TransportState>,
}

impl BoardState {
    /// Whether it is that of a Linux guest.
    pub fn is_linux(&self) -> bool {
        self.platform.is_some()
    }

    fn disks(&self) -> impl Iterator<Item = &Disk> {
        let transports = self.platform.iter().flat_map(|platform| &platform.transports);
        transports.filter_map(|saved| match &saved.device {
            DeviceState::Block(state) => Some(state.disk()),
            _ => None,
        })
    }

    /// The files below its disks.
    pub(crate) fn disk_bases(&self) -> Vec<(&Path, &Arc<File>)> {
        self.disks().filter_map(Disk::base).collect()
    }

    /// The descriptors that its disks hold.
    pub(crate) fn disk_descriptors(&self) -> Vec<RawFd> {
        self.disks().flat_map(Disk::descriptors).collect()
    }
}

impl Board {
    /// The board of the embedded workload: a console.
    pub fn embedded(vm: &Arc<VmFd>, console: ConsoleSink) -> Self {
        let serial = SerialConsole::new(Arc::clone(vm), console);
        Self { serial: Arc::new(Mutex::new(serial)), platform: None }
    }

    /// The board of a Linux guest, with `devices` in their slots.
    pub fn linux(
        vm: &Arc<VmFd>,
        console: ConsoleSink,
        memory: RamAccess,
        devices: Devices,
    ) -> Result<Self, DeviceError> {
        generation::set(memory.memory())?;
        Self::assemble(vm, console, memory, devices)
    }

    fn assemble(
        vm: &Arc<VmFd>,
        console: ConsoleSink,
        memory: RamAccess,
        devices: Devices,
    ) -> Result<Self, DeviceError> {
        let Devices { devices, vsock } = devices;
        let tail = ConsoleLog::new(TAIL_BYTES);
        let sink = Tee { sink: console, tail: tail.clone() };
        let serial = SerialConsole::new(Arc::clone(vm), Box::new(sink));
        let events = EventDevice::new(Arc::clone(vm), 0);
        let plug = |(slot, device)| Ok(Arc::new(Transport::new(slot, device, vm, memory.clone())?));
        let transports = devices.into_iter().map(plug).collect::<Result<_, DeviceError>>()?;
        let events = Arc::new(Mutex::new(events));
        let vsock = Mutex::new(vsock);
        let platform = Platform { events, transports, vsock, memory, tail };
        Ok(Self { serial: Arc::new(Mutex::new(serial)), platform: Some(platform) })
    }

    /// The board of a clone that will [go on](Self::go_on) from `state`. The clone's `vm` has
    /// its own.
    pub fn for_state(
        vm: &Arc<VmFd>,
        console: ConsoleSink,
        memory: RamAccess,
        state: &BoardState,
    ) -> Result<Self, DeviceError> {
        match &state.platform {
            None => Ok(Self::embedded(vm, console)),
            Some(saved) => {
                let devices = Devices::restored(saved, &memory)?;
                Self::assemble(vm, console, memory, devices)
            }
        }
    }

    /// Puts devices of a saved state of the same board in place of its own, which may have run;
    /// to [go on](Self::go_on) from. The machine stands still.
    pub fn replace_devices(&self, state: &BoardState) -> Result<(), DeviceError> {
        if let (Some(platform), Some(saved)) = (&self.platform, &state.platform) {
            let Devices { devices, vsock } = Devices::restored(saved, &platform.memory)?;
            *lock(&platform.vsock) = vsock;
            for (transport, (_, device)) in platform.transports.iter().zip(devices) {
                transport.replace(device);
            }
        }
        Ok(())
    }

    /// Goes on from `state`, for which the devices were made. The machine stands still.
    pub fn go_on(&self, state: &BoardState) -> Result<(), DeviceError> {
        lock(&self.serial).restore(&state.serial)?;
        let (platform, saved) = match (&self.platform, &state.platform) {
            (None, None) => return Ok(()),
            (Some(platform), Some(saved))
                if saved.transports.len() == platform.transports.len() =>
            {
                (platform, saved)
            }
            _ => {
                let reason = "it is of another kind of machine".into();
                return Err(DeviceError::State { device: "the board", reason });
            }
        };
        lock(&platform.events).set_pending(saved.events);
        for (transport, saved) in platform.transports.iter().zip(&saved.transports) {
            transport.restore(saved)?;
        }
        generation::renew(platform.memory.memory(), &platform.events)
    }

    /// What to save; the machine stands still.
    pub fn state(&self) -> BoardState {
        let platform = self.platform.as_ref().map(|platform| PlatformState {
            events: lock(&platform.events).pending(),
            transports: platform.transports.iter().map(|transport| transport.state()).collect(),
        });
        BoardState { serial: lock(&self.serial).state(), platform }
    }

    /// The buses, with everything attached.
    pub fn bus(&self) -> Result<Bus, DeviceError> {
        let mut bus = Bus::default();
        let serial = Arc::clone(&self.serial);
        bus.attach_ports("the serial console", CONSOLE_PORT, serial::PORTS, serial as _)?;
        if let Some(platform) = &self.platform {
            let device = Arc::clone(&platform.events);
            bus.attach_ports("the event device", EVENTS_PORT, events::PORTS, device as _)?;
            for transport in &platform.transports {
                let first = virtio_address(transport.slot());
                let device = Arc::clone(transport);
                bus.attach_memory("a virtio device", first, VIRTIO_BYTES, device as _)?;
            }
        }
        Ok(bus)
    }

    /// The virtio devices.
    pub fn transports(&self) -> &[Arc<Transport>] {
        self.platform.as_ref().map_or(&[], |platform| &platform.transports)
    }

    /// Whether it has devices that need a thread.
    pub fn is_linux(&self) -> bool {
        self.platform.is_some()
    }

    /// The host's end of the guest's sockets; a machine of the embedded workload has none.
    pub fn vsock(&self) -> Option<VsockHost> {
        self.platform.as_ref().map(|platform| lock(&platform.vsock).clone())
    }

    /// Gives the guest console input; as many bytes as fit. Returns how many.
    pub fn console_input(&self, bytes: &[u8]) -> Result<usize, DeviceError> {
        lock(&self.serial).input(bytes)
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Result<(), DeviceError> {
        match &self.platform {
            Some(platform) => {
                events::raise(&platform.events, Event::PowerButton).map_err(|error| {
                    DeviceError::host("the power button", "raising an interrupt", error)
                })
            }
            None => Ok(()),
        }
    }

    /// What a Linux kernel that panicked has said, as far as it is remembered.
    pub fn panic_report(&self) -> Option<String> {
        let tail = self.platform.as_ref()?.tail.contents();
        let tail = String::from_utf8_lossy(&tail);
        let at = tail.find("Kernel panic")?;
        // Some lines before it say how it came to that.
        let before = tail[..at].char_indices().rev().filter(|(_, letter)| *letter == '\n').nth(8);
        Some(tail[before.map_or(0, |(line, _)| line + 1)..].trim_end().replace('\r', ""))
    }
}

/// Remembers what passes through.
struct Tee {
    sink: ConsoleSink,
    tail: ConsoleLog,
}

impl Write for Tee {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.tail.write_all(data)?;
        self.sink.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

const _: () = assert!(VIRTIO_SLOTS <= u8::MAX as usize);
