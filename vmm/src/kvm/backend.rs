//! Which kind of KVM this is, found by measuring.
//!
//! Where KVM runs without hardware help (`kvm_pvm`), guest ring 3 runs natively and
//! ring 0 is emulated an instruction at a time. A loop timed in both rings tells.

use std::path::Path;
use std::time::Instant;

use kvm_ioctls::VcpuExit;
use tine_abi::layout::{MIN_RAM, PORT_IDLE, RAM_BASE};

use super::{KvmHost, Shell, ShellConfig, Slot, failed};
use crate::boot::embedded;
use crate::machine::MachineError;
use crate::memory::{GuestRam, ImageKind, MemoryImage, RamLayout};

/// How guest ring 0 runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring0 {
    /// On the processor.
    Native,
    /// By emulation.
    Emulated,
}

/// The KVM of this host.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The kernel module: `kvm_intel`, `kvm_amd`, `kvm_pvm` or `unknown`.
    pub module: String,
    /// How guest ring 0 runs.
    pub ring0: Ring0,
    /// Nanoseconds an instruction in ring 0.
    pub ring0_ns: f64,
    /// Nanoseconds an instruction in ring 3.
    pub ring3_ns: f64,
}

/// A native instruction of the loop takes a fraction of this, one that KVM emulates hundreds
/// of nanoseconds. Where the whole host is emulated (40 to 70 ns were seen), both rings are
/// as slow.
const NATIVE_BELOW_NS: f64 = 60.0;
/// How much slower ring 0 is where only it is emulated: 15 times and more were seen, and less than
/// twice where everything is.
const EMULATED_ABOVE_RATIO: f64 = 4.0;

impl Backend {
    /// Times a loop in both rings of a throw-away machine.
    pub fn measure(host: &KvmHost) -> Result<Self, MachineError> {
        let ring0_ns = nanoseconds_an_instruction(host, true)?;
        let ring3_ns = nanoseconds_an_instruction(host, false)?;
        let slow = ring0_ns > NATIVE_BELOW_NS && ring0_ns > EMULATED_ABOVE_RATIO * ring3_ns;
        let ring0 = if slow { Ring0::Emulated } else { Ring0::Native };
        Ok(Self { module: module(), ring0, ring0_ns, ring3_ns })
    }
}

/// Name of the module that serves /dev/kvm.
pub fn module() -> String {
    ["kvm_intel", "kvm_amd", "kvm_pvm"]
        .into_iter()
        .find(|module| Path::new("/sys/module").join(module).exists())
        .unwrap_or("unknown")
        .into()
}

fn nanoseconds_an_instruction(host: &KvmHost, in_ring0: bool) -> Result<f64, MachineError> {
    const ROUNDS: u32 = 2000;
    const INSTRUCTIONS: u32 = ROUNDS * 2;
    let image = MemoryImage::create(MIN_RAM, ImageKind::Small)?;
    let ram = GuestRam::boot(image, RamLayout::flat(RAM_BASE, MIN_RAM))?;
    let config = ShellConfig { vcpus: 1, slots: Slot::of(&ram), pit: false };
    let mut shell = Shell::new(host, &config)?;
    let start = embedded::load(ram.memory(), &looping(ROUNDS), MIN_RAM, 1, 0)?;
    let start = if in_ring0 { start.in_ring0() } else { start };
    start.set(&shell.vcpus[0], 0)?;
    let vcpu = &mut shell.vcpus[0];
    // The first exit comes before the loop: what it takes to get going does not count.
    let mut begun = Instant::now();
    for exit in ["before", "after"] {
        match vcpu.run().map_err(failed("KVM_RUN", ""))? {
            VcpuExit::IoOut(PORT_IDLE, _) => {}
            other => return Err(MachineError::Failed(format!("{exit} the loop: {other:?}"))),
        }
        if exit == "before" {
            begun = Instant::now();
        }
    }
    Ok(begun.elapsed().as_nanos() as f64 / f64::from(INSTRUCTIONS))
}

/// An ELF file with a loop of `rounds` between two port writes.
fn looping(rounds: u32) -> Vec<u8> {
    let [low, high] = PORT_IDLE.to_le_bytes();
    let [a, b, c, d] = rounds.to_le_bytes();
    // mov edx, port; out dx, eax; mov ecx, rounds; 1: dec ecx; jnz 1b; out dx, eax; jmp .
    let code =
        [0xba, low, high, 0, 0, 0xef, 0xb9, a, b, c, d, 0xff, 0xc9, 0x75, 0xfc, 0xef, 0xeb, 0xfe];
    elf(&code)
}

/// The smallest ELF file (System V ABI) that puts `code` where the workload goes.
fn elf(code: &[u8]) -> Vec<u8> {
    use tine_abi::layout::PROGRAM;
    const HEADERS: u64 = 64 + 56;
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    file.extend(PROGRAM.to_le_bytes()); // entry
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // section headers
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // loadable, readable and executable
    let bytes = code.len() as u64;
    for field in [HEADERS, PROGRAM, PROGRAM, bytes, bytes, 4096] {
        file.extend(field.to_le_bytes());
    }
    file.extend(code);
    file
}
