//! What it costs to make a child: in every way, of a parent of one size.

use super::{Out, not_measured, region, turned};
use crate::counters::page_tables;
use crate::failure::Failure;
use crate::program::Program;
use crate::region::Region;
use crate::room;
use crate::rows::{Backing, Density, Row, SpawnRow, Way};
use crate::shared::Shared;
use crate::ways::Spawner;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the parent's region, bytes.
    pub size: u64,
    /// What it is made of.
    pub backing: Backing,
    /// How much of it is filled.
    pub density: Density,
    /// In which ways.
    pub ways: Vec<Way>,
    /// How many children in each way.
    pub rounds: usize,
    /// How many eager copies; there are no more than `rounds`.
    pub eager_rounds: usize,
    /// The program that children execute.
    pub program: String,
}

/// Measures.
///
/// # Errors
///
/// When a child fails.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let name = |way: Option<Way>| {
        let mib = options.size >> 20;
        let way = way.map_or(String::new(), |way| format!(" by {way:?}"));
        format!("children of {mib} MiB, {}, {:?}{way}", options.backing.name(), options.density)
    };
    let region = match region(options.size, 1.0, options.backing, options.density)? {
        Ok(region) => region,
        Err(why) => return out(not_measured(name(None), why)),
    };
    let mut ways = options.ways.clone();
    if let Some(why) = room::refusal(region.resident_bytes() as u64, 1.0, options.backing)? {
        for way in options.ways.iter().filter(|way| way.copies()) {
            out(not_measured(name(Some(*way)), format!("a copy: {why}")))?;
        }
        ways.retain(|way| !way.copies());
    }
    for row in measure(options, &ways, &region)? {
        out(Row::Spawn(row))?;
    }
    Ok(())
}

fn measure(options: &Options, ways: &[Way], region: &Region) -> Result<Vec<SpawnRow>, Failure> {
    let shared = Shared::new()?;
    let program = Program::new(&options.program, &shared, None)?;
    let spawner = Spawner { region, shared: &shared, program: &program, first: || {} };
    if ways.iter().any(|way| way.copies()) {
        // Memory that a hypervisor has taken back is slow at its first touch. The first copy shall
        // not pay for that.
        drop(Region::filled(region.bytes() as u64, region.backing(), region.density())?);
    }
    let mut rows = Vec::new();
    for &way in ways {
        let mut row = row(way, region)?;
        // The first child warms up and counts. A copy warms up nothing but time.
        if !way.copies() {
            row.child_page_table_bytes = spawner.sample(way, true)?.child_page_tables;
        }
        rows.push(row);
    }
    for round in 0..options.rounds {
        for (index, way) in turned(ways, round) {
            if way.copies() && round >= options.eager_rounds {
                continue;
            }
            // The way before left caches and page tables behind that this one did not make: one
            // more of its kind goes first. A copy leaves nothing of them in any case.
            if !way.copies() {
                spawner.sample(way, false)?;
            }
            let sample = spawner.sample(way, way.copies())?;
            let row: &mut SpawnRow = &mut rows[index];
            row.call_us.push(sample.call_us);
            row.child_us.push(sample.child_us);
            row.end_us.push(sample.end_us);
            row.faults.push(sample.faults);
            row.child_page_table_bytes = sample.child_page_tables.or(row.child_page_table_bytes);
        }
    }
    Ok(rows)
}

fn row(way: Way, region: &Region) -> Result<SpawnRow, Failure> {
    Ok(SpawnRow {
        way,
        backing: region.backing(),
        density: region.density(),
        size_bytes: region.bytes() as u64,
        resident_bytes: region.resident_bytes() as u64,
        call_us: Vec::new(),
        child_us: Vec::new(),
        end_us: Vec::new(),
        faults: Vec::new(),
        parent_page_table_bytes: page_tables("self")?,
        child_page_table_bytes: None,
        how: way.how().into(),
    })
}
