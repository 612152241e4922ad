//! The beacon: the smallest guest that tine and other VMMs boot alike.
//!
//! A VMM that boots Linux kernels boots it, too: it is an ELF file, entered as the 64-bit boot
//! protocol says (Linux Documentation/arch/x86/boot.rst): long mode, ring 0, the first GiB mapped
//! to itself, `rsi` at the boot parameters. It has no stack, no tables and no interrupts. First it
//! writes a word into every page of RAM behind itself, so that none of its memory is a hole.
//! Then it calls for ever: it counts in memory, and sends [`CALL`] through the serial port.
//!
//! Few instructions, as some KVMs emulate ring 0, at a microsecond each.

#![warn(missing_docs)]

/// What it sends through COM1, again and again: a byte that no VMM's own messages have, and a
/// line's end, as some consoles pass on whole lines.
pub const CALL: [u8; 2] = [0x06, b'\n'];
/// Most of its RAM that it fills, bytes: what the boot protocol maps.
pub const MAX_RAM: u64 = 1 << 30;
/// Where it lies, physical and virtual: behind what VMMs put below, and where they take kernels.
pub const ADDRESS: u64 = 2 << 20;

/// Size of the ELF header, and of one program header.
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

core::arch::global_asm!(
    ".pushsection .rodata.tine_beacon, \"a\", @progbits",
    ".globl tine_beacon_start",
    ".globl tine_beacon_end",
    "tine_beacon_start:",
    // The memory map: how many entries, the first of them, and where what may be filled begins.
    "movzx ecx, byte ptr [rsi + 0x1e8]",
    "add rsi, 0x2d0",
    "lea rbx, [rip + tine_beacon_end]",
    "add rbx, 4095",
    "and rbx, -4096",
    "2:",
    "test ecx, ecx",
    "jz 6f",
    "cmp dword ptr [rsi + 16], 1", // RAM
    "jne 5f",
    "mov rdi, qword ptr [rsi]",
    "mov rdx, qword ptr [rsi + 8]",
    "add rdx, rdi",
    "cmp rdi, rbx",
    "jae 3f",
    "mov rdi, rbx",
    "3:",
    "cmp rdx, {max_ram}",
    "jbe 4f",
    "mov edx, {max_ram}",
    "4:",
    "cmp rdi, rdx",
    "jae 5f",
    "mov qword ptr [rdi], rdi",
    "add rdi, 4096",
    "jmp 4b",
    "5:",
    "add rsi, 20",
    "dec ecx",
    "jmp 2b",
    "6:",
    "mov edx, 0x3f8",
    "7:",
    "inc qword ptr [rbx]",
    "mov eax, {call}",
    "out dx, al",
    "mov eax, {end}",
    "out dx, al",
    // A rest, in which whoever wants to stop it gets a turn.
    "mov ecx, 16",
    "8:",
    "dec ecx",
    "jnz 8b",
    "jmp 7b",
    "tine_beacon_end:",
    ".popsection",
    max_ram = const MAX_RAM,
    call = const CALL[0],
    end = const CALL[1],
);

unsafe extern "C" {
    static tine_beacon_start: u8;
    static tine_beacon_end: u8;
}

/// Its instructions.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const tine_beacon_start, &raw const tine_beacon_end);
    // SAFETY: both are labels of the one piece of read-only data above, in this order.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// The program as an ELF file: one segment, no relocations.
pub fn elf() -> Vec<u8> {
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    const READ_WRITE_EXECUTE: u32 = 7;

    let code = code();
    let code_at = (ELF_HEADER + PROGRAM_HEADER) as u64;
    let bytes = code.len() as u64;
    let mut file = Vec::with_capacity(ELF_HEADER + PROGRAM_HEADER + code.len());
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, EXECUTABLE);
    half(&mut file, X86_64);
    word(&mut file, 1);
    for value in [ADDRESS, ELF_HEADER as u64, 0] {
        long(&mut file, value); // the entry, the program headers, no sections
    }
    word(&mut file, 0);
    for value in [ELF_HEADER as u16, PROGRAM_HEADER as u16, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, LOAD);
    word(&mut file, READ_WRITE_EXECUTE);
    for value in [code_at, ADDRESS, ADDRESS, bytes, bytes, 4096] {
        long(&mut file, value);
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_page_of_code_behind_two_headers() {
        let elf = elf();
        assert_eq!(&elf[..4], b"\x7fELF");
        assert_eq!(&elf[24..32], &ADDRESS.to_le_bytes());
        let code = &elf[ELF_HEADER + PROGRAM_HEADER..];
        assert!((64..4096).contains(&code.len()), "{} bytes", code.len());
        // It starts by reading how many entries the memory map has, and ends by going round.
        assert_eq!(&code[..3], [0x0f, 0xb6, 0x8e]);
        assert_eq!(code[code.len() - 2], 0xeb);
    }
}
