//! What this process holds, may hold, and has been through.

use std::fs;
use std::io;

use crate::BenchError;

/// Descriptors and mappings of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Open descriptors.
    pub descriptors: u64,
    /// Mappings.
    pub mappings: u64,
}

impl Held {
    /// Counts them now.
    pub fn now() -> Result<Self, BenchError> {
        const FDS: &str = "/proc/self/fd";
        const MAPS: &str = "/proc/self/maps";
        let fds = fs::read_dir(FDS)
            .map_err(|source| BenchError::Read { path: FDS.into(), source })?
            .count();
        let maps = fs::read_to_string(MAPS)
            .map_err(|source| BenchError::Read { path: MAPS.into(), source })?
            .lines()
            .count();
        // The descriptor that lists them is one of them.
        Ok(Self { descriptors: fds as u64 - 1, mappings: maps as u64 })
    }
}

/// Most descriptors that this process may have, after raising the soft limit to the hard one.
pub fn raise_descriptors() -> Result<u64, BenchError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the structure given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(failed("getrlimit(RLIMIT_NOFILE)"));
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the structure given; the soft limit may be raised up to the hard one.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(failed("setrlimit(RLIMIT_NOFILE)"));
        }
    }
    Ok(limit.rlim_cur)
}

/// Most mappings that a process may have.
pub fn max_mappings() -> Result<u64, BenchError> {
    const PATH: &str = "/proc/sys/vm/max_map_count";
    let text = fs::read_to_string(PATH)
        .map_err(|source| BenchError::Read { path: PATH.into(), source })?;
    text.trim()
        .parse()
        .map_err(|_| BenchError::Missing { path: PATH.into(), what: "the limit on mappings" })
}

/// Minor faults of this process so far, those that KVM takes for its guests included.
pub fn minor_faults() -> Result<u64, BenchError> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes the structure given, all of whose bit patterns are valid.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return Err(failed("getrusage"));
        }
        usage.assume_init()
    };
    Ok(u64::try_from(usage.ru_minflt).unwrap_or_default())
}

/// The last error of system call `call`.
pub fn failed(call: &'static str) -> BenchError {
    BenchError::Call { call, source: io::Error::last_os_error() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_held() {
        let before = Held::now().unwrap();
        let _file = fs::File::open("/proc/self/stat").unwrap();
        assert!(Held::now().unwrap().descriptors > before.descriptors.saturating_sub(1));
        assert!(before.mappings > 3);
        assert!(raise_descriptors().unwrap() >= before.descriptors);
        assert!(max_mappings().unwrap() > before.mappings);
    }

    #[test]
    fn faults_are_counted() {
        let before = minor_faults().unwrap();
        let pages = vec![1u8; 4 << 20];
        assert!(minor_faults().unwrap() > before, "{}", pages.len());
    }
}
