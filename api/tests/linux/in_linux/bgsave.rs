//! A Redis in a guest saves itself, and the whole guest is saved: the suite's own measurement,
//! which looks at every key, in both files and in a clone.

use super::service::tine;

#[test]
fn what_a_redis_holds_is_saved_as_it_was_at_one_instant() {
    let output =
        tine().args(["bench", "--quick", "--only", "redis-guest", "--json", "-"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = &report["redis_guest"];
    let checked = figures["checked"].as_u64();
    assert!(checked.is_some_and(|keys| keys >= 2000), "{}", report["skipped"]);
    assert_eq!(figures["checked"], figures["keys"]);
    assert!(figures["snapshot_pause_us"].as_f64().unwrap() > 0.0);
    assert!(figures["bgsave_fork_us"].as_f64().unwrap() > 0.0);
}
