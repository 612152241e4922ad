//! The programs that tine puts into Linux guests, as ELF files: linked statically, they need
//! nothing of the image they run in, nor of the host.

#![warn(missing_docs)]

/// The bytes of the program of a package.
macro_rules! program {
    ($package:literal) => {
        include_bytes!(concat!(
            env!("OUT_DIR"),
            "/programs/x86_64-unknown-linux-gnu/release/",
            $package
        ))
    };
}

/// The agent, the first process of a Linux guest.
pub static AGENT: &[u8] = program!("tine-agent");

/// What measures forks of processes. It runs on the host as well.
pub static FORKBENCH: &[u8] = program!("tine-forkbench");

#[cfg(test)]
mod tests {
    use super::{AGENT, FORKBENCH};

    /// Type of the program header that names a loader (elf(5), `PT_INTERP`).
    const INTERPRETER: u32 = 3;

    fn number(elf: &[u8], at: usize, bytes: usize) -> u64 {
        elf[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    #[test]
    fn they_need_no_loader() {
        for elf in [AGENT, FORKBENCH] {
            assert!(elf.starts_with(b"\x7fELF\x02\x01"));
            let field = |at, bytes| number(elf, at, bytes);
            let (headers, size, count) = (field(32, 8), field(54, 2), field(56, 2));
            assert!(count > 0);
            for index in 0..count {
                let kind = field((headers + index * size) as usize, 4);
                assert_ne!(kind, u64::from(INTERPRETER));
            }
        }
    }

    #[test]
    fn they_are_small() {
        for elf in [AGENT, FORKBENCH] {
            assert!(elf.len() < 1_500_000, "{} bytes in every guest", elf.len());
        }
    }
}
