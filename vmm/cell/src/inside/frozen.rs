//! A process that holds what a machine was: it becomes a machine, makes more of its kind, or
//! writes itself down, while the parent has long gone on.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tine_vmm::KvmHost;
use tine_vmm::fork::Frozen;
use tine_vmm::memory::pagemap;

use super::fork::{self, Side};
use super::requests::files_of;
use super::{Cell, Contents, serve};
use crate::channel::Channel;
use crate::fault::{Fault, Kind};
use crate::protocol::{Answer, Said};

/// How often the keeper is told of the progress of a save, at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// The life of a process that has just been forked: it leaves behind what is its parent's, and
/// serves its own keeper at the other end of `channel`.
pub(super) fn live(frozen: Frozen, channel: Channel, host: &Arc<KvmHost>) -> ! {
    let mut kept = frozen.descriptors();
    kept.extend([channel.as_raw_fd(), host.kvm().as_raw_fd()]);
    // What it has open is its parent's pagemap.
    std::mem::forget(pagemap::take_file());
    if fork::close_all_but(kept).is_err() {
        fork::leave(1);
    }
    fork::leave(serve(channel, Arc::clone(host), Contents::Frozen(frozen)))
}

/// Forks a sibling for each of the channels' ends in `files`.
pub(super) fn split(cell: &mut Cell, files: Vec<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>), Fault> {
    let frozen = cell.frozen()?;
    for end in files {
        // SAFETY: a cell with something frozen in it has one thread. The child uses what was
        // frozen, and never comes back here.
        match unsafe { fork::fork() } {
            Ok(Side::Parent) => {}
            Ok(Side::Child) => live(frozen.clone(), Channel::from(end), &cell.host),
            Err(error) => return Err(Fault::of(Kind::Room, &error)),
        }
    }
    Ok((Answer::Done, vec![]))
}

/// Makes a snapshot in memory.
pub(super) fn export(cell: &Cell) -> Result<(Answer, Vec<OwnedFd>), Fault> {
    files_of(&cell.frozen()?.snapshot()?)
}

/// Writes a snapshot file.
pub(super) fn save(cell: &Cell, files: Vec<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>), Fault> {
    let file = files.into_iter().next().map(File::from);
    let file = file.ok_or_else(|| Fault::state("there is no file to write"))?;
    let mut told: Option<Instant> = None;
    let saved = cell.frozen()?.save(&file, &mut |done, of| {
        if told.is_some_and(|told| told.elapsed() < PROGRESS_PERIOD) {
            return Ok(());
        }
        told = Some(Instant::now());
        cell.say(&Said::Progress { done, of }).map_err(io::Error::other)
    });
    saved.map_err(|error| Fault::of(Kind::Room, &error))?;
    Ok((Answer::Done, vec![]))
}
