//! The agent of Linux guests, ready to be put into an initramfs.

#![warn(missing_docs)]

/// The program as an ELF file: linked statically, it needs nothing of the image it runs in.
pub static ELF: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/agent/x86_64-unknown-linux-gnu/release/tine-agent"));

#[cfg(test)]
mod tests {
    use super::ELF;

    /// Type of the program header that names a loader (elf(5), `PT_INTERP`).
    const INTERPRETER: u32 = 3;

    fn number(at: usize, bytes: usize) -> u64 {
        ELF[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    #[test]
    fn it_needs_no_loader() {
        assert!(ELF.starts_with(b"\x7fELF\x02\x01"));
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!(count > 0);
        for index in 0..count {
            let kind = number((headers + index * size) as usize, 4);
            assert_ne!(kind, u64::from(INTERPRETER));
        }
    }

    #[test]
    fn it_is_small() {
        assert!(ELF.len() < 1_500_000, "{} bytes in every guest", ELF.len());
    }
}
