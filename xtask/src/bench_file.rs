//! `cargo xtask check-bench`: whether a report of `tine bench` has what it promises.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Lists, and what each of their entries must have.
const LISTS: [(&str, &[&str]); 7] = [
    ("spawn", &["guest_bytes", "memory", "p50_us", "p99_us", "min_us", "ladder"]),
    ("live_fork", &["method", "mapped", "dirty_pages", "parent_pause_us", "first_instruction_us"]),
    ("cow_faults", &["pattern", "fraction", "pages", "ns_per_page", "total_us", "memory"]),
    ("reset", &["dirty_pages", "p50_us", "p99_us", "spawn_p50_us"]),
    (
        "dormant",
        &[
            "guest_bytes",
            "n",
            "in_daemon_p50_us",
            "in_daemon_p99_us",
            "call_p50_us",
            "http_p50_us",
            "http_p99_us",
            "eager_p50_us",
            "ratio",
        ],
    ),
    ("spawn_rate", &["clients", "seconds", "spawns_per_second", "dormant_share"]),
    ("working_set", &["pattern", "off_us", "on_us", "ratio"]),
];

/// Objects, and what they must have.
const OBJECTS: [(&str, &[&str]); 5] = [
    ("host", &[]),
    ("density", &["clones", "guest_bytes", "bytes_per_clone"]),
    ("hot_set", &["off_ns_per_page", "on_ns_per_page"]),
    ("fanout", &["n", "total_us", "per_clone_us", "parent_longest_pause_us", "parent_pauses"]),
    ("cells", &["count", "guest_bytes", "bytes_per_cell", "parts", "pss_bytes_per_cell"]),
];

/// What the report itself must have.
const NUMBERS: [&str; 2] = ["confinement_extra_us", "confinement_ahead_us"];
/// Ways of forking a running guest.
const METHODS: [&str; 2] = ["copy", "process"];

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
    present(report, "the report", &NUMBERS)?;
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
    for method in METHODS {
        let forks = report["live_fork"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(forks.iter().any(|fork| fork["method"] == method), "no live fork is by {method}");
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
            "live_fork": METHODS.map(|method| json!({"method": method, "mapped": "dirty",
                "dirty_pages": 1, "parent_pause_us": 1, "first_instruction_us": 1})),
            "cow_faults": [{"pattern": "sequential", "fraction": 1, "pages": 1,
                            "ns_per_page": 1, "total_us": 1, "memory": "cow"}],
            "density": {"clones": 1, "guest_bytes": 1, "bytes_per_clone": 1},
            "hot_set": {"off_ns_per_page": 1, "on_ns_per_page": 1},
            "reset": [{"dirty_pages": 1, "p50_us": 1, "p99_us": 1, "spawn_p50_us": 1}],
            "dormant": [{"guest_bytes": 1, "n": 1, "in_daemon_p50_us": 1, "in_daemon_p99_us": 1,
                         "call_p50_us": 1, "http_p50_us": 1, "http_p99_us": 1,
                         "eager_p50_us": 1, "ratio": 1}],
            "spawn_rate": [{"clients": 1, "seconds": 1, "spawns_per_second": 1,
                            "dormant_share": 1}],
            "working_set": [{"pattern": "scattered", "off_us": 1, "on_us": 1, "ratio": 1}],
            "fanout": {"n": 1, "total_us": 1, "per_clone_us": 1, "parent_longest_pause_us": 1,
                       "parent_pauses": 1},
            "cells": {"count": 1, "guest_bytes": 1, "bytes_per_cell": 1, "parts": {},
                      "pss_bytes_per_cell": 1},
            "confinement_extra_us": 1,
            "confinement_ahead_us": 1,
        })
    }

    #[test]
    fn a_complete_report_passes() {
        verify(&complete()).unwrap();
    }

    #[test]
    fn every_missing_part_is_noticed() {
        let places = LISTS.into_iter().chain(OBJECTS).map(|(name, _)| name).chain(NUMBERS);
        for place in places {
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
        let mut report = complete();
        report["live_fork"].as_array_mut().unwrap().pop();
        assert_eq!(verify(&report).unwrap_err().to_string(), "no live fork is by process");
    }
}
