//! ACPI tables of a Linux guest (ACPI 6.5): hardware-reduced, as there is no chipset.
//!
//! They lie one behind the other from [`ACPI_START`], the root pointer first.

use acpi_tables::Aml;
use acpi_tables::aml::{
    self, And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, OpRegion,
    OpRegionSpace, Package, Path, ResourceTemplate, Return, Scope, Store,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::GuestMemoryMmap;

use super::platform::{
    ACPI_START, CONSOLE_LINE, CONSOLE_PORT, EVENTS_LINE, EVENTS_PORT, GENERATION_ID,
    GENERATION_PAGE, IO_APIC, LOCAL_APIC, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT, SLEEP_TYPE_OFF, VIRTIO_BYTES, virtio_address, virtio_line,
};
use super::{BootError, put};
use crate::devices::events::Event;

const OEM: [u8; 6] = *b"TINE  ";
const OEM_TABLE: [u8; 8] = *b"TINEVM  ";
const REVISION: u32 = 1;
/// Bits of the FADT's x86 boot flags that say what there is not (ACPI 6.5, 5.2.9.3): VGA,
/// and a clock in CMOS.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// What the tables describe beside what every guest has.
#[derive(Clone, Copy, Debug)]
pub struct Hardware<'a> {
    /// Number of processors.
    pub vcpus: u8,
    /// Virtio slots that are taken.
    pub virtio: &'a [u8],
}

/// Writes the tables. Returns where the root pointer is.
pub fn write(memory: &GuestMemoryMmap, hardware: &Hardware<'_>) -> Result<u64, BootError> {
    let mut tables = Tables { memory, next: ACPI_START + Rsdp::len() as u64 };
    let dsdt = tables.add(&dsdt(hardware))?;
    let fadt = tables.add(&bytes(&fadt(dsdt)))?;
    let madt = tables.add(&bytes(&madt(hardware.vcpus)))?;
    let mut root = XSDT::new(OEM, OEM_TABLE, REVISION);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = tables.add(&bytes(&root))?;
    tables.put(ACPI_START, &bytes(&Rsdp::new(OEM, root)))?;
    Ok(ACPI_START)
}

/// Tables in guest memory, one behind the other.
struct Tables<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Tables<'_> {
    fn add(&mut self, table: &[u8]) -> Result<u64, BootError> {
        let address = self.next.next_multiple_of(16);
        self.next = address + table.len() as u64;
        if self.next > GENERATION_PAGE {
            return Err(BootError::Tables(self.next - ACPI_START));
        }
        self.put(address, table)?;
        Ok(address)
    }

    fn put(&self, address: u64, table: &[u8]) -> Result<(), BootError> {
        put(self.memory, "an ACPI table", address, table)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    table.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    table.reset_reg = port(RESET_PORT);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    table.sleep_status_reg = port(SLEEP_STATUS_PORT);
    table.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let mut table =
        MADT::new(OEM, OEM_TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for vcpu in 0..vcpus {
        table.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

fn dsdt(hardware: &Hardware<'_>) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, REVISION);
    let mut body = Vec::new();
    console(&mut body);
    events(&mut body);
    generation(&mut body);
    power_button(&mut body);
    for &slot in hardware.virtio {
        virtio(slot, &mut body);
    }
    let mut scoped = Scope::raw(Path::new("_SB_"), body);
    let off = Package::new(vec![&SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    Name::new(Path::new("_S5_"), &off).to_aml_bytes(&mut scoped);
    table.append_slice(&scoped);
    table.as_slice().to_vec()
}

fn edge(line: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, line)
}

fn console(body: &mut Vec<u8>) {
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &aml::ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &aml::IO::new(CONSOLE_PORT, CONSOLE_PORT, 1, 8),
                    &edge(CONSOLE_LINE),
                ]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// The generic event device: its method reads which events there are and hands them on.
fn events(body: &mut Vec<u8>) {
    let power = Event::PowerButton as u32;
    let generation = Event::Generation as u32;
    Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &aml::ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&edge(EVENTS_LINE)])),
            &OpRegion::new(Path::new("EREG"), OpRegionSpace::SystemIO, &EVENTS_PORT, &4u8),
            &Field::new(
                Path::new("EREG"),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::Preserve,
                vec![FieldEntry::Named(*b"EVTS", 32)],
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVTS")),
                    &And::new(&Local(1), &Local(0), &power),
                    &If::new(&Local(1), vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &0x80u8)]),
                    &And::new(&Local(1), &Local(0), &generation),
                    &If::new(&Local(1), vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &0x80u8)]),
                ],
            ),
        ],
    )
    .to_aml_bytes(body);
}

fn generation(body: &mut Vec<u8>) {
    let (low, high) = (GENERATION_ID as u32, (GENERATION_ID >> 32) as u32);
    Device::new(
        Path::new("VGEN"),
        vec![
            &Name::new(Path::new("_HID"), &"TINE0001"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Method::new(
                Path::new("ADDR"),
                0,
                true,
                vec![&Return::new(&Package::new(vec![&low, &high]))],
            ),
        ],
    )
    .to_aml_bytes(body);
}

fn power_button(body: &mut Vec<u8>) {
    Device::new(
        Path::new("PWRB"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
            &Name::new(Path::new("_UID"), &aml::ZERO),
        ],
    )
    .to_aml_bytes(body);
}

fn virtio(slot: u8, body: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, virtio_address(slot) as u32, VIRTIO_BYTES as u32);
    Device::new(
        Path::new(&format!("VR{slot:02X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &slot),
            &Name::new(Path::new("_CCA"), &aml::ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&registers, &edge(virtio_line(slot))]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    fn read(memory: &GuestMemoryMmap, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    fn table(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
        let length = u32::from_le_bytes(read(memory, address + 4, 4).try_into().unwrap());
        let table = read(memory, address, length as usize);
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        table
    }

    #[test]
    fn the_tables_lead_to_each_other_and_add_up() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let hardware = Hardware { vcpus: 4, virtio: &[0, 8, 9] };
        let root = write(&memory, &hardware).unwrap();
        let pointer = read(&memory, root, Rsdp::len());
        assert_eq!(&pointer[..8], b"RSD PTR ");
        let xsdt = table(&memory, u64::from_le_bytes(pointer[24..32].try_into().unwrap()));
        assert_eq!(&xsdt[..4], b"XSDT");
        let names: Vec<[u8; 4]> = xsdt[36..]
            .chunks(8)
            .map(|entry| table(&memory, u64::from_le_bytes(entry.try_into().unwrap())))
            .map(|table| table[..4].try_into().unwrap())
            .collect();
        assert_eq!(names, [*b"FACP", *b"APIC"]);
        let fadt = table(&memory, u64::from_le_bytes(xsdt[36..44].try_into().unwrap()));
        let dsdt = table(&memory, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        let has = |name: &[u8]| dsdt.windows(name.len()).any(|window| window == name);
        assert!(has(b"VR00") && has(b"VR08") && has(b"VR09") && !has(b"VR01"));
        assert!(has(b"VM_Gen_Counter") && has(b"_S5_"));
    }

    #[test]
    fn all_slots_and_processors_have_room() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let slots: Vec<u8> = (0..16).collect();
        write(&memory, &Hardware { vcpus: 255, virtio: &slots }).unwrap();
    }
}
