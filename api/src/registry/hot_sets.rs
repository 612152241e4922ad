//! Hot sets, recorded from the first clones of a snapshot without anybody asking: what they have
//! used after a while, or when they are removed, their successors get copied ahead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tine_vmm::memory::{HotSet, Runs};

use super::Registry;
use super::sandbox::Sandbox;
use crate::engine::Held;

/// Clones of one snapshot that are looked at.
const CLONES: usize = 3;
/// How long a clone runs before it is looked at.
const AGE: Duration = Duration::from_secs(2);

/// What is known so far of the pages that clones of one snapshot use.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    /// Clones that will be looked at, or were.
    clones: usize,
    /// What those have used that ran long enough.
    seen: Vec<Runs>,
    /// What the busiest of those has used that were removed before: better than nothing.
    early: Runs,
}

impl Recorder {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more clone is to be looked at.
    pub(super) fn wants_one(&self) -> bool {
        let mut recorded = self.recorded();
        let wanted = recorded.clones < CLONES;
        recorded.clones += usize::from(wanted);
        wanted
    }

    /// Takes what one clone has used, which ran long enough or was removed `early`. Returns what the
    /// next are likely to use.
    fn add(&self, used: Runs, early: bool) -> HotSet {
        let mut recorded = self.recorded();
        if !early {
            recorded.seen.push(used);
        } else {
            // Another is looked at in its place.
            recorded.clones -= 1;
            if used.pages() > recorded.early.pages() {
                recorded.early = used;
            }
        }
        HotSet::new(match recorded.seen.is_empty() {
            true => recorded.early.clone(),
            false => common(&recorded.seen),
        })
    }
}

/// The pages that most of `sets` have: all of one, those in both of two, those in two of three.
fn common(sets: &[Runs]) -> Runs {
    let both = |a: &Runs, b: &Runs| a.minus(&a.minus(b));
    match sets {
        [] => Runs::new(),
        [one] => one.clone(),
        [a, b] => both(a, b),
        [a, b, c, ..] => both(a, b).union(&both(a, c)).union(&both(b, c)),
    }
}

/// A clone that is to be looked at.
#[derive(Debug)]
pub(super) struct Watched {
    snapshot: Held,
    since: Instant,
    done: Mutex<bool>,
}

impl Watched {
    pub(super) fn new(snapshot: Held) -> Self {
        Self { snapshot, since: Instant::now(), done: Mutex::new(false) }
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= AGE
    }
}

impl Sandbox {
    /// Looks at what it has used, if that is wanted and was not done: its end is near.
    pub(super) fn record_hot_set(&self) {
        let Some(watched) = &self.watched else { return };
        let mut done = watched.done.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *done, true) || !self.is_alive() {
            return;
        }
        let recorded = self.vm.hot_set().and_then(|used| {
            let hot = watched.snapshot.recorder.add(used.runs().clone(), !watched.is_due());
            watched.snapshot.set_hot_set(&hot).map(|()| hot.pages())
        });
        match recorded {
            Ok(pages) => tracing::debug!(id = self.id, pages, "hot set recorded"),
            Err(fault) => tracing::debug!(id = self.id, %fault, "no hot set recorded"),
        }
    }
}

impl Registry {
    /// Looks at the clones that have run long enough.
    pub fn record_hot_sets(&self) {
        let due: Vec<_> = {
            let contents = self.contents();
            let due = |one: &&Arc<Sandbox>| {
                one.watched.as_ref().is_some_and(|watched| {
                    let done = *watched.done.lock().unwrap_or_else(PoisonError::into_inner);
                    !done && watched.is_due()
                })
            };
            contents.sandboxes.values().filter(due).cloned().collect()
        };
        for sandbox in due {
            sandbox.record_hot_set();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tine_vmm::memory::Run;

    fn pages(pages: &[u64]) -> Runs {
        pages.iter().map(|&first| Run { first, pages: 1 }).collect()
    }

    #[test]
    fn pages_that_most_clones_use_are_hot() {
        let recorder = Recorder::default();
        assert!(recorder.wants_one() && recorder.wants_one());
        assert_eq!(recorder.add(pages(&[7, 8]), true).runs(), &pages(&[7, 8]));
        assert_eq!(recorder.add(pages(&[9]), true).runs(), &pages(&[7, 8]), "the busier one");
        assert_eq!(recorder.add(pages(&[1, 2, 3]), false).runs(), &pages(&[1, 2, 3]));
        assert_eq!(recorder.add(pages(&[2, 3, 9]), false).runs(), &pages(&[2, 3]));
        assert_eq!(recorder.add(pages(&[1, 3, 9]), false).runs(), &pages(&[1, 2, 3, 9]));
        let wanted = (0..5).filter(|_| recorder.wants_one()).count();
        assert_eq!(wanted, CLONES);
    }
}
