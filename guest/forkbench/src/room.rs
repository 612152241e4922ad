//! What this host's memory allows. What does not fit is refused before it is tried: the kernel
//! would kill for it.

use std::fs;

use crate::counters::Fields;
use crate::failure::{During, Failure};
use crate::region::HUGE;
use crate::rows::Backing;

/// Of the memory that is available, this much is left alone.
const LEFT: f64 = 0.1;

/// Why there is no room for `copies` regions of `bytes`; None if there is.
///
/// # Errors
///
/// When the kernel does not tell what is available.
pub fn refusal(bytes: u64, copies: f64, backing: Backing) -> Result<Option<String>, Failure> {
    let info = Fields::read("/proc/meminfo")?;
    let needed = bytes as f64 * copies;
    if backing == Backing::Hugetlb {
        let free = info.get("HugePages_Free").unwrap_or(0);
        let pages = (needed / HUGE as f64).ceil() as u64;
        return Ok((free < pages).then(|| {
            format!(
                "{pages} huge pages are needed and {free} are free; \
                 echo {pages} > /proc/sys/vm/nr_hugepages"
            )
        }));
    }
    let room = info.need("MemAvailable")? as f64 * (1.0 - LEFT);
    Ok((needed > room).then(|| {
        format!(
            "{:.0} MiB are needed, and of the memory available only {:.0} MiB may be used",
            needed / 1048576.0,
            room / 1048576.0
        )
    }))
}

/// Should memory run out all the same, then this process is the one to go.
///
/// # Errors
///
/// When the kernel refuses.
pub fn go_first() -> Result<(), Failure> {
    fs::write("/proc/self/oom_score_adj", "1000").during("writing /proc/self/oom_score_adj")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(refusal(1 << 20, 2.0, Backing::Small).unwrap(), None);
        let why = refusal(1 << 50, 1.0, Backing::Thp).unwrap().unwrap();
        assert!(why.starts_with("1073741824 MiB are needed"), "{why}");
        let why = refusal(1 << 50, 2.0, Backing::Hugetlb).unwrap().unwrap();
        assert!(why.contains("echo 1073741824 > /proc/sys/vm/nr_hugepages"), "{why}");
    }
}
