//! Advice for memory that is copied on write, followed and not: the same work of a child of `fork`,
//! with two settings.

use serde::{Deserialize, Serialize};

use super::faults::{Written, write};
use super::{Out, not_measured, region, turned};
use crate::child::Partner;
use crate::clock;
use crate::counters;
use crate::failure::Failure;
use crate::pages::{PAGE, pick};
use crate::region::Region;
use crate::rows::{Backing, Density, Order, Row, Side, TuningRow};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the region, bytes.
    pub size: u64,
    /// How many children for each setting.
    pub rounds: usize,
}

/// What a child does.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Whether it reads a word of each page first.
    reads: bool,
    /// To which part it writes a word a page.
    writes: f64,
    /// Which pages these are.
    order: Order,
    /// Whether they are copied ahead.
    ahead: bool,
}

/// What a child tells.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    ahead_us: f64,
    written: Written,
    private_bytes: u64,
}

const HOT: Work = Work { reads: false, writes: 0.1, order: Order::Clustered, ahead: false };

/// Measures.
///
/// # Errors
///
/// When a child fails.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let small = match region(options.size, 2.0, Backing::Small, Density::Dense)? {
        Ok(region) => region,
        Err(why) => return out(not_measured("tuning", why)),
    };
    let scattered = Work { order: Order::Scattered, ..HOT };
    out(pair(
        options,
        ("hot data together", "a word a page to 10% of the pages"),
        ("scattered", &small, scattered),
        ("in runs of 16 pages", &small, HOT),
    )?)?;
    out(pair(
        options,
        ("hot pages copied ahead", "a word a page to the 10% that are hot, in runs of 16"),
        ("each at its first write", &small, HOT),
        ("at once, by MADV_POPULATE_WRITE", &small, Work { ahead: true, ..HOT }),
    )?)?;
    let mostly_reads = Work { reads: true, writes: 0.01, ..scattered };
    for backing in [Backing::Thp, Backing::Hugetlb] {
        let name = backing.name();
        let huge = match region(options.size, 2.0, backing, Density::Dense)? {
            Ok(region) => region,
            Err(why) => {
                out(not_measured(format!("tuning with pages of {name}"), why))?;
                continue;
            }
        };
        out(pair(
            options,
            (
                &format!("{name} for data that is mostly read"),
                "a word a page read from all of it, written to 1% all over it",
            ),
            ("4k", &small, mostly_reads),
            (name, &huge, mostly_reads),
        )?)?;
        out(pair(
            options,
            (&format!("{name} for data that is written"), "a word a page to 10% all over it"),
            ("4k", &small, scattered),
            (name, &huge, scattered),
        )?)?;
    }
    Ok(())
}

/// A name, the region that is worked on, and what is done.
type Setting<'a> = (&'a str, &'a Region, Work);

fn pair(
    options: &Options,
    (what, work): (&str, &str),
    before: Setting,
    after: Setting,
) -> Result<Row, Failure> {
    let settings = [before, after];
    let mut sides = settings.map(|(name, ..)| Side { setting: name.into(), ..Side::default() });
    // The first round warms up.
    for round in 0..=options.rounds {
        for (index, (_, region, work)) in turned(&settings, round) {
            // A child has the memory that it works on, and no other.
            let other = settings.iter().find(|(_, other, _)| !std::ptr::eq(*other, region));
            let left_out = other.map(|(_, other, _)| other.left_out()).transpose()?;
            let (call_us, done) = sample(region, work)?;
            drop(left_out);
            if round > 0 {
                let side = &mut sides[index];
                side.call_us.push(call_us);
                side.ahead_us.push(done.ahead_us);
                side.work_us.push(done.written.us);
                side.faults.push(done.written.faults);
                side.private_bytes = done.private_bytes;
            }
        }
    }
    let [before, after] = sides;
    Ok(Row::Tuning(TuningRow { what: what.into(), work: work.into(), before, after }))
}

fn sample(region: &Region, work: Work) -> Result<(f64, Done), Failure> {
    let pages = pick(region.pages(), work.writes, work.order);
    let partner = Partner::fork(|line| line.tell(&do_work(region, work, &pages)?))?;
    let call_us = clock::microseconds(partner.began, partner.returned);
    Ok((call_us, partner.answer("work")?))
}

fn do_work(region: &Region, work: Work, pages: &[u32]) -> Result<Done, Failure> {
    let began = clock::now();
    if work.ahead {
        for run in runs(pages) {
            region.populate(run)?;
        }
    }
    let before = counters::faults()?;
    let ready = clock::now();
    if work.reads {
        for page in 0..region.pages() {
            std::hint::black_box(region.read(page as usize));
        }
    }
    write(region, pages)?;
    let ended = clock::now();
    let faults = counters::faults()?.since(before);
    Ok(Done {
        ahead_us: clock::microseconds(began, ready),
        written: Written { us: clock::microseconds(ready, ended), faults },
        private_bytes: region.memory()?.private_dirty_bytes,
    })
}

/// Pages that follow each other, as ranges of bytes.
fn runs(pages: &[u32]) -> impl Iterator<Item = std::ops::Range<usize>> {
    pages.chunk_by(|one, next| *next == *one + 1).map(|run| {
        let first = run.first().map_or(0, |page| *page as usize);
        first * PAGE..(first + run.len()) * PAGE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_make_a_run() {
        let runs: Vec<_> = runs(&[3, 4, 5, 9, 2]).collect();
        assert_eq!(runs, [3 * PAGE..6 * PAGE, 9 * PAGE..10 * PAGE, 2 * PAGE..3 * PAGE]);
    }

    #[test]
    fn pages_copied_ahead_take_no_faults() {
        let mut rows = Vec::new();
        let options = Options { size: 8 << 20, rounds: 3 };
        run(&options, &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        let Row::Tuning(together) = &rows[0] else { panic!("{rows:?}") };
        let Row::Tuning(ahead) = &rows[1] else { panic!("{rows:?}") };
        // 10% of 2048 pages.
        for side in [&together.before, &together.after, &ahead.before, &ahead.after] {
            assert_eq!(side.private_bytes, 205 * 4096, "{side:?}");
            assert_eq!((side.call_us.len(), side.work_us.len(), side.ahead_us.len()), (3, 3, 3));
        }
        assert!(ahead.before.faults.iter().all(|faults| faults.minor >= 205), "{ahead:?}");
        assert!(ahead.after.faults.iter().all(|faults| faults.minor < 8), "{ahead:?}");
    }
}
