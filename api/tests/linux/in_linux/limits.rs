//! Limits of sandboxes, where the host has a cgroup v2 to divide.

use super::service::Daemon;

#[test]
fn a_memory_limit_bites_the_offender_alone() {
    let daemon = Daemon::start();
    let spawn = |more: &[&str]| {
        let arguments = [&["spawn", "--memory", "128", "--json"], more].concat();
        let answer: serde_json::Value = serde_json::from_str(&daemon.ask(&arguments)).unwrap();
        answer["results"][0]["sandbox"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    };
    let (free, bound) = (spawn(&[]), spawn(&["--limit-memory", "48"]));
    let refused = daemon.fails(&["workload", &bound, "dirty"]);
    assert!(refused.contains("more memory than its limit"), "{refused}");
    daemon.ask(&["workload", &free, "dirty"]);
    daemon.ask(&["workload", &free, "checksum", "--bytes", "1M"]);
    let state = |id: &str| {
        let list: serde_json::Value = serde_json::from_str(&daemon.ask(&["ps", "--json"])).unwrap();
        let all = list["sandboxes"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!((state(&free), state(&bound)), ("running".into(), "failed".into()));
}
