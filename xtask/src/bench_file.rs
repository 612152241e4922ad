//! `cargo xtask check-bench`: whether a report of `tine bench` is what it promises to be.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Sections of the source text, each of which is held against the figures.
const CLAIMS: usize = 11;

/// Checks that `file` is complete. Whether reports conform to their schema, tests tell.
pub fn check(file: &Path) -> Result<ExitCode> {
    let text = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let report: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    is_complete(&report).with_context(|| format!("{} is incomplete", file.display()))?;
    println!("{} has all that a report must have", file.display());
    Ok(ExitCode::SUCCESS)
}

fn is_complete(report: &Value) -> Result<()> {
    ensure!(report["complete"] == true, "the run was ended early");
    let claims = report["claims"].as_array().context("claims is no list")?;
    ensure!(claims.len() == CLAIMS, "there are {} claims, not {CLAIMS}", claims.len());
    for (index, claim) in claims.iter().enumerate() {
        ensure!(claim["section"] == index + 1, "claims[{index}] is not of section {}", index + 1);
        let why = &claim["why"];
        ensure!(claim["verdict"] != "not_measured", "claims[{index}] was not measured: {why}");
    }
    let measures = report["measures"].as_array().context("measures is no list")?;
    ensure!(!measures.is_empty(), "there are no measures");
    let done = report["done"].as_array().context("done is no list")?;
    for section in done {
        let name = section.as_str().context("done holds names")?;
        let prefix = format!("{name}/");
        let found =
            measures.iter().any(|it| it["id"].as_str().is_some_and(|id| id.starts_with(&prefix)));
        let mut skips = report["skipped"].as_array().into_iter().flatten();
        let skipped =
            skips.any(|skip| skip["what"].as_str().is_some_and(|what| what.starts_with(name)));
        ensure!(found || skipped, "{name} was measured and has no measure, and no reason why");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complete() -> Value {
        let claims: Vec<Value> = (1..=CLAIMS)
            .map(|section| json!({"section": section, "verdict": "holds", "why": "it does"}))
            .collect();
        json!({
            "complete": true,
            "claims": claims,
            "measures": [{"id": "spawn/64_mib/cow/total"}],
            "done": ["spawn"],
        })
    }

    #[test]
    fn a_complete_report_passes() {
        is_complete(&complete()).unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let broken = |change: fn(&mut Value)| {
            let mut report = complete();
            change(&mut report);
            is_complete(&report).unwrap_err().to_string()
        };
        assert_eq!(broken(|it| it["complete"] = json!(false)), "the run was ended early");
        let error = broken(|it| it["claims"].as_array_mut().unwrap().truncate(10));
        assert_eq!(error, "there are 10 claims, not 11");
        let error = broken(|it| it["claims"][3]["verdict"] = json!("not_measured"));
        assert_eq!(error, "claims[3] was not measured: \"it does\"");
        let error = broken(|it| it["done"] = json!(["spawn", "reset"]));
        assert_eq!(error, "reset was measured and has no measure, and no reason why");
        let mut report = complete();
        report["done"] = json!(["spawn", "reset"]);
        report["skipped"] = json!([{"what": "reset: all of it", "reason": "no room"}]);
        is_complete(&report).unwrap();
    }
}
