//! What is measured: one thing a file. Each gives its rows to a function as they are ready.

pub mod copied;
pub mod faults;
pub mod pressure;
pub mod spawn;
pub mod tables;
pub mod timeline;
pub mod tuning;

use crate::failure::Failure;
use crate::region::Region;
use crate::room;
use crate::rows::{Backing, Density, NotMeasured, Row};

/// Takes the rows of a probe.
pub type Out<'a> = dyn FnMut(Row) -> Result<(), Failure> + 'a;

/// A filled region that fits `copies` times, or the reason why there is none.
fn region(
    bytes: u64,
    copies: f64,
    backing: Backing,
    density: Density,
) -> Result<Result<Region, String>, Failure> {
    if density == Density::Sparse && backing != Backing::Small {
        return Ok(Err("a huge page fills its 2 MiB: it can't be sparse".into()));
    }
    let resident = match density {
        Density::Dense => bytes,
        Density::Sparse => bytes / 512,
    };
    if let Some(why) = room::refusal(resident, copies, backing)? {
        return Ok(Err(why));
    }
    let region = Region::filled(bytes, backing, density)?;
    if backing == Backing::Thp {
        let (huge, all) = (region.memory()?.huge_bytes, region.bytes() as u64);
        if huge < all / 10 * 9 {
            return Ok(Err(format!(
                "the kernel made {huge} of {all} bytes huge pages; \
                 /sys/kernel/mm/transparent_hugepage/enabled has to be madvise or always"
            )));
        }
    }
    Ok(Ok(region))
}

/// A row that says why something was not measured.
fn not_measured(what: impl Into<String>, why: impl Into<String>) -> Row {
    Row::NotMeasured(NotMeasured { what: what.into(), why: why.into() })
}

/// `things`, beginning with another one each round: none of them always comes first.
fn turned<T: Copy>(things: &[T], round: usize) -> impl Iterator<Item = (usize, T)> + use<'_, T> {
    let count = things.len();
    (0..count).map(move |index| (index + round) % count).map(|index| (index, things[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_all_in_another_order() {
        let order = |round| turned(&['a', 'b', 'c'], round).map(|(_, c)| c).collect::<String>();
        assert_eq!([order(0), order(1), order(5)], ["abc", "bca", "cab"]);
    }

    #[test]
    fn what_can_not_be_has_a_reason() {
        let sparse = region(4 << 20, 1.0, Backing::Thp, Density::Sparse).unwrap();
        assert!(sparse.unwrap_err().contains("can't be sparse"));
        let huge = region(1 << 50, 1.0, Backing::Small, Density::Dense).unwrap();
        assert!(huge.unwrap_err().contains("MiB are needed"));
    }
}
