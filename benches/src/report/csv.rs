//! The measures for spreadsheets: a line each.

use super::Report;
use crate::BenchError;

const COLUMNS: [&str; 12] =
    ["id", "section", "unit", "better", "n", "p50", "p90", "p99", "min", "low", "high", "noise"];

/// A heading, and a line for each measure. Empty fields are what is not known.
pub fn lines(report: &Report) -> Result<String, BenchError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| BenchError::Csv(error.into());
    writer.write_record(COLUMNS).map_err(failed)?;
    for measure in &report.measures {
        let or_empty = |number: Option<f64>| number.map_or_else(String::new, |it| it.to_string());
        let better = match measure.better {
            crate::measure::Better::Lower => "lower",
            crate::measure::Better::Higher => "higher",
        };
        let words = [&measure.id, measure.section(), measure.unit.name(), better];
        let numbers = [measure.p50, measure.p90, measure.p99, measure.min].map(Some);
        let numbers = numbers.into_iter().chain([measure.low, measure.high, measure.noise]);
        let fields = words.map(str::to_owned).into_iter().chain([measure.n.to_string()]);
        writer.write_record(fields.chain(numbers.map(or_empty))).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| BenchError::Csv(error.into_error()))?;
    String::from_utf8(bytes).map_err(|error| BenchError::Csv(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measures;

    #[test]
    fn every_measure_is_a_line() {
        let measures = Measures::default();
        measures.time("spawn/64_mib/cow", &[2.0, 1.0, 3.0]);
        measures.bytes("cells/each", &[4096.0]);
        let report = Report { measures: measures.all(), ..Report::empty() };
        let lines = lines(&report).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[0], COLUMNS.join(","));
        assert!(lines[1].starts_with("spawn/64_mib/cow,spawn,us,lower,3,2,3,3,1,"), "{}", lines[1]);
        assert_eq!(lines[2], "cells/each,cells,bytes,lower,1,4096,4096,4096,4096,,,");
    }
}
