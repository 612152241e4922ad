//! Whom the kernel ends first when memory runs out.
//!
//! By itself it ends the largest process, and that is seldom the right one: a parent is larger
//! than what was just forked from it. So a process that is being made, or holds something to be
//! written down, goes before all others: nobody has what is in it yet. One that serves goes
//! before the daemon, and a fork before its parent.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// What is added to the part of memory that a process takes, in thousandths, for the kernel's
/// choice: at this, it goes before any that has less.
const MOST: i16 = 1000;

/// How far a process that serves comes before others, in thousandths of all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank(i16);

impl Rank {
    /// Of a machine that was not forked from another: before the daemon, which has `own`.
    const fn after(own: i16) -> Self {
        Self(own + (MOST - own) / 10)
    }

    /// Of machines of this daemon that were not forked.
    pub(super) fn of_clones() -> Self {
        // A kernel without the file has no such ranks either.
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Self::after(own.trim().parse().unwrap_or(0))
    }

    /// Of what is forked from a machine that has this one: three quarters of what is left, since
    /// what a parent has mapped of its image counts as if it were its own. After half a dozen
    /// generations nothing is left, and children go with their parents.
    pub(super) const fn of_child(self) -> Self {
        Self(self.0 + (MOST - self.0) * 3 / 4)
    }
}

/// When the process of a cell has to go.
#[derive(Debug)]
pub(super) struct Turn {
    /// /proc/PID/oom_score_adj, kept open for the moment when there is no time for it.
    file: Option<File>,
}

impl Turn {
    /// Process `pid` goes first from now on, until it serves.
    pub(super) fn first(pid: u32) -> Self {
        let path = format!("/proc/{pid}/oom_score_adj");
        let file = OpenOptions::new().write(true).open(path);
        let file = file.and_then(|file| write(&file, Rank(MOST)).map(|()| file));
        // It works all the same, as long as there is memory.
        let log = |error: &io::Error| tracing::warn!(%error, pid, "a cell keeps its turn");
        Self { file: file.inspect_err(log).ok() }
    }

    /// It serves from now on, with `rank`.
    pub(super) fn serve(self, rank: Rank) {
        if let Some(Err(error)) = self.file.map(|file| write(&file, rank)) {
            tracing::warn!(%error, "a cell that serves goes before others");
        }
    }
}

fn write(file: &File, Rank(rank): Rank) -> io::Result<()> {
    file.write_all_at(rank.to_string().as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_goes_before_its_parents() {
        assert_eq!(Rank::after(0), Rank(100));
        // What was raised by someone privileged can't be lowered by a daemon that is not.
        assert_eq!(Rank::after(950), Rank(955));
        assert_eq!(Rank::after(1000), Rank(1000));
        assert_eq!(Rank::after(-1000), Rank(-800));
        let mut rank = Rank::after(0);
        for _ in 0..5 {
            assert!(rank.of_child().0 > rank.0, "{rank:?}");
            rank = rank.of_child();
        }
        assert!(rank.of_child().of_child().0 <= MOST);
    }
}
