//! The naive fork, as well as it can be made. By the program: the child has room for the region, of
//! the same pages and populated, and the parent copies all that is filled into it, in large pieces.
//! Or by the kernel, which need not clear what it copies to.

use std::ops::Range;
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::child::Partner;
use crate::clock;
use crate::failure::{During, Failure};
use crate::line::Line;
use crate::region::Region;

/// How much is copied by one call.
const PIECE: usize = 32 << 20;
/// How many runs the kernel takes in one call.
const RUNS: usize = 1024;

/// A child that has a copy of the region, has looked at some words of it, and does `work`.
/// Its `returned` is when all was copied.
///
/// # Errors
///
/// When it can't be made, or its copy is another.
pub fn fork(
    region: &Region,
    work: impl FnOnce(&mut Line) -> Result<(), Failure>,
) -> Result<Partner, Failure> {
    let left_out = region.left_out()?;
    let mut partner = Partner::fork(|line| {
        region.make_room()?;
        line.tell(&())?;
        if line.hear::<()>()?.is_none() {
            return Err(Failure::Child { doing: "be copied".into(), ended: "was left".into() });
        }
        region.check()?;
        work(line)
    })?;
    drop(left_out);
    partner.hear::<()>("make room for a copy")?;
    copy(region, partner.child.pid())?;
    partner.returned = clock::now();
    partner.line.tell(&())?;
    Ok(partner)
}

/// The same copy made by the kernel: a child by `fork` that has all of the region copied at once.
///
/// # Errors
///
/// When it can't be made.
pub fn populated(
    region: &Region,
    work: impl FnOnce(&mut Line) -> Result<(), Failure>,
) -> Result<Partner, Failure> {
    let mut partner = Partner::fork(|line| {
        region.runs().try_for_each(|run| region.populate(run))?;
        line.tell(&())?;
        region.check()?;
        work(line)
    })?;
    partner.hear::<()>("have its memory copied")?;
    partner.returned = clock::now();
    Ok(partner)
}

fn copy(region: &Region, child: Pid) -> Result<(), Failure> {
    let pieces = region.runs().flat_map(|run| {
        run.clone().step_by(PIECE).map(move |start| start..(start + PIECE).min(run.end))
    });
    let mut batch = Vec::with_capacity(RUNS);
    let mut bytes = 0;
    for piece in pieces {
        if batch.len() == RUNS || bytes + piece.len() > PIECE {
            copy_batch(region, child, &batch)?;
            batch.clear();
            bytes = 0;
        }
        bytes += piece.len();
        batch.push(piece);
    }
    copy_batch(region, child, &batch)
}

fn copy_batch(region: &Region, child: Pid, batch: &[Range<usize>]) -> Result<(), Failure> {
    // The same addresses here and there.
    let runs: Vec<_> = batch
        .iter()
        .map(|run| libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(region.address() + run.start),
            iov_len: run.len(),
        })
        .collect();
    let count = runs.len() as libc::c_ulong;
    let expected: usize = batch.iter().map(ExactSizeIterator::len).sum();
    // SAFETY: the kernel reads the list and the memory of the region here, and writes in the
    // child only, which has room for it there and waits.
    let copied = unsafe {
        libc::process_vm_writev(child.as_raw(), runs.as_ptr(), count, runs.as_ptr(), count, 0)
    };
    let copied = Errno::result(copied).during("process_vm_writev")?;
    if copied as usize == expected {
        return Ok(());
    }
    Err(Failure::Wrong {
        what: "the number of bytes copied to a child".into(),
        found: copied.to_string(),
        expected: expected.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Backing, Density};

    #[test]
    fn a_copy_is_private_and_the_same() {
        for (density, bytes) in [(Density::Dense, 8 << 20), (Density::Sparse, 4 * 4096)] {
            let region = Region::filled(8 << 20, Backing::Small, density).unwrap();
            let partner = fork(&region, |line| {
                region.check()?;
                line.tell(&region.memory()?)
            });
            let memory: crate::rows::Memory = partner.unwrap().answer("look").unwrap();
            assert_eq!((memory.private_dirty_bytes, memory.shared_bytes), (bytes, 0));
            let partner = populated(&region, |line| line.tell(&region.memory()?)).unwrap();
            let memory: crate::rows::Memory = partner.answer("look").unwrap();
            assert_eq!((memory.private_dirty_bytes, memory.shared_bytes), (bytes, 0));
            // The next child shares it again.
            let partner = Partner::fork(|line| line.tell(&region.memory()?)).unwrap();
            let memory: crate::rows::Memory = partner.answer("look").unwrap();
            assert_eq!((memory.private_dirty_bytes, memory.shared_bytes), (0, bytes));
        }
    }

    #[test]
    fn a_copy_that_is_another_is_an_error() {
        let region = Region::filled(4 << 20, Backing::Small, Density::Dense).unwrap();
        region.write(0, 1);
        let partner = fork(&region, |line| line.tell(&()));
        assert!(partner.unwrap().answer::<()>("look").is_err());
    }
}
