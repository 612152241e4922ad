//! `tine bench` as a user and as CI run it: files, schema, an early end, a comparison.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn tine(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tine")).args(arguments).output();
    output.expect("tine can be run")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Measures next to nothing into `json`.
fn measure(json: &Path, more: &[&str]) -> Output {
    let json = json.to_str().unwrap();
    let mut arguments = vec!["bench", "--quick", "--only", "ledger,hot-set", "--json", json];
    arguments.extend(more);
    tine(&arguments)
}

#[test]
fn a_report_conforms_to_the_schema_that_the_program_prints() {
    let directory = tempfile::tempdir().unwrap();
    let (json, html) = (directory.path().join("r.json"), directory.path().join("r.html"));
    let csv = directory.path().join("r.csv");
    let more = ["--html", html.to_str().unwrap(), "--csv", csv.to_str().unwrap()];
    let output = measure(&json, &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let schema: Value = serde_json::from_slice(&tine(&["bench", "--schema"]).stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut report = read(&json);
    let faults: Vec<String> =
        validator.iter_errors(&report).map(|it| format!("{}: {it}", it.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:?}");

    let claims = report["claims"].as_array().unwrap();
    let sections: Vec<u64> = claims.iter().map(|it| it["section"].as_u64().unwrap()).collect();
    assert_eq!(sections, (1..=11).collect::<Vec<_>>());
    for claim in claims {
        for key in ["claim", "measured", "verdict", "why"] {
            assert!(claim[key].is_string(), "{key} in {claim}");
        }
    }
    assert_eq!(report["done"], json!(["hot_set", "ledger"]));
    assert!(report["noise"]["floor"].is_number());
    let measures = report["measures"].as_array().unwrap();
    assert!(measures.iter().all(|measure| measure["noise"].is_number()));
    let lines = fs::read_to_string(&csv).unwrap();
    assert_eq!(lines.lines().count(), measures.len() + 1);
    assert!(fs::read_to_string(&html).unwrap().starts_with("<!doctype html>"));

    // The schema must be able to refuse.
    report["claims"][0]["verdict"] = json!("perhaps");
    assert!(!validator.is_valid(&report));
}

#[test]
fn figures_on_stdout_are_json_alone() {
    let output = tine(&["bench", "--quick", "--only", "ledger", "--json"]);
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["complete"], true);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Ledger"));
}

#[test]
fn an_ended_run_keeps_what_it_has_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.json");
    let json = path.to_str().unwrap();
    let arguments = ["bench", "--quick", "--only", "hot-set,ledger,reset", "--json", json];
    let mut child = Command::new(env!("CARGO_BIN_EXE_tine"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A section is announced when it begins.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().starts_with("reset:")).unwrap().unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    std::thread::spawn(move || lines.count());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let partial = read(&path);
    assert_eq!(partial["complete"], false);
    assert_eq!(partial["done"], json!(["hot_set", "ledger"]));

    let mut resume = arguments.to_vec();
    resume.push("--resume");
    assert!(tine(&resume).status.success());
    let whole = read(&path);
    assert_eq!(whole["complete"], true);
    assert_eq!(whole["done"], json!(["hot_set", "ledger", "reset"]));
    // What was there already was not measured again.
    assert_eq!(whole["hot_set"], partial["hot_set"]);
    let again = tine(&resume);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is complete: start a new run"));
    resume[3] = "ledger";
    let other = tine(&resume);
    assert!(String::from_utf8_lossy(&other.stderr).contains("was to measure something else"));
}

#[test]
fn a_comparison_tells_worse_from_the_same_by_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let output = measure(&path("a.json"), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compare = |one: &str, other: &str| {
        tine(&["bench", "compare", path(one).to_str().unwrap(), path(other).to_str().unwrap()])
    };
    let same = compare("a.json", "a.json");
    assert_eq!(same.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&same.stdout).contains("0 worse, 0 better"));

    // Ten times as slow in everything.
    let mut slow = read(&path("a.json"));
    let times = |value: &Value| json!(value.as_f64().unwrap() * 10.0);
    for measure in slow["measures"].as_array_mut().unwrap() {
        measure["p50"] = times(&measure["p50"]);
        measure["samples"] = measure["samples"].as_array().unwrap().iter().map(&times).collect();
    }
    fs::write(path("slow.json"), slow.to_string()).unwrap();
    let worse = compare("a.json", "slow.json");
    assert_eq!(worse.status.code(), Some(1), "{}", String::from_utf8_lossy(&worse.stdout));
    assert_eq!(compare("slow.json", "a.json").status.code(), Some(0));

    fs::write(path("old.json"), r#"{"version": 2}"#).unwrap();
    let old = compare("a.json", "old.json");
    assert_eq!(old.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&old.stderr).contains("version 2 of the format"));
}

#[test]
fn the_readme_tells_the_figures_of_the_run_that_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let numbers = root.join("docs/numbers.json");
    let output = tine(&["bench", "render", numbers.to_str().unwrap(), "--markdown", "-"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- numbers: ").unwrap();
    let (_, rest) = rest.split_once("-->\n").unwrap();
    let (told, _) = rest.split_once("<!-- end of numbers -->").unwrap();
    let kept = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told, kept, "run: cargo xtask readme FIGURES.json");
}

#[test]
fn what_can_not_be_written_is_known_before_anything_is_measured() {
    let output = tine(&["bench", "--quick", "--json", "/nowhere/r.json"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nowhere/r.json can't be written"), "{said}");
    let output = tine(&["bench", "--resume"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--json"));
}
