//! Each sandbox of the daemon in a cell of its own, forked live by process.

use std::fs;

use super::service::Daemon;

fn sh(daemon: &Daemon, id: &str, script: &str) -> String {
    daemon.ask(&["exec", id, "--", "sh", "-c", script])
}

/// Ids and processes of the sandboxes that `arguments` make.
fn make(daemon: &Daemon, arguments: &[&str]) -> Vec<(String, u64)> {
    let answer: serde_json::Value = serde_json::from_str(&daemon.ask(arguments)).unwrap();
    let made = answer["results"].as_array().unwrap().iter().map(|result| {
        let sandbox = &result["sandbox"];
        let id = sandbox["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (id.to_owned(), sandbox["pid"].as_u64().unwrap_or_else(|| panic!("{answer}")))
    });
    made.collect()
}

#[test]
fn forks_by_process_share_what_was_and_are_sandboxes_of_their_own() {
    let daemon = Daemon::start();
    let mut all = make(&daemon, &["spawn", "--image", "base", "--json"]);
    let first = all[0].0.clone();
    sh(&daemon, &first, "mkdir /t && mount -t tmpfs none /t && echo shared > /t/file");
    all.extend(make(&daemon, &["fork", &first, "--count", "2", "--json"]));
    // The second time from a child.
    let child = all[1].0.clone();
    all.extend(make(&daemon, &["fork", &child, "--count", "1", "--json"]));
    for (id, _) in &all {
        assert_eq!(sh(&daemon, id, "cat /t/file"), "shared");
        assert_eq!(sh(&daemon, id, "hostname"), *id);
        sh(&daemon, id, "echo $(hostname) > /t/file");
    }
    let mut seen = std::collections::BTreeSet::new();
    for (id, pid) in &all {
        assert_eq!(sh(&daemon, id, "cat /t/file"), *id, "each has its own by now");
        assert!(seen.insert(sh(&daemon, id, "cat /proc/sys/kernel/random/uuid")), "{id}");
        assert!(seen.insert(pid.to_string()), "{id}: a process has two sandboxes");
        for kind in ["user", "mnt", "ipc", "net", "uts", "pid"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{id}: {kind}");
        }
    }
}
