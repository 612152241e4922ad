//! Sandboxes in cells, as seen from outside: one process each, gone with the daemon, and
//! snapshots that outlive it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use common::{Daemon, Process, ids, limits, wait_until};
use serde_json::{Value, json};

/// The inode of a namespace of process `pid`.
fn namespace(pid: u64, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

fn is_there(pid: u64) -> bool {
    // One that is gone but not waited for has no program any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn pid(daemon: &Daemon, id: &str) -> u64 {
    daemon.get(&format!("/v1/sandboxes/{id}"))["pid"].as_u64().unwrap()
}

fn small(count: u32) -> Value {
    json!({"image": "workload", "memory_mib": 16, "count": count})
}

#[test]
fn every_sandbox_is_a_process_in_namespaces_that_are_not_the_daemons() {
    let daemon = Daemon::start(limits());
    let spawned = daemon.spawn(small(3));
    let forked = daemon.fork(&spawned[0], 2);
    let pids: Vec<u64> = spawned.iter().chain(&forked).map(|id| pid(&daemon, id)).collect();
    assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), 5, "one process a sandbox");
    let own = u64::from(std::process::id());
    for kind in ["user", "mnt", "pid", "ipc", "net", "uts", "cgroup"] {
        let outside = namespace(own, kind);
        assert!(pids.iter().all(|&pid| namespace(pid, kind) != outside), "{kind}");
    }
    for kind in ["user", "mnt", "ipc", "uts"] {
        let inside: BTreeSet<_> = pids[..3].iter().map(|&pid| namespace(pid, kind)).collect();
        assert_eq!(inside.len(), 3, "each spawned sandbox has its own {kind} namespace");
    }
    assert_eq!(
        daemon.call("DELETE", &format!("/v1/sandboxes/{}", spawned[0]), &Value::Null).0,
        204
    );
    wait_until("the end of a process", || !is_there(pids[0]));
    assert_eq!(daemon.checksum(&forked[0]).len(), 16, "its children go on");
}

#[test]
fn a_killed_cell_is_a_failed_sandbox_and_nobody_else_notices() {
    let daemon = Daemon::start(limits());
    let spawned = daemon.spawn(small(2));
    let victim = pid(&daemon, &spawned[0]);
    // SAFETY: it only sends a signal, to a process of the daemon that this test started.
    assert_eq!(unsafe { libc::kill(victim as i32, libc::SIGKILL) }, 0);
    let path = format!("/v1/sandboxes/{}", spawned[0]);
    wait_until("the failure", || daemon.get(&path)["state"] == "failed");
    wait_until("its reason", || daemon.get(&path)["reason"].as_str().unwrap().contains("SIGKILL"));
    let (status, problem) = daemon.call("POST", &format!("{path}/fork"), &json!({}));
    assert_eq!(status, 409, "{problem}");
    assert_eq!(daemon.checksum(&spawned[1]).len(), 16);
}

#[test]
fn nothing_outlives_a_daemon_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path(), &[]);
    let spawned = process.daemon.spawn(small(3));
    let forked = process.daemon.fork(&spawned[0], 1);
    let pids: Vec<u64> = spawned.iter().chain(&forked).map(|id| pid(&process.daemon, id)).collect();
    assert!(pids.iter().all(|&pid| is_there(pid)));
    // Records are written behind the answers, and nothing tells when: in a moment.
    std::thread::sleep(Duration::from_secs(1));
    process.signal(libc::SIGKILL);
    process.child.wait().unwrap();
    wait_until("the end of its cells", || !pids.iter().any(|&pid| is_there(pid)));
    let process = Process::start(directory.path(), &[]);
    let lost = process.daemon.get("/v1/sandboxes/lost");
    assert_eq!(lost["lost"].as_array().unwrap().len(), 4, "{lost}");
}

#[test]
fn a_kept_snapshot_outlives_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), &[]);
    let daemon = &process.daemon;
    let id = daemon.spawn(small(1)).remove(0);
    daemon.work(&id, json!({"op": "dirty", "seed": 3, "bytes": 4 << 20}));
    let sum = daemon.checksum(&id);
    let taken =
        daemon.post(&format!("/v1/sandboxes/{id}/snapshot"), json!({"name": "kept", "keep": true}));
    assert!(["saving", "saved"].contains(&taken["saved"].as_str().unwrap()), "{taken}");
    daemon.work(&id, json!({"op": "dirty", "seed": 4}));
    wait_until("the file", || daemon.get("/v1/snapshots/kept")["saved"] == "saved");
    process.signal(libc::SIGTERM);
    drop(process);

    let process = Process::start(directory.path(), &[]);
    let daemon = &process.daemon;
    let again = daemon.spawn(json!({"snapshot": "kept"})).remove(0);
    assert_eq!(daemon.checksum(&again), sum, "what it was when the snapshot was taken");
    let files = || std::fs::read_dir(directory.path().join("snapshots")).unwrap().count();
    assert_eq!(files(), 1);
    assert_eq!(daemon.call("DELETE", "/v1/snapshots/kept", &Value::Null).0, 204);
    assert_eq!(files(), 0, "its file goes with it");
}

#[test]
fn a_snapshot_that_is_given_up_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), &[]);
    let daemon = &process.daemon;
    let big = json!({"image": "workload", "memory_mib": 512});
    let id = daemon.spawn(big).remove(0);
    daemon.work(&id, json!({"op": "dirty"}));
    let path = format!("/v1/sandboxes/{id}/snapshot");
    let taken = daemon.post(&path, json!({"keep": true}));
    let snapshot = taken["id"].as_str().unwrap().to_owned();
    assert_eq!(daemon.call("DELETE", &format!("/v1/snapshots/{snapshot}"), &Value::Null).0, 204);
    let files = || std::fs::read_dir(directory.path().join("snapshots")).unwrap().count();
    wait_until("the end of the writing", || files() == 0);
    // And when the daemon is killed in the middle of it, the next one cleans up.
    daemon.post(&path, json!({"keep": true}));
    process.signal(libc::SIGKILL);
    drop(process);
    let process = Process::start(directory.path(), &[]);
    assert_eq!(process.daemon.get("/v1/snapshots")["snapshots"], json!([]));
    assert_eq!(files(), 0, "no half file is left");
}

#[test]
fn clones_are_made_ahead_and_get_the_pages_that_others_used() {
    let daemon = Daemon::start(limits());
    let first = daemon.spawn(small(1)).remove(0);
    daemon.work(&first, json!({"op": "dirty", "bytes": 400 * 4096, "seed": 1}));
    let path = format!("/v1/sandboxes/{first}");
    assert_eq!(daemon.call("DELETE", &path, &Value::Null).0, 204);
    let spawn = || daemon.post("/v1/sandboxes", small(1))["results"][0]["sandbox"].clone();
    wait_until("a dormant clone with the hot set", || {
        let sandbox = spawn();
        let id = sandbox["id"].as_str().unwrap();
        let private = daemon.get(&format!("/v1/sandboxes/{id}/memory"))["private_bytes"].clone();
        daemon.call("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null);
        sandbox["ladder"]["cell"] == "dormant" && private.as_u64().unwrap() >= 400 * 4096
    });
}

#[test]
fn limits_are_given_where_the_host_can_and_refused_where_it_can_not() {
    let daemon = Daemon::start(limits());
    let body = json!({"image": "workload", "memory_mib": 16, "limits": {"memory_mib": 64}});
    let (status, answer) = daemon.call("POST", "/v1/sandboxes", &body);
    assert_eq!(status, 201, "{answer}");
    match &answer["results"][0] {
        one if one["error"].is_object() => {
            assert_eq!(one["error"]["status"], 422, "{one}");
            assert_eq!(one["error"]["field"], "limits");
        }
        one => assert_eq!(one["sandbox"]["limits"]["memory_mib"], 64),
    }
    let wrong = json!({"image": "workload", "limits": {"cpus": 0}});
    assert_eq!(daemon.call("POST", "/v1/sandboxes", &wrong).0, 422);
    assert!(ids(&daemon.post("/v1/sandboxes", small(1))).len() == 1);
}
