//! One child in one of the ways, timed.

use std::ffi::c_void;

use nix::errno::Errno;

use crate::child::{Call, Child, Partner, double, leave};
use crate::clock;
use crate::counters::{self, page_tables};
use crate::eager;
use crate::failure::{During, Failure};
use crate::program::{Pointers, Program};
use crate::region::Region;
use crate::rows::{Faults, Way};
use crate::shared::{Shared, Slot};

/// Stack of a child that borrows the parent's memory.
const STACK: usize = 64 << 10;

/// One child.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Until the call returned in the parent, microseconds.
    pub call_us: f64,
    /// Until the child had started, from the start of the call.
    pub child_us: f64,
    /// From the child's last act until it was waited for.
    pub end_us: f64,
    /// Faults of the parent in the call.
    pub faults: Faults,
    /// Page tables of the child, if it was asked for them.
    pub child_page_tables: Option<u64>,
}

/// What children are made with.
#[derive(Debug)]
pub struct Spawner<'a> {
    /// The parent's memory.
    pub region: &'a Region,
    /// Where children put their times.
    pub shared: &'a Shared,
    /// What they execute.
    pub program: &'a Program,
    /// What a child does before it counts as started: nothing, but in tests.
    pub first: fn(),
}

/// What the call took.
struct Called {
    child: Child,
    began: u64,
    returned: u64,
    faults: Faults,
}

impl Spawner<'_> {
    /// Makes one child, waits for it, and tells how long that took. With `count` the child looks
    /// at its page tables before it ends, if it has the region.
    ///
    /// # Errors
    ///
    /// When there is no child, or it does not what it should.
    pub fn sample(&self, way: Way, count: bool) -> Result<Sample, Failure> {
        self.shared.clear();
        let called = match way {
            Way::Eager => called_partner(|| eager::fork(self.region, |_| self.child(count)))?,
            Way::Populated => {
                called_partner(|| eager::populated(self.region, |_| self.child(count)))?
            }
            Way::Fork => self.double(Call::Fork, count)?,
            Way::Clone3 => self.double(Call::Clone3, count)?,
            Way::ForkExec => self.fork_and_execute()?,
            Way::Vfork => self.borrow(None)?,
            Way::VforkExec => self.borrow(Some(&self.program.pointers()))?,
            Way::PosixSpawn => {
                let pointers = self.program.pointers();
                called(|| Ok(Child::new(pointers.spawn()?)))?
            }
        };
        let doing = "start and end at once";
        let ended = match called.child.wait(doing) {
            Ok(()) => clock::now(),
            // What it told is better than how it ended.
            Err(error) => match self.shared.get(Slot::Error) {
                0 => return Err(error),
                _ => return Err(self.shared.stamped(Slot::Started, doing).err().unwrap_or(error)),
            },
        };
        let (started, left) = match way.executes() {
            true => (Slot::Program, Slot::Program),
            false => (Slot::Started, Slot::Leaving),
        };
        let counted = self.shared.get(Slot::PageTables);
        Ok(Sample {
            call_us: clock::microseconds(called.began, called.returned),
            child_us: clock::microseconds(called.began, self.shared.stamped(started, doing)?),
            end_us: clock::microseconds(self.shared.stamped(left, doing)?, ended),
            faults: called.faults,
            child_page_tables: (counted != 0).then_some(counted),
        })
    }

    fn double(&self, call: Call, count: bool) -> Result<Called, Failure> {
        // SAFETY: the child does no more than to tell, and leaves.
        called(|| match unsafe { double(call) }? {
            Some(child) => Ok(child),
            None => self.child(count),
        })
    }

    fn child(&self, count: bool) -> ! {
        (self.first)();
        self.shared.stamp(Slot::Started);
        if count {
            self.shared.put(Slot::PageTables, page_tables("self").unwrap_or(0));
        }
        self.shared.stamp(Slot::Leaving);
        leave(0)
    }

    fn fork_and_execute(&self) -> Result<Called, Failure> {
        let pointers = self.program.pointers();
        // SAFETY: the child becomes another program, or leaves.
        called(|| match unsafe { double(Call::Fork) }? {
            Some(child) => Ok(child),
            None => self.execute(&pointers),
        })
    }

    fn execute(&self, pointers: &Pointers) -> ! {
        let errno = pointers.execute();
        self.shared.put(Slot::Error, errno as u64);
        leave(127)
    }

    /// A child that runs in this process's memory while this one waits.
    fn borrow(&self, pointers: Option<&Pointers>) -> Result<Called, Failure> {
        let mut stack = vec![0u128; STACK / size_of::<u128>()];
        let borrower = Borrower { spawner: self, pointers };
        let argument = (&raw const borrower).cast_mut().cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        called(|| {
            let top = stack.as_mut_ptr_range().end.cast::<c_void>();
            // SAFETY: the child runs on a stack of its own, which is aligned and outlives it, as
            // does its argument: with CLONE_VFORK this returns when it has left or executed. Until
            // then nothing else runs in this thread, whose memory it borrows.
            let pid = unsafe { libc::clone(run_borrower, top, flags, argument) };
            Ok(Child::new(Errno::result(pid).during("clone with CLONE_VM and CLONE_VFORK")?))
        })
    }
}

/// What a child gets that borrows its parent's memory.
struct Borrower<'a, 'b> {
    spawner: &'a Spawner<'b>,
    pointers: Option<&'a Pointers<'a>>,
}

extern "C" fn run_borrower(argument: *mut c_void) -> libc::c_int {
    // SAFETY: `borrow` passes a reference to one, which lives until this process has left.
    let borrower = unsafe { &*argument.cast::<Borrower>() };
    match borrower.pointers {
        Some(pointers) => borrower.spawner.execute(pointers),
        None => borrower.spawner.child(false),
    }
}

/// Times a call.
fn called(call: impl FnOnce() -> Result<Child, Failure>) -> Result<Called, Failure> {
    let before = counters::faults()?;
    let began = clock::now();
    let child = call()?;
    let returned = clock::now();
    let faults = counters::faults()?.since(before);
    Ok(Called { child, began, returned, faults })
}

/// Takes the times of a child that got a copy.
fn called_partner(make: impl FnOnce() -> Result<Partner, Failure>) -> Result<Called, Failure> {
    let before = counters::faults()?;
    let Partner { child, began, returned, .. } = make()?;
    Ok(Called { child, began, returned, faults: counters::faults()?.since(before) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Backing, Density};
    use std::thread::sleep;
    use std::time::Duration;

    const CHILDREN: [Way; 5] = [Way::Eager, Way::Populated, Way::Fork, Way::Clone3, Way::Vfork];

    fn sample(way: Way, first: fn()) -> Result<Sample, Failure> {
        let region = Region::filled(8 << 20, Backing::Small, Density::Dense).unwrap();
        let shared = Shared::new().unwrap();
        let program = Program::new("/nowhere", &shared, None).unwrap();
        Spawner { region: &region, shared: &shared, program: &program, first }.sample(way, true)
    }

    #[test]
    fn a_child_that_sleeps_first_starts_late() {
        for way in CHILDREN {
            let sample = sample(way, || sleep(Duration::from_millis(50))).unwrap();
            assert!((50_000.0..10e6).contains(&sample.child_us), "{way:?}: {sample:?}");
            assert!(sample.end_us > 0.0 && sample.call_us > 0.0, "{way:?}: {sample:?}");
            // A parent whose memory is borrowed waits, others do not.
            if !way.copies() {
                assert_eq!(sample.call_us >= 50_000.0, way == Way::Vfork, "{sample:?}");
            }
        }
    }

    #[test]
    fn a_child_that_dies_at_once_is_an_error() {
        for way in CHILDREN {
            let error = sample(way, || leave(3)).unwrap_err();
            assert!(error.to_string().contains("status 3"), "{way:?}: {error}");
            let error = sample(way, || leave(0)).unwrap_err();
            assert!(error.to_string().contains("never told"), "{way:?}: {error}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        for way in [Way::ForkExec, Way::VforkExec, Way::PosixSpawn] {
            let error = sample(way, || {}).unwrap_err();
            let text = crate::failure::chain(&error);
            assert!(text.contains("No such file"), "{way:?}: {text}");
        }
    }

    #[test]
    fn children_with_the_region_have_its_page_tables() {
        for way in CHILDREN {
            let counted = sample(way, || {}).unwrap().child_page_tables;
            // 8 MiB are mapped by 4 tables.
            assert_eq!(counted.is_some_and(|bytes| bytes >= 4 * 4096), way.has_region(), "{way:?}");
        }
    }
}
