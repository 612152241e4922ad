//! Machines from nothing: the embedded workload, a bare program, and Linux.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tine_abi::agent::READY_PORT;
use tine_abi::layout::RAM_BASE;

use super::gate::Gate;
use super::{LinuxConfig, Machine, MachineConfig, MachineError, MachineParts};
use crate::boot::{acpi, embedded, linux};
use crate::devices::board::Devices;
use crate::devices::{Board, ConsoleSink};
use crate::fork::Ladder;
use crate::fork::spawn::{shell_for, timed};
use crate::kvm::{KvmHost, Shell, failed};
use crate::lock;
use crate::memory::{GuestRam, ImageKind, MemoryImage, RamLayout};

/// How long the embedded workload may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// A machine with nothing in it yet.
struct Empty {
    ladder: Ladder,
    ram: GuestRam,
    shell: Shell,
}

impl Empty {
    /// With `vcpus`, and RAM as `layout` says, in an image of kind `image`.
    fn new(
        host: &Arc<KvmHost>,
        image: ImageKind,
        layout: RamLayout,
        vcpus: u8,
    ) -> Result<Self, MachineError> {
        let mut ladder = Ladder { strategy: "boot".into(), ..Ladder::default() };
        let image = MemoryImage::create(layout.bytes(), image)?;
        let ram = timed(&mut ladder.map, || GuestRam::boot(image, layout))?;
        let shell = shell_for(host, &ram, vcpus, false, &mut ladder)?;
        Ok(Self { ladder, ram, shell })
    }
}

impl Machine {
    /// Boots the embedded workload, and waits until all its vCPUs wait for commands.
    pub fn boot(
        host: &Arc<KvmHost>,
        config: &MachineConfig,
        console: ConsoleSink,
    ) -> Result<Self, MachineError> {
        let requested = Instant::now();
        let MachineConfig { ram_bytes, vcpus, image } = *config;
        embedded::check(ram_bytes, vcpus)?;
        let layout = RamLayout::flat(RAM_BASE, ram_bytes);
        let Empty { mut ladder, ram, shell } = Empty::new(host, image, layout, vcpus)?;

        let begun = Instant::now();
        let tsc_khz = shell.vcpus[0].get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", ""))?;
        let program = tine_workload::ELF;
        let start = embedded::load(ram.memory(), program, ram_bytes, vcpus, tsc_khz)?;
        for (vcpu, index) in shell.vcpus.iter().zip(0..) {
            start.set(vcpu, index)?;
        }
        ladder.restore = begun.elapsed();

        let gate = Gate::new(vec![false; usize::from(vcpus)]);
        let board = Board::embedded(&shell.vm, console);
        let parts = MachineParts { shell, ram, board, gate, origin: None, tsc_khz };
        let machine = parts.start(host, ladder, requested)?;
        machine.settle(BOOT_LIMIT)?;
        Ok(machine)
    }

    /// Boots `program`, an ELF file that is entered as the 64-bit boot protocol of Linux says,
    /// with one vCPU, RAM from address zero and a console, and waits until it has done something
    /// that the VMM sees. It is given no commands; everything else can be done to it.
    pub fn boot_bare(
        host: &Arc<KvmHost>,
        config: &MachineConfig,
        program: &[u8],
        console: ConsoleSink,
    ) -> Result<Self, MachineError> {
        let requested = Instant::now();
        let MachineConfig { ram_bytes, vcpus, image } = *config;
        linux::check_bare(ram_bytes, vcpus)?;
        let layout = RamLayout::pc(ram_bytes);
        let Empty { mut ladder, ram, shell } = Empty::new(host, image, layout, vcpus)?;

        let begun = Instant::now();
        let tsc_khz = shell.vcpus[0].get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", ""))?;
        linux::load_bare(ram.memory(), ram.layout(), program)?.set(&shell.vcpus[0])?;
        let board = Board::embedded(&shell.vm, console);
        ladder.restore = begun.elapsed();

        let gate = Gate::new([false]);
        let parts = MachineParts { shell, ram, board, gate, origin: None, tsc_khz };
        let machine = parts.start(host, ladder, requested)?;
        machine.wait_first_instruction(BOOT_LIMIT)?;
        Ok(machine)
    }

    /// Boots a Linux kernel; [`wait_ready`](Self::wait_ready) waits for the agent in it.
    pub fn boot_linux(
        host: &Arc<KvmHost>,
        config: LinuxConfig,
        console: ConsoleSink,
    ) -> Result<Self, MachineError> {
        let requested = Instant::now();
        let LinuxConfig { ram_bytes, vcpus, image, kernel, disks } = config;
        linux::check(ram_bytes, vcpus)?;
        let layout = RamLayout::pc(ram_bytes);
        let Empty { mut ladder, ram, shell } = Empty::new(host, image, layout, vcpus)?;

        let begun = Instant::now();
        let tsc_khz = shell.vcpus[0].get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", ""))?;
        let devices = Devices::new(&ram.access(), disks)?;
        let slots = devices.slots();
        let hardware = acpi::Hardware { vcpus, virtio: &slots };
        linux::load(ram.memory(), ram.layout(), &kernel, &hardware)?.set(&shell.vcpus[0])?;
        let board = Board::linux(&shell.vm, console, ram.access(), devices)?;
        ladder.restore = begun.elapsed();

        // Before it can be missed.
        let ready = board.vsock().map(|vsock| vsock.listen(READY_PORT));
        let gate = Gate::new(vec![false; usize::from(vcpus)]);
        let parts = MachineParts { shell, ram, board, gate, origin: None, tsc_khz };
        let machine = parts.start(host, ladder, requested)?;
        *lock(&machine.ready) = ready;
        Ok(machine)
    }
}
