//! The platform of a Linux guest: which address, port and interrupt line belongs to what.
//!
//! ACPI tells the guest all of this (`acpi`), and the devices answer at these places.

/// Where the local APICs are (Intel SDM volume 3, 12.4.1).
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Where KVM's IOAPIC is.
pub const IO_APIC: u32 = 0xfec0_0000;

/// First bytes of RAM that belong to ACPI; never given to the kernel's allocator.
pub const ACPI_START: u64 = 0xe_0000;
/// End of it, and of what a PC keeps from its low megabyte.
pub const ACPI_END: u64 = 0x10_0000;
/// The page with the VM generation id, the last of that.
pub const GENERATION_PAGE: u64 = 0xf_f000;
/// Where the generation id is in it.
pub const GENERATION_ID: u64 = GENERATION_PAGE + 0x28;

/// First port of the console.
pub const CONSOLE_PORT: u16 = 0x3f8;
/// Interrupt line of the console.
pub const CONSOLE_LINE: u32 = 4;

/// ACPI's sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI's sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI's reset register.
pub const RESET_PORT: u16 = 0x602;
/// What is written to the reset register.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of state S5, as the DSDT names it.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// First port of the generic event device: its pending events, 4 bytes, cleared by reading.
pub const EVENTS_PORT: u16 = 0x604;
/// Interrupt line of the generic event device.
pub const EVENTS_LINE: u32 = 5;

/// Registers of the first virtio device.
pub const VIRTIO_START: u64 = 0xd000_0000;
/// Distance from one to the next, and what each may use.
pub const VIRTIO_BYTES: u64 = 0x1000;
/// Interrupt line of the first virtio device.
pub const VIRTIO_LINE: u32 = 6;
/// Most virtio devices: the IOAPIC has 24 lines.
pub const VIRTIO_SLOTS: usize = 16;

/// What a virtio slot is for. The numbers stay, so that a device is found at the same place
/// whatever others there are.
pub mod slot {
    /// The disk with the root file system.
    pub const ROOT: u8 = 0;
    /// The second disk; others follow up to [`VSOCK`].
    pub const DISK: u8 = 1;
    /// Sockets to the host.
    pub const VSOCK: u8 = 8;
    /// Random numbers.
    pub const ENTROPY: u8 = 9;
    /// Memory given back.
    pub const BALLOON: u8 = 10;
    /// Kept for the network.
    pub const NET: u8 = 11;
}

/// Address of the registers in virtio slot `slot`.
pub fn virtio_address(slot: u8) -> u64 {
    VIRTIO_START + u64::from(slot) * VIRTIO_BYTES
}

/// Interrupt line of virtio slot `slot`.
pub fn virtio_line(slot: u8) -> u32 {
    VIRTIO_LINE + u32::from(slot)
}

const _: () = assert!(VIRTIO_LINE + (VIRTIO_SLOTS as u32) < 24);
