//! Children of a process under a limit on memory: what fails, and who has to end for it.

use tine_forkbench::rows::{PressureRow, Row};

use super::{rows, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::{Better, Unit};
use crate::memory_limit::MemoryLimit;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::sections::per_cent;

/// Measures. Nothing where memory can't be limited here.
pub fn run(bench: &mut Bench) -> Result<Vec<PressureRow>, BenchError> {
    let group = match MemoryLimit::empty() {
        Ok(group) => group,
        Err(reason) => {
            bench.skip("pressure: processes", reason);
            return Ok(vec![]);
        }
    };
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let size = bench.plan.choose(64, 256);
    let line = format!("pressure --size {size}M --room {}M --group {}", size / 4, group.path());
    let rows = rows(bench, &forkbench, Section::Pressure, &line)?;
    let told = rows.into_iter().map(|row| match row {
        Row::Pressure(row) => Ok(row),
        row => Err(unexpected(&row)),
    });
    let told = told.collect::<Result<Vec<_>, _>>()?;
    for row in told.iter().filter(|row| row.written > 0.0) {
        let ranked = if row.ranked { "ranked" } else { "alike" };
        let id = format!("pressure/processes/{}/{ranked}/made", per_cent(row.written));
        bench.measures.add(id, Unit::Count, Better::Higher, &[row.made as f64]);
    }
    Ok(told)
}
