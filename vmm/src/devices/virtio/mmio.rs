//! The MMIO transport (virtio 1.2, 4.2): the registers of one device, its queues, and the
//! two descriptors that connect it with KVM: one that the guest's notifications make
//! readable (`KVM_IOEVENTFD`), one that interrupts the guest (`KVM_IRQFD`).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Broken, DeviceState, Rings, VirtioDevice};
use crate::boot::platform::{virtio_address, virtio_line};
use crate::devices::DeviceError;
use crate::lock;
use crate::memory::ram::RamAccess;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"tine");

/// Register offsets (virtio 1.2, 4.2.2).
mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE: u64 = 0x008;
    pub const VENDOR: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_WORD: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_WORD: u64 = 0x024;
    pub const QUEUE: u64 = 0x030;
    pub const QUEUE_MAX: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const NOTIFY: u64 = 0x050;
    pub const INTERRUPTS: u64 = 0x060;
    pub const INTERRUPTS_SEEN: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const DESCRIPTORS: [u64; 2] = [0x080, 0x084];
    pub const AVAILABLE: [u64; 2] = [0x090, 0x094];
    pub const USED: [u64; 2] = [0x0a0, 0x0a4];
    pub const SHARED_MEMORY_BYTES: [u64; 2] = [0x0b0, 0x0b4];
    pub const GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Bits of the device status (virtio 1.2, 2.1).
mod status {
    pub const FEATURES_OK: u32 = 8;
    pub const DRIVER_OK: u32 = 4;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// Feature bits of the transport (virtio 1.2, 6).
const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const TRANSPORT_FEATURES: u64 = VERSION_1 | EVENT_INDEX;

/// Interrupt causes (virtio 1.2, 4.2.2.1).
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGED: u32 = 2;

/// What the driver has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u32,
    device_features_word: u32,
    driver_features_word: u32,
    driver_features: u64,
    queue: u32,
    generation: u32,
}

/// A queue, as it is saved.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(remote = "QueueState")]
struct SavedQueue {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct QueueRecord(#[serde(with = "SavedQueue")] QueueState);

/// What is saved of a device and its transport.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransportState {
    /// The virtio slot that it is in.
    pub slot: u8,
    /// The device behind it.
    pub device: DeviceState,
    registers: Registers,
    interrupts: u32,
    queues: Vec<QueueRecord>,
}

/// The device and all that only one thread may have at a time.
struct Inner {
    device: Box<dyn VirtioDevice>,
    queues: Vec<Queue>,
    registers: Registers,
}

/// One virtio device with its registers.
pub struct Transport {
    slot: u8,
    inner: Mutex<Inner>,
    /// Causes of interrupts that the driver has not seen. Apart from the rest, so that the
    /// driver need not wait while the device is at work.
    interrupts: AtomicU32,
    interrupt: EventFd,
    kick: EventFd,
    memory: RamAccess,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("slot", &self.slot).finish_non_exhaustive()
    }
}

const NAME: &str = "a virtio device";

impl Transport {
    /// `device` in `slot` of `vm`, after power-on.
    pub fn new(
        slot: u8,
        device: Box<dyn VirtioDevice>,
        vm: &VmFd,
        memory: RamAccess,
    ) -> Result<Self, DeviceError> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|&size| Queue::new(size))
            .collect::<Result<_, _>>()
            .map_err(|error| DeviceError::host(NAME, "making queues", io::Error::other(error)))?;
        let event = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|error| DeviceError::host(NAME, "making an event descriptor", error))
        };
        let transport = Self {
            slot,
            inner: Mutex::new(Inner { device, queues, registers: Registers::default() }),
            interrupts: AtomicU32::new(0),
            interrupt: event()?,
            kick: event()?,
            memory,
        };
        let notify = IoEventAddress::Mmio(virtio_address(slot) + register::NOTIFY);
        vm.register_ioevent(&transport.kick, &notify, NoDatamatch)
            .map_err(|error| DeviceError::host(NAME, "KVM_IOEVENTFD", error))?;
        vm.register_irqfd(&transport.interrupt, virtio_line(slot))
            .map_err(|error| DeviceError::host(NAME, "KVM_IRQFD", error))?;
        Ok(transport)
    }

    /// The virtio slot that it is in.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// The descriptor that the guest's notifications make readable.
    pub fn kicked(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// The descriptor that the device's host side makes readable.
    pub fn host_events(&self) -> Option<RawFd> {
        lock(&self.inner).device.host_events()
    }

    /// What to save. The device stands still.
    pub fn state(&self) -> TransportState {
        let inner = lock(&self.inner);
        TransportState {
            slot: self.slot,
            device: inner.device.state(),
            registers: inner.registers,
            interrupts: self.interrupts.load(Ordering::SeqCst),
            queues: inner.queues.iter().map(|queue| QueueRecord(queue.state())).collect(),
        }
    }

    /// Puts `device` in the place of the one that is there; [`restore`](Self::restore) follows.
    pub fn replace(&self, device: Box<dyn VirtioDevice>) {
        lock(&self.inner).device = device;
    }

    /// Takes on `state`, which the device was made from; the machine stands still. What was owed
    /// to driver and device is made up for: notifications and interrupts on their way when the state
    /// was saved are in no state, and sending them again does no harm.
    pub fn restore(&self, state: &TransportState) -> Result<(), DeviceError> {
        let damaged = |reason: String| DeviceError::State { device: NAME, reason };
        let mut inner = lock(&self.inner);
        let sizes = inner.device.queue_sizes();
        let fits = |(saved, &size): (&QueueRecord, &u16)| saved.0.max_size == size;
        if state.queues.len() != sizes.len() || !state.queues.iter().zip(sizes).all(fits) {
            return Err(damaged("its queues are not those of the device".into()));
        }
        let queues = state.queues.iter().map(|saved| Queue::try_from(saved.0));
        inner.queues =
            queues.collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))?;
        inner.registers = state.registers;
        if inner.is_live() {
            self.turn(&mut inner, |device, rings| device.resume(rings));
            self.kick();
        }
        self.interrupts.fetch_or(state.interrupts, Ordering::SeqCst);
        if self.interrupts.load(Ordering::SeqCst) != 0 {
            self.signal();
        }
        Ok(())
    }

    /// The guest has notified the device, or something was left to do.
    pub fn serve_guest(&self) {
        // Cleared before the queues are looked at, so that nothing is missed.
        match self.kick.read() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::error!(%error, slot = self.slot, "a kick can't be read"),
        }
        let mut inner = lock(&self.inner);
        for queue in 0..inner.queues.len() {
            if inner.is_live() && inner.queues[queue].ready() {
                self.turn(&mut inner, |device, rings| device.serve(queue, rings));
            }
        }
    }

    /// Something happened on the host's side of the device.
    pub fn serve_host(&self) {
        let mut inner = lock(&self.inner);
        if inner.is_live() {
            self.turn(&mut inner, |device, rings| device.serve_host(rings));
        }
    }

    /// The machine is gone: what the device holds of the host is let go.
    pub fn end(&self) {
        lock(&self.inner).device.reset();
    }

    /// Has `device` speak with the host about something outside of its queues.
    pub fn with_device<T>(&self, ask: impl FnOnce(&mut dyn VirtioDevice) -> T) -> T {
        ask(lock(&self.inner).device.as_mut())
    }

    /// The configuration space has changed: the driver is told so.
    pub fn config_changed(&self) {
        let mut inner = lock(&self.inner);
        inner.registers.generation = inner.registers.generation.wrapping_add(1);
        if inner.registers.status & status::DRIVER_OK != 0 {
            self.interrupt(CONFIG_CHANGED);
        }
    }

    fn turn(
        &self,
        inner: &mut Inner,
        serve: impl FnOnce(&mut dyn VirtioDevice, &mut Rings<'_>) -> Result<(), Broken>,
    ) {
        let Inner { device, queues, registers } = inner;
        let mut rings = Rings::new(self.memory.memory(), queues);
        let served = serve(device.as_mut(), &mut rings);
        if rings.interrupts() {
            self.interrupt(USED_BUFFER);
        }
        if !rings.unfinished().is_empty() {
            self.kick();
        }
        if let Err(broken) = served {
            tracing::warn!(slot = self.slot, %broken, "a virtio device needs a reset");
            registers.status |= status::NEEDS_RESET;
            self.interrupt(CONFIG_CHANGED);
        }
    }

    fn interrupt(&self, cause: u32) {
        self.interrupts.fetch_or(cause, Ordering::SeqCst);
        self.signal();
    }

    fn signal(&self) {
        if let Err(error) = self.interrupt.write(1) {
            tracing::error!(%error, slot = self.slot, "an interrupt is lost");
        }
    }

    fn kick(&self) {
        if let Err(error) = self.kick.write(1) {
            tracing::error!(%error, slot = self.slot, "a kick is lost");
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::VENDOR => VENDOR,
            register::INTERRUPTS => self.interrupts.load(Ordering::SeqCst),
            // No shared memory: a length of all ones (4.2.2).
            at if register::SHARED_MEMORY_BYTES.contains(&at) => u32::MAX,
            _ => lock(&self.inner).read(offset),
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::NOTIFY => self.kick(),
            register::INTERRUPTS_SEEN => {
                self.interrupts.fetch_and(!value, Ordering::SeqCst);
            }
            register::STATUS => self.set_status(value),
            _ => lock(&self.inner).write(offset, value),
        }
    }

    fn set_status(&self, value: u32) {
        let mut inner = lock(&self.inner);
        if value == 0 {
            inner.reset();
            self.interrupts.store(0, Ordering::SeqCst);
            return;
        }
        let rises = value & !inner.registers.status;
        let mut value = value | inner.registers.status & status::NEEDS_RESET;
        if rises & status::FEATURES_OK != 0 && !inner.accepts_features() {
            value &= !status::FEATURES_OK;
        }
        inner.registers.status = value;
        if rises & status::DRIVER_OK != 0 && value & status::FAILED == 0 {
            inner.activate(&self.memory);
            if inner.registers.status & status::NEEDS_RESET != 0 {
                self.interrupt(CONFIG_CHANGED);
            }
            self.kick();
        }
    }
}

impl Inner {
    /// Whether queues may be touched.
    fn is_live(&self) -> bool {
        let stopped = status::NEEDS_RESET | status::FAILED;
        self.registers.status & (status::DRIVER_OK | stopped) == status::DRIVER_OK
    }

    fn offered(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn accepts_features(&self) -> bool {
        let taken = self.registers.driver_features;
        taken & VERSION_1 != 0 && taken & !self.offered() == 0
    }

    fn activate(&mut self, memory: &RamAccess) {
        let features = self.registers.driver_features;
        let valid = self.registers.status & status::FEATURES_OK != 0
            && self.queues.iter().all(|queue| !queue.ready() || queue.is_valid(memory.memory()));
        if !valid {
            self.registers.status |= status::NEEDS_RESET;
            return;
        }
        for queue in &mut self.queues {
            queue.set_event_idx(features & EVENT_INDEX != 0);
        }
        self.device.activate(features & !TRANSPORT_FEATURES);
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(Queue::reset);
        let generation = self.registers.generation;
        self.registers = Registers { generation, ..Registers::default() };
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.registers.queue as usize)
    }

    fn read(&mut self, offset: u64) -> u32 {
        match offset {
            register::DEVICE => self.device.id() as u32,
            register::DEVICE_FEATURES => match self.registers.device_features_word {
                0 => self.offered() as u32,
                1 => (self.offered() >> 32) as u32,
                _ => 0,
            },
            register::QUEUE_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            register::QUEUE_READY => self.selected().map_or(0, |queue| queue.ready().into()),
            register::STATUS => self.registers.status,
            register::GENERATION => self.registers.generation,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let registers = &mut self.registers;
        match offset {
            register::DEVICE_FEATURES_WORD => registers.device_features_word = value,
            register::DRIVER_FEATURES_WORD => registers.driver_features_word = value,
            register::DRIVER_FEATURES if registers.status & status::FEATURES_OK == 0 => {
                let shift = match registers.driver_features_word {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                registers.driver_features &= !(u64::from(u32::MAX) << shift);
                registers.driver_features |= u64::from(value) << shift;
            }
            register::QUEUE => registers.queue = value,
            _ if registers.status & status::DRIVER_OK == 0 => self.write_queue(offset, value),
            _ => tracing::debug!(offset, value, "write to a register of a running virtio device"),
        }
    }

    /// Registers of the selected queue, which may be changed until the driver is ready.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.selected() else { return };
        match offset {
            // What the queue refuses leaves it as it was, and invalid when it is looked at.
            register::QUEUE_SIZE => queue.set_size(value as u16),
            register::QUEUE_READY => queue.set_ready(value == 1),
            at if at == register::DESCRIPTORS[0] => queue.set_desc_table_address(Some(value), None),
            at if at == register::DESCRIPTORS[1] => queue.set_desc_table_address(None, Some(value)),
            at if at == register::AVAILABLE[0] => queue.set_avail_ring_address(Some(value), None),
            at if at == register::AVAILABLE[1] => queue.set_avail_ring_address(None, Some(value)),
            at if at == register::USED[0] => queue.set_used_ring_address(Some(value), None),
            at if at == register::USED[1] => queue.set_used_ring_address(None, Some(value)),
            _ => tracing::debug!(offset, value, "write to no register"),
        }
    }
}

impl DeviceMmio for Transport {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(register::CONFIG) {
            let config = lock(&self.inner).device.config();
            let from = config.get(at as usize..).unwrap_or_default();
            for (byte, value) in data.iter_mut().zip(from) {
                *byte = *value;
            }
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            // Registers are 4 bytes wide (4.2.2.2).
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let Some(at) = offset.checked_sub(register::CONFIG) {
            lock(&self.inner).device.write_config(at, data);
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}
