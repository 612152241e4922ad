//! `redis-benchmark`, which people know: how many writes a second, and how long each takes.

use std::io;
use std::process::Command;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::failed;
use super::record::VALUE_BYTES;
use super::server::Server;
use crate::BenchError;

/// What it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkRow {
    /// `before` a save, or `during` one.
    pub when: String,
    /// Writes.
    pub requests: u64,
    /// Writes a second.
    pub per_second: f64,
    /// Median time of a request, microseconds.
    pub p50_us: f64,
    /// All but one in a hundred took no longer.
    pub p99_us: f64,
    /// The longest.
    pub longest_us: f64,
}

/// The line that gives the same by hand, with `requests` to `keys` keys.
fn arguments(keys: u32, requests: u64) -> [String; 10] {
    let words = ["-t", "set", "-r", "", "-d", "", "-n", "", "--csv", "-q"];
    let mut words = words.map(str::to_owned);
    (words[3], words[5], words[7]) =
        (keys.to_string(), VALUE_BYTES.to_string(), requests.to_string());
    words
}

/// Runs it against `server`.
pub fn run(
    server: &Server,
    keys: u32,
    requests: u64,
    when: &str,
) -> Result<BenchmarkRow, BenchError> {
    const DOING: &str = "redis-benchmark";
    let mut command = Command::new(DOING);
    command.arg("-s").arg(server.socket()).args(arguments(keys, requests));
    let output = command.output().map_err(failed(DOING))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let row = parse(&text, when, requests).filter(|_| output.status.success());
    let reason = || {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("{}: {text:.200} {said:.200}", output.status))
    };
    row.ok_or_else(|| failed(DOING)(reason()))
}

/// Its columns have names since Redis 6.2.
fn parse(csv: &str, when: &str, requests: u64) -> Option<BenchmarkRow> {
    let mut lines = csv.lines().filter(|line| line.starts_with('"'));
    let mut cells = || {
        let cells = lines.next()?.split(',').map(|cell| cell.trim_matches('"'));
        Some(cells.collect::<Vec<_>>())
    };
    let (names, values) = (cells()?, cells()?);
    let get = |name: &str| {
        let index = names.iter().position(|&known| known == name)?;
        values.get(index)?.parse::<f64>().ok().filter(|value| value.is_finite())
    };
    Some(BenchmarkRow {
        when: when.to_owned(),
        requests,
        per_second: get("rps")?,
        p50_us: get("p50_latency_ms")? * 1e3,
        p99_us: get("p99_latency_ms")? * 1e3,
        longest_us: get("max_latency_ms")? * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_columns_are_found_by_name() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                   \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"SET\",\"130890.05\",\"6.016\",\"0.200\",\"5.5\",\"12.359\",\"17.25\",\"29.5\"\n";
        let row = parse(csv, "before", 7).unwrap();
        let expected = BenchmarkRow {
            when: "before".into(),
            requests: 7,
            per_second: 130_890.05,
            p50_us: 5500.0,
            p99_us: 17_250.0,
            longest_us: 29_500.0,
        };
        assert_eq!(row, expected);
        assert_eq!(parse("\"SET\",\"1.0\"\n", "before", 7), None);
    }
}
