//! Linux, by its 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst): kernel,
//! initramfs, command line and boot parameters are put into memory, and the first processor
//! starts at the kernel's entry in long mode. The others wait until the kernel wakes them.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::acpi::{self, Hardware};
use super::platform::{ACPI_END, ACPI_START};
use super::{BootError, descriptor, put, put_words};
use crate::kvm::{KvmError, failed, msr};
use crate::memory::RamLayout;
use crate::memory::layout::LOW_RAM_END;

/// Smallest RAM of a Linux guest, bytes: what kernel and initramfs need to unpack.
pub const MIN_RAM: u64 = 96 << 20;
/// Smallest RAM of a guest that is entered as a kernel is but is none, bytes.
pub const MIN_BARE_RAM: u64 = 4 << 20;
/// Largest RAM, bytes.
pub const MAX_RAM: u64 = 256 << 30;
/// Most vCPUs: their ids must fit into 8 bits, of which one value means all.
pub const MAX_VCPUS: u8 = 64;
/// Longest command line, bytes (x86's `COMMAND_LINE_SIZE`).
pub const MAX_COMMAND_LINE: usize = 2047;

/// What the kernel of an image is told: its console, to reset at once when it panics, by ACPI,
/// and where its root file system is.
pub const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=a pci=off 8250.nr_uarts=1 tine.root=erofs";

/// Where things lie below the first megabyte.
const GDT: u64 = 0x500;
const BOOT_PARAMS: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE_PLACE: u64 = 0x2_0000;
const LOW_END: u64 = 0xa_0000;
/// Where a bzImage goes, and where RAM for the kernel begins.
const HIGH_START: u64 = 0x10_0000;

/// A file to boot from, and how errors name it.
#[derive(Debug)]
pub struct BootFile {
    file: File,
    path: PathBuf,
}

impl BootFile {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let opened = File::open(path);
        let file = opened.map_err(|source| BootError::Read { path: path.to_path_buf(), source })?;
        Ok(Self::given(file, path))
    }

    /// `file`, which errors name `path`.
    pub fn given(file: File, path: &Path) -> Self {
        Self { file, path: path.to_path_buf() }
    }
}

/// The kernel and what it is started with.
#[derive(Debug)]
pub struct Kernel {
    /// A vmlinux or a bzImage.
    pub image: BootFile,
    /// The initial RAM file system.
    pub initramfs: BootFile,
    /// What the kernel is told.
    pub command_line: String,
}

/// Checks that a Linux guest can have this shape.
pub fn check(ram_bytes: u64, vcpus: u8) -> Result<(), BootError> {
    let page = crate::memory::PAGE_SIZE as u64;
    if !(MIN_RAM..=MAX_RAM).contains(&ram_bytes) || !ram_bytes.is_multiple_of(page) {
        return Err(BootError::LinuxRam { bytes: ram_bytes, min: MIN_RAM, max: MAX_RAM });
    }
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(BootError::LinuxVcpus { vcpus, max: MAX_VCPUS });
    }
    Ok(())
}

/// Checks that a guest without a kernel can have this shape.
pub fn check_bare(ram_bytes: u64, vcpus: u8) -> Result<(), BootError> {
    let page = crate::memory::PAGE_SIZE as u64;
    if !(MIN_BARE_RAM..=MAX_RAM).contains(&ram_bytes) || !ram_bytes.is_multiple_of(page) {
        return Err(BootError::LinuxRam { bytes: ram_bytes, min: MIN_BARE_RAM, max: MAX_RAM });
    }
    match vcpus {
        1 => Ok(()),
        _ => Err(BootError::LinuxVcpus { vcpus, max: 1 }),
    }
}

/// Puts `kernel` into memory, with tables that describe `hardware`. Returns the state that
/// the first vCPU starts from.
pub fn load(
    memory: &GuestMemoryMmap,
    layout: &RamLayout,
    kernel: &Kernel,
    hardware: &Hardware<'_>,
) -> Result<Start, BootError> {
    let Loaded { entry, end, header } = load_kernel(memory, &kernel.image)?;
    let mut params = boot_params { hdr: header, ..Default::default() };
    // "Undefined", as boot.rst says for loaders without a number.
    params.hdr.type_of_loader = 0xff;
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = u32::from_le_bytes(*b"HdrS");
    let limit = match header.initrd_addr_max {
        0 => 0x7fff_ffff,
        limit => u64::from(limit),
    };
    let low = layout.bytes().min(LOW_RAM_END);
    let (first, bytes) = load_initramfs(memory, &kernel.initramfs, end, low.min(limit + 1))?;
    params.hdr.ramdisk_image = first;
    params.hdr.ramdisk_size = bytes;
    params.hdr.cmd_line_ptr = COMMAND_LINE_PLACE as u32;
    params.hdr.cmdline_size = load_command_line(memory, &kernel.command_line)?;
    params.acpi_rsdp_addr = acpi::write(memory, hardware)?;
    enter_at(entry, memory, layout, params)
}

/// Puts `program`, an ELF file that is entered as a kernel is but needs nothing of what a kernel
/// is given beside the memory map, into memory. Returns the state that the vCPU starts from.
pub fn load_bare(
    memory: &GuestMemoryMmap,
    layout: &RamLayout,
    program: &[u8],
) -> Result<Start, BootError> {
    let high = Some(GuestAddress(HIGH_START));
    let loaded =
        Elf::load(memory, None, &mut Cursor::new(program), high).map_err(BootError::Load)?;
    enter_at(loaded.kernel_load.0, memory, layout, boot_params::default())
}

/// Puts the boot parameters and what a kernel is entered with into memory.
fn enter_at(
    entry: u64,
    memory: &GuestMemoryMmap,
    layout: &RamLayout,
    mut params: boot_params,
) -> Result<Start, BootError> {
    map_memory(&mut params, layout);
    let parameters = BootParams::new(&params, GuestAddress(BOOT_PARAMS));
    LinuxBootConfigurator::write_bootparams(&parameters, memory).map_err(BootError::Parameters)?;
    put_words(memory, "the GDT", GDT, &[0, descriptor(&code()), descriptor(&data())])?;
    write_page_tables(memory)?;
    Ok(Start { entry })
}

struct Loaded {
    entry: u64,
    end: u64,
    header: setup_header,
}

fn load_kernel(memory: &GuestMemoryMmap, image: &BootFile) -> Result<Loaded, BootError> {
    let BootFile { file, path } = image;
    let unreadable = |source| BootError::Read { path: path.clone(), source };
    let refused = |source| BootError::Kernel { path: path.clone(), source };
    let mut file: &File = file;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let high = Some(GuestAddress(HIGH_START));
    if &magic == b"\x7fELF" {
        let KernelLoaderResult { kernel_load, kernel_end, .. } =
            Elf::load(memory, None, &mut file, high).map_err(refused)?;
        let header = setup_header::default();
        return Ok(Loaded { entry: kernel_load.0, end: kernel_end, header });
    }
    let loaded = BzImage::load(memory, high, &mut file, high).map_err(refused)?;
    let header = loaded.setup_header.unwrap_or_default();
    // The kernel unpacks itself behind where it lies.
    let end = loaded.kernel_end.max(HIGH_START + u64::from(header.init_size));
    Ok(Loaded { entry: loaded.kernel_load.0 + 0x200, end, header })
}

/// Puts the initramfs at the end of the RAM below `limit`. Returns its address and size.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    initramfs: &BootFile,
    kernel_end: u64,
    limit: u64,
) -> Result<(u32, u32), BootError> {
    let BootFile { file, path } = initramfs;
    let unreadable = |source| BootError::Read { path: path.clone(), source };
    let mut file: &File = file;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let first = limit.checked_sub(bytes).map(|first| first & !0xfff);
    let Some(first) = first.filter(|first| *first >= kernel_end) else {
        return Err(BootError::NoRoom { bytes, between: (kernel_end, limit) });
    };
    let size = bytes as usize;
    memory
        .read_exact_volatile_from(GuestAddress(first), &mut file, size)
        .map_err(|source| BootError::Write { what: "the initramfs", address: first, source })?;
    // Below the limit, which is below 4 GiB.
    Ok((first as u32, bytes as u32))
}

fn load_command_line(memory: &GuestMemoryMmap, line: &str) -> Result<u32, BootError> {
    if line.len() > MAX_COMMAND_LINE || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(BootError::CommandLine { bytes: line.len(), max: MAX_COMMAND_LINE });
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    put(memory, "the command line", COMMAND_LINE_PLACE, &bytes)?;
    Ok(line.len() as u32)
}

/// Tells the kernel what memory there is (the e820 map).
fn map_memory(params: &mut boot_params, layout: &RamLayout) {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let mut add = |addr: u64, end: u64, kind: u32| {
        let entry = boot_e820_entry { addr, size: end - addr, r#type: kind };
        params.e820_table[usize::from(params.e820_entries)] = entry;
        params.e820_entries += 1;
    };
    add(0, LOW_END, RAM);
    add(ACPI_START, ACPI_END, RESERVED);
    for region in layout.regions() {
        add(region.guest_address.max(HIGH_START), region.guest_address + region.bytes, RAM);
    }
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let table = |number: u64| PAGE_TABLES + number * 0x1000;
    let write = |at: u64, words: &[u64]| put_words(memory, "the page tables", at, words);
    write(table(0), &[table(1) | PRESENT_WRITABLE])?;
    let directories: Vec<u64> = (2..6).map(|number| table(number) | PRESENT_WRITABLE).collect();
    write(table(1), &directories)?;
    let pages: Vec<u64> = (0..2048).map(|page| page << 21 | LARGE | PRESENT_WRITABLE).collect();
    write(table(2), &pages)
}

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    entry: u64,
}

impl Start {
    /// Gives `vcpu`, the first, the state it starts from.
    pub fn set(&self, vcpu: &VcpuFd) -> Result<(), BootError> {
        self.set_registers(vcpu).map_err(|source| BootError::Registers { vcpu: 0, source })
    }

    fn set_registers(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        const CR0_PE_ET_PG: u64 = 1 | 1 << 4 | 1 << 31;
        const CR4_PAE: u64 = 1 << 5;
        const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
        const FLAGS_RESERVED: u64 = 1 << 1;

        let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS", ""))?;
        sregs.cs = code();
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
            *segment = data();
        }
        sregs.gdt.base = GDT;
        sregs.gdt.limit = 3 * 8 - 1;
        sregs.idt.limit = 0;
        sregs.cr0 = CR0_PE_ET_PG;
        sregs.cr3 = PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME_LMA;
        vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS", ""))?;
        let regs = kvm_regs {
            rip: self.entry,
            rsi: BOOT_PARAMS,
            rflags: FLAGS_RESERVED,
            ..Default::default()
        };
        vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS", ""))?;
        // All of memory is write-back unless said otherwise (Intel SDM volume 3, 12.11.2.1).
        const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
        const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
        let mtrr = kvm_msr_entry {
            index: MTRR_DEFAULT_TYPE,
            data: ENABLED_WRITE_BACK,
            ..Default::default()
        };
        msr::set(vcpu, 0, &[mtrr])
    }
}

/// A flat 64-bit code segment of ring 0: the selector that boot.rst asks for.
fn code() -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data() -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: 0x18,
        type_: 0b0011,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_of_all_memory_but_the_holes() {
        let mut params = boot_params::default();
        map_memory(&mut params, &RamLayout::pc(4 << 30));
        let count = usize::from(params.e820_entries);
        let map: Vec<(u64, u64, u32)> = params.e820_table[..count]
            .iter()
            .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
            .collect();
        let expected = [
            (0, LOW_END, 1),
            (ACPI_START, ACPI_END, 2),
            (HIGH_START, LOW_RAM_END, 1),
            (4 << 30, 5 << 30, 1),
        ];
        assert_eq!(map, expected);
    }

    #[test]
    fn an_initramfs_without_room_and_a_wild_command_line_are_refused() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let initramfs = BootFile::open(file.path()).unwrap();
        let load = |kernel_end| load_initramfs(&memory, &initramfs, kernel_end, 2 << 20);
        assert_eq!(load(1 << 20).unwrap(), (1 << 20, 1 << 20));
        assert!(matches!(load((1 << 20) + 1), Err(BootError::NoRoom { .. })));
        assert!(load_command_line(&memory, "quiet\nloud").is_err());
        assert!(load_command_line(&memory, &"x".repeat(MAX_COMMAND_LINE + 1)).is_err());
        assert_eq!(load_command_line(&memory, "quiet").unwrap(), 5);
    }
}
