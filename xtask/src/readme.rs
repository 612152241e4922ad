//! `cargo xtask readme`: puts the figures of a run of the suite into the README.
//!
//! They stand between two marks, and come from `docs/numbers.json`: a run without its single
//! samples, of which nobody reads thousands in a repository. A test sees to it that README and
//! file agree.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The run whose figures the README tells.
const NUMBERS: &str = "docs/numbers.json";
const README: &str = "README.md";
const BEGIN: &str = "<!-- numbers: from docs/numbers.json by `cargo xtask readme` -->\n";
const END: &str = "<!-- end of numbers -->\n";

/// Keeps `report` as the run that the README tells of, and writes its figures there.
pub fn write(report: &Path) -> Result<ExitCode> {
    let text = fs::read(report).with_context(|| format!("{} can't be read", report.display()))?;
    let run: Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no JSON", report.display()))?;
    ensure!(run["complete"] == true, "{} was ended early", report.display());
    let kept = serde_json::to_string(&without_paths(without_samples(run)))? + "\n";
    fs::write(NUMBERS, kept).with_context(|| format!("{NUMBERS} can't be written"))?;
    let readme = fs::read_to_string(README).with_context(|| format!("{README} can't be read"))?;
    let readme = spliced(&readme, &figures()?)?;
    fs::write(README, readme).with_context(|| format!("{README} can't be written"))?;
    println!("{README} has the figures of {}", report.display());
    Ok(ExitCode::SUCCESS)
}

fn without_samples(mut run: Value) -> Value {
    for measure in run["measures"].as_array_mut().into_iter().flatten() {
        measure["samples"] = Value::Array(Vec::new());
    }
    run
}

/// Where the program and its files were is nobody's business: their names are left.
fn without_paths(mut run: Value) -> Value {
    let command = run["host"]["command"].as_str().unwrap_or_default();
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let words: Vec<String> = command.split(' ').map(name).collect();
    run["host"]["command"] = Value::String(words.join(" "));
    run
}

/// The figures as Markdown, by the program itself.
fn figures() -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "tine", "--"])
        .args(["bench", "render", NUMBERS, "--markdown", "-"])
        .output()
        .context("cargo can't be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`tine bench render` failed: {}", said.trim());
    String::from_utf8(output.stdout).context("the figures are no text")
}

fn spliced(readme: &str, figures: &str) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).context("the README has no place for figures")?;
    let (_, after) = rest.split_once(END).context("the README's figures have no end")?;
    Ok(format!("{before}{BEGIN}{figures}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_go_between_the_marks_and_nowhere_else() {
        let readme = format!("a\n{BEGIN}old\n{END}b\n");
        let new = spliced(&readme, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(spliced(&new, "new\n").unwrap(), new);
        assert!(spliced("no marks", "new\n").is_err());
    }

    #[test]
    fn paths_are_left_out() {
        let run = json!({"host": {"command": "target/release/tine bench --json /tmp/x/a.json"}});
        let kept = json!({"host": {"command": "tine bench --json a.json"}});
        assert_eq!(without_paths(run), kept);
    }

    #[test]
    fn samples_are_left_out_and_nothing_else() {
        let run = json!({"measures": [{"id": "a", "samples": [1.0, 2.0]}], "done": ["a"]});
        let kept = json!({"measures": [{"id": "a", "samples": []}], "done": ["a"]});
        assert_eq!(without_samples(run), kept);
    }
}
