//! What is paid after the fork: by a child that writes to some of the pages, and by its parent.

use serde::{Deserialize, Serialize};

use super::{Out, not_measured, region, turned};
use crate::child::Partner;
use crate::failure::Failure;
use crate::line::Line;
use crate::pages::pick;
use crate::region::Region;
use crate::rows::{
    Backing, Density, Faults, FaultsRow, Memory, Order, ParentRow, Row, Sharer, Way,
};
use crate::{clock, counters, eager};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the region, bytes.
    pub size: u64,
    /// What it is made of.
    pub backing: Backing,
    /// In which orders pages are written.
    pub orders: Vec<Order>,
    /// Which parts of the region.
    pub fractions: Vec<f64>,
    /// Children by `fork`, by eager copies.
    pub ways: Vec<Way>,
    /// How many children for each of these.
    pub rounds: usize,
    /// Whether the parent's writes are measured too.
    pub parent: bool,
}

/// What a child did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Written {
    /// All writes, microseconds.
    pub us: f64,
    /// Faults that they took.
    pub faults: Faults,
}

/// Measures.
///
/// # Errors
///
/// When a child fails.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    if let Some(way) = options.ways.iter().find(|way| !way.copies() && **way != Way::Fork) {
        return Err(Failure::Usage(format!("writes after {way:?} are not measured")));
    }
    // Parent, and a copy of all of it.
    let name = format!("writes to {} MiB, {}", options.size >> 20, options.backing.name());
    let region = match region(options.size, 2.0, options.backing, Density::Dense)? {
        Ok(region) => region,
        Err(why) => return out(not_measured(name, why)),
    };
    for &order in &options.orders {
        for row in children(options, order, &region)? {
            out(Row::Faults(row))?;
        }
    }
    drop(region);
    if options.parent {
        for &order in &options.orders {
            for row in parents(options, order)? {
                out(Row::Parent(row))?;
            }
        }
    }
    Ok(())
}

/// Writes a word to each of `pages`.
///
/// # Errors
///
/// When the kernel does not count faults.
pub fn write(region: &Region, pages: &[u32]) -> Result<Written, Failure> {
    let before = counters::faults()?;
    let began = clock::now();
    for &page in pages {
        region.write(page as usize, u64::from(page));
    }
    let ended = clock::now();
    let faults = counters::faults()?.since(before);
    Ok(Written { us: clock::microseconds(began, ended), faults })
}

fn children(options: &Options, order: Order, region: &Region) -> Result<Vec<FaultsRow>, Failure> {
    let mut cells = Vec::new();
    for &fraction in &options.fractions {
        cells.extend(options.ways.iter().map(|&way| (fraction, way)));
    }
    let pages: Vec<_> =
        cells.iter().map(|(fraction, _)| pick(region.pages(), *fraction, order)).collect();
    let mut rows = Vec::new();
    for (&(fraction, way), pages) in cells.iter().zip(&pages) {
        let (before, after) = account(region, way, pages)?;
        rows.push(FaultsRow {
            way,
            backing: options.backing,
            order,
            size_bytes: region.bytes() as u64,
            fraction,
            pages: pages.len() as u64,
            call_us: Vec::new(),
            write_us: Vec::new(),
            faults: Vec::new(),
            before,
            after,
        });
    }
    for round in 0..options.rounds {
        for (index, (_, way)) in turned(&cells, round) {
            let partner = make(region, way, |line| line.tell(&write(region, &pages[index])?))?;
            let call_us = clock::microseconds(partner.began, partner.returned);
            let written: Written = partner.answer("write pages")?;
            rows[index].call_us.push(call_us);
            rows[index].write_us.push(written.us);
            rows[index].faults.push(written.faults);
        }
    }
    Ok(rows)
}

/// A child by `fork` or by one of the eager copies.
pub(super) fn make(
    region: &Region,
    way: Way,
    work: impl FnOnce(&mut Line) -> Result<(), Failure>,
) -> Result<Partner, Failure> {
    match way {
        Way::Eager => eager::fork(region, work),
        Way::Populated => eager::populated(region, work),
        _ => Partner::fork(work),
    }
}

/// The memory of a child before and after its writes. The look at it takes time, so it is another
/// child than those that are timed.
fn account(region: &Region, way: Way, pages: &[u32]) -> Result<(Memory, Memory), Failure> {
    let partner = make(region, way, |line| {
        let before = region.memory()?;
        write(region, pages)?;
        line.tell(&(before, region.memory()?))
    })?;
    partner.answer("tell what memory its writes take")
}

const SHARERS: [Sharer; 3] = [Sharer::None, Sharer::Alive, Sharer::Gone];

fn parents(options: &Options, order: Order) -> Result<Vec<ParentRow>, Failure> {
    let mut rows = Vec::new();
    for &fraction in &options.fractions {
        let first = rows.len();
        for round in 0..options.rounds {
            for (index, child) in turned(&SHARERS, round) {
                // Writes leave a huge page in pieces: each time there is a new region.
                let region = Region::filled(options.size, options.backing, Density::Dense)?;
                let pages = pick(region.pages(), fraction, order);
                let written = write_as_parent(&region, &pages, child)?;
                if round == 0 && index == 0 {
                    let row = |child| parent_row(options, order, &region, fraction, &pages, child);
                    rows.extend(SHARERS.map(row));
                }
                rows[first + index].write_us.push(written.us);
                rows[first + index].faults.push(written.faults);
            }
        }
    }
    Ok(rows)
}

fn write_as_parent(region: &Region, pages: &[u32], child: Sharer) -> Result<Written, Failure> {
    if child == Sharer::None {
        return write(region, pages);
    }
    // It waits until it is left.
    let partner = Partner::fork(|line| line.hear::<()>().map(drop))?;
    if child == Sharer::Gone {
        partner.end("wait for its parent")?;
        return write(region, pages);
    }
    let written = write(region, pages)?;
    partner.end("wait for its parent")?;
    Ok(written)
}

fn parent_row(
    options: &Options,
    order: Order,
    region: &Region,
    fraction: f64,
    pages: &[u32],
    child: Sharer,
) -> ParentRow {
    ParentRow {
        child,
        backing: options.backing,
        order,
        size_bytes: region.bytes() as u64,
        fraction,
        pages: pages.len() as u64,
        write_us: Vec::new(),
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 8 << 20;
    const PAGES: u64 = BYTES / 4096;

    fn rows(options: &Options) -> Vec<Row> {
        let mut rows = Vec::new();
        run(options, &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        rows
    }

    fn options() -> Options {
        Options {
            size: BYTES,
            backing: Backing::Small,
            orders: Order::ALL.to_vec(),
            fractions: vec![0.0, 0.01, 1.0],
            ways: vec![Way::Fork, Way::Eager, Way::Populated],
            rounds: 2,
            parent: true,
        }
    }

    #[test]
    fn a_child_has_as_many_private_pages_as_it_writes_and_takes_as_many_faults() {
        let mut seen = 0;
        for row in rows(&options()) {
            let Row::Faults(row) = row else { continue };
            seen += 1;
            assert_eq!(
                row.pages,
                [0, 20, PAGES][[0.0, 0.01, 1.0].iter().position(|f| *f == row.fraction).unwrap()]
            );
            assert_eq!((row.call_us.len(), row.write_us.len(), row.faults.len()), (2, 2, 2));
            let fork = row.way == Way::Fork;
            let private = if fork { row.pages } else { PAGES };
            assert_eq!(row.after.private_dirty_bytes, private * 4096, "{row:?}");
            assert_eq!(row.after.shared_bytes, (PAGES - private) * 4096, "{row:?}");
            assert_eq!(row.before.private_dirty_bytes, if fork { 0 } else { BYTES }, "{row:?}");
            // One fault a page, and one or two of the stack and of what counts them.
            let expected = if fork { row.pages } else { 0 };
            for faults in &row.faults {
                assert!((expected..expected + 8).contains(&faults.minor), "{row:?}");
                assert_eq!(faults.major, 0);
            }
        }
        assert_eq!(seen, 27);
    }

    #[test]
    fn a_parent_pays_for_its_writes_as_long_as_it_is_marked_shared() {
        for row in rows(&Options { fractions: vec![1.0], ..options() }) {
            let Row::Parent(row) = row else { continue };
            let expected = if row.child == Sharer::None { 0 } else { PAGES };
            for faults in &row.faults {
                assert!((expected..expected + 8).contains(&faults.minor), "{row:?}");
            }
        }
    }

    #[test]
    fn writes_after_other_ways_are_refused() {
        let options = Options { ways: vec![Way::Vfork], ..options() };
        assert!(run(&options, &mut |_| Ok(())).is_err());
    }
}
