//! `cargo xtask check-bench`: whether a report of `tine bench` has what it promises.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Lists, and what each of their entries must have.
const LISTS: [(&str, &[&str]); 3] = [
    ("spawn", &["guest_bytes", "memory", "p50_us", "p99_us", "min_us", "ladder"]),
    ("live_fork", &["dirty_pages", "parent_pause_us", "first_instruction_us"]),
    ("cow_faults", &["pattern", "fraction", "pages", "ns_per_page", "total_us", "memory"]),
];

/// Objects, and what they must have.
const OBJECTS: [(&str, &[&str]); 3] = [
    ("host", &[]),
    ("density", &["clones", "guest_bytes", "bytes_per_clone"]),
    ("hot_set", &["off_ns_per_page", "on_ns_per_page"]),
];

/// Checks `file`.
pub fn check(file: &Path) -> Result<ExitCode> {
    let text = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let report: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    verify(&report).with_context(|| format!("{} is incomplete", file.display()))?;
    println!("{} has all that a report must have", file.display());
    Ok(ExitCode::SUCCESS)
}

fn verify(report: &Value) -> Result<()> {
    for (name, keys) in OBJECTS {
        ensure!(report[name].is_object(), "{name} is missing or no object");
        present(&report[name], name, keys)?;
    }
    for (name, keys) in LISTS {
        let entries = report[name].as_array().with_context(|| format!("{name} is no list"))?;
        ensure!(!entries.is_empty(), "{name} is empty");
        for (index, entry) in entries.iter().enumerate() {
            present(entry, &format!("{name}[{index}]"), keys)?;
        }
    }
    for memory in ["cow", "eager"] {
        let spawns = report["spawn"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(spawns.iter().any(|spawn| spawn["memory"] == memory), "no spawn is {memory}");
    }
    Ok(())
}

fn present(value: &Value, place: &str, keys: &[&str]) -> Result<()> {
    for key in keys {
        ensure!(value.get(key).is_some_and(|value| !value.is_null()), "{place} lacks {key}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complete() -> Value {
        let spawn = |memory| {
            json!({"guest_bytes": 1, "memory": memory, "p50_us": 1.0, "p99_us": 1.0,
                   "min_us": 1.0, "ladder": {}})
        };
        json!({
            "host": {},
            "spawn": [spawn("cow"), spawn("eager")],
            "live_fork": [{"dirty_pages": 1, "parent_pause_us": 1, "first_instruction_us": 1}],
            "cow_faults": [{"pattern": "sequential", "fraction": 1, "pages": 1,
                            "ns_per_page": 1, "total_us": 1, "memory": "cow"}],
            "density": {"clones": 1, "guest_bytes": 1, "bytes_per_clone": 1},
            "hot_set": {"off_ns_per_page": 1, "on_ns_per_page": 1},
        })
    }

    #[test]
    fn a_complete_report_passes() {
        verify(&complete()).unwrap();
    }

    #[test]
    fn every_missing_part_is_noticed() {
        for place in ["host", "spawn", "live_fork", "cow_faults", "density", "hot_set"] {
            let mut report = complete();
            report.as_object_mut().unwrap().remove(place);
            assert!(verify(&report).is_err(), "{place}");
        }
        let mut report = complete();
        report["spawn"][1].as_object_mut().unwrap().remove("p99_us");
        assert_eq!(verify(&report).unwrap_err().to_string(), "spawn[1] lacks p99_us");
        let mut report = complete();
        report["spawn"].as_array_mut().unwrap().pop();
        assert_eq!(verify(&report).unwrap_err().to_string(), "no spawn is eager");
    }
}
