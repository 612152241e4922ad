//! A parent and its children under a limit on the memory of all of them: what fails, who has to
//! end for it, and whether the others have what they had.
//!
//! The parent is a child of this process, which stays outside of the limit: it may be the one
//! that the kernel ends.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::{Deserialize, Serialize};

use super::{Out, not_measured};
use crate::child::{Child, Partner};
use crate::eager;
use crate::failure::{During, Failure, chain};
use crate::line::Line;
use crate::pages::pick;
use crate::region::{Region, pattern};
use crate::room;
use crate::rows::{Backing, Density, Ended, Order, PressureRow, Row, Way};

/// Most children that are tried.
const MOST: u64 = 1000;
/// The kernel's preference for ending a parent that its children are to go before; theirs is 1000.
const PARENT: &str = "500";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the parent's region, bytes.
    pub size: u64,
    /// What the limit leaves beside it, bytes.
    pub room: u64,
    /// The directory of an empty control group with the memory controller.
    pub group: PathBuf,
}

/// One trial.
#[derive(Clone, Copy, Debug)]
struct Trial {
    way: Way,
    written: f64,
    ranked: bool,
}

const TRIALS: [Trial; 5] = [
    Trial { way: Way::Eager, written: 0.0, ranked: false },
    Trial { way: Way::Fork, written: 0.01, ranked: false },
    Trial { way: Way::Fork, written: 0.1, ranked: false },
    Trial { way: Way::Eager, written: 0.0, ranked: true },
    Trial { way: Way::Fork, written: 0.1, ranked: true },
];

/// What the parent tells.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// So many children were made and have written.
    Made(u64),
    /// One could not be made, or another ended for it.
    Failed { error: String, ended: Ended, intact: bool, alive: u64, alive_intact: u64 },
}

/// Measures.
///
/// # Errors
///
/// When the group can't be used.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let needed = 2.0 + options.room as f64 / options.size as f64;
    if let Some(why) = room::refusal(options.size, needed, Backing::Small)? {
        return out(not_measured("a parent under a limit on its memory", why));
    }
    let group = Group::new(&options.group)?;
    TRIALS.into_iter().try_for_each(|trial| out(Row::Pressure(hold(options, &group, trial)?)))
}

/// Makes children until one fails.
fn hold(options: &Options, group: &Group, trial: Trial) -> Result<PressureRow, Failure> {
    group.lift()?;
    let partner = Partner::fork(|line| parent(options, group, trial, line));
    let mut partner = partner?;
    let mut row = PressureRow {
        way: trial.way,
        written: trial.written,
        ranked: trial.ranked,
        size_bytes: options.size,
        room_bytes: options.room,
        made: 0,
        error: String::new(),
        ended: Ended::Parent,
        parent_intact: false,
        alive: 0,
        intact: 0,
    };
    loop {
        match partner.line.hear()? {
            Some(Told::Made(made)) => row.made = made,
            Some(Told::Failed { error, ended, intact, alive, alive_intact }) => {
                (row.error, row.ended, row.parent_intact) = (error, ended, intact);
                (row.alive, row.intact) = (alive, alive_intact);
                partner.end("make children")?;
                return Ok(row);
            }
            None => {
                // It can't tell any more how it ended; whoever waits for it can.
                let Err(error) = partner.end("make children") else {
                    return Err(Failure::Child {
                        doing: "make children".into(),
                        ended: "ended without a word".into(),
                    });
                };
                row.error = error.to_string();
                return Ok(row);
            }
        }
    }
}

/// The life of the parent.
fn parent(options: &Options, group: &Group, trial: Trial, line: &mut Line) -> Result<(), Failure> {
    group.join()?;
    if trial.ranked {
        fs::write(ADJUST, PARENT).during("writing /proc/self/oom_score_adj")?;
    }
    let region = Region::filled(options.size, Backing::Small, Density::Dense)?;
    group.limit(group.usage()? + options.room)?;
    let pages = pick(region.pages(), trial.written, Order::Scattered);
    let mut children: Vec<Partner> = Vec::new();
    let error = loop {
        let made = children.len() as u64;
        if made == MOST {
            break "none: as many as are tried were made".to_owned();
        }
        let child = one(&region, trial, &pages, made);
        let failed = match child {
            Ok(child) => {
                children.push(child);
                None
            }
            Err(error) => Some(chain(&error)),
        };
        let dead = children.iter().any(|child| is_dead(&child.child));
        match failed {
            Some(error) => break error,
            None if dead => break "another process was ended for it".to_owned(),
            None => line.tell(&Told::Made(made + 1))?,
        }
    };
    // To look at memory may take some of it.
    group.lift()?;
    let earlier = children.iter().any(|child| is_dead(&child.child));
    let ended = if earlier { Ended::Earlier } else { Ended::Newest };
    let (mut alive, mut alive_intact) = (0, 0);
    for mut child in children {
        if is_dead(&child.child) {
            continue;
        }
        alive += 1;
        child.line.tell(&())?;
        alive_intact += u64::from(child.answer::<bool>("look at its memory")?);
    }
    let intact = (0..region.pages() as usize).all(|page| region.read(page) == pattern(page));
    line.tell(&Told::Failed { error, ended, intact, alive, alive_intact })
}

const ADJUST: &str = "/proc/self/oom_score_adj";

/// A child that has written its pages, and waits until it is to look at its memory.
fn one(region: &Region, trial: Trial, pages: &[u32], number: u64) -> Result<Partner, Failure> {
    let word = number + 1;
    let work = |line: &mut Line| {
        set_pdeathsig(Signal::SIGKILL).during("ending with the parent")?;
        fs::write(ADJUST, "1000").during("writing /proc/self/oom_score_adj")?;
        pages.iter().for_each(|&page| region.write(page as usize, word));
        line.tell(&())?;
        if line.hear::<()>()?.is_none() {
            return Ok(());
        }
        line.tell(&is_intact(region, pages, word))
    };
    let mut partner = match trial.way {
        Way::Eager => eager::fork(region, work)?,
        _ => Partner::fork(work)?,
    };
    partner.hear::<()>("write its pages")?;
    Ok(partner)
}

/// Whether a child has what it wrote, and elsewhere what its parent had.
fn is_intact(region: &Region, pages: &[u32], word: u64) -> bool {
    let mut written = vec![false; region.pages() as usize];
    pages.iter().for_each(|&page| written[page as usize] = true);
    written
        .iter()
        .enumerate()
        .all(|(page, &own)| region.read(page) == if own { word } else { pattern(page) })
}

/// Whether a child has ended; it is still to be waited for.
fn is_dead(child: &Child) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(child.pid()), flags), Ok(WaitStatus::StillAlive))
}

/// The control group.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
    limit: &'static str,
    none: &'static str,
    usage: &'static str,
}

impl Group {
    fn new(directory: &Path) -> Result<Self, Failure> {
        let directory = directory.to_path_buf();
        if directory.join("memory.max").exists() {
            return Ok(Self {
                directory,
                limit: "memory.max",
                none: "max",
                usage: "memory.current",
            });
        }
        let (limit, usage) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
        match directory.join(limit).exists() {
            true => Ok(Self { directory, limit, none: "-1", usage }),
            false => Err(Failure::Usage(format!(
                "{} is no control group with the memory controller",
                directory.display()
            ))),
        }
    }

    /// Moves this process into it.
    fn join(&self) -> Result<(), Failure> {
        self.write("cgroup.procs", "0")
    }

    fn limit(&self, bytes: u64) -> Result<(), Failure> {
        self.write(self.limit, &bytes.to_string())
    }

    fn lift(&self) -> Result<(), Failure> {
        self.write(self.limit, self.none)
    }

    fn usage(&self) -> Result<u64, Failure> {
        let file = self.directory.join(self.usage);
        let text = fs::read_to_string(&file).during("reading the memory of a control group")?;
        text.trim().parse().map_err(|_| Failure::Missing {
            file: file.display().to_string(),
            what: "a number".into(),
        })
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Failure> {
        let file = self.directory.join(name);
        fs::write(&file, value).during(&format!("writing {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_group_is_refused() {
        let error = Group::new(Path::new("/proc/self")).unwrap_err().to_string();
        assert!(error.contains("no control group"), "{error}");
    }

    #[test]
    fn a_child_that_has_gone_is_seen_and_can_be_waited_for() {
        let mut partner = Partner::fork(|line| line.hear::<()>().map(drop)).unwrap();
        assert!(!is_dead(&partner.child));
        partner.line.tell(&()).unwrap();
        while !is_dead(&partner.child) {
            std::thread::yield_now();
        }
        partner.end("end").unwrap();
    }

    #[test]
    fn memory_that_was_written_by_another_is_not_intact() {
        let region = Region::filled(2 << 20, Backing::Small, Density::Dense).unwrap();
        region.write(3, 7);
        assert!(is_intact(&region, &[3], 7));
        assert!(!is_intact(&region, &[3], 8));
        assert!(!is_intact(&region, &[], 7));
    }
}
