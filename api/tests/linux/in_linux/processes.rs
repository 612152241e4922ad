//! Forks of processes in a guest, by the program that measures them on the host.

use super::service::tine;

#[test]
fn processes_are_measured_in_a_guest() {
    let arguments = ["bench", "--quick", "--only", "process-in-guest", "--json", "-"];
    let output = tine().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = &report["process_in_guest"];
    let children =
        figures["children"].as_array().unwrap_or_else(|| panic!("{}", report["skipped"]));
    for way in ["eager", "fork", "clone3", "vfork", "posix_spawn"] {
        let row = children.iter().find(|row| row["way"] == way);
        assert!(row.is_some_and(|row| row["call_p50_us"].as_f64().unwrap() > 0.0), "{way}");
    }
    // Each page that a child writes is one fault there, too.
    for row in figures["writes"].as_array().unwrap() {
        let each = row["minor_faults"].as_f64().unwrap() / row["pages"].as_f64().unwrap();
        assert!((0.95..1.2).contains(&each), "{row}");
    }
}
