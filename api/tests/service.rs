//! What makes the daemon a service: fair turns, answers given again, records of what it held,
//! and an orderly end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::io::Read;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tine::server::Limits;

use common::{Daemon, Process, ids, limits, wait_for, wait_until};

/// The value of `name` in the daemon's metrics.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    let (_, _, text) = daemon.send("GET", "/metrics", "", b"");
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .rsplit_once(' ')
        .unwrap()
        .1
        .parse()
        .unwrap()
}

#[test]
fn a_flood_of_forks_is_refused_in_part_and_others_have_their_turns() {
    let daemon = Daemon::start(Limits { operations: 1, queue: 4, sandboxes: 200, ..limits() });
    let parents = daemon.spawn(json!({"image": "workload", "memory_mib": 64, "count": 2}));
    let fork = |id: &str, count: u32| {
        let body = serde_json::to_vec(&json!({"count": count, "memory": "eager"})).unwrap();
        let path = format!("/v1/sandboxes/{id}/fork");
        daemon.send("POST", &path, "application/json", &body)
    };
    std::thread::scope(|scope| {
        let flood: Vec<_> = (0..12).map(|_| scope.spawn(|| fork(&parents[0], 6))).collect();
        wait_until("a full queue", || metric(&daemon, "tine_queue_length") == 4.0);
        // The only turn is taken, the queue is full, and this one is served all the same.
        let (status, _, answer) = fork(&parents[1], 1);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
        let ended = flood.iter().filter(|one| one.is_finished()).count();
        assert!(ended < 12, "the flood is not over");
        let mut refused = 0;
        for (status, head, answer) in flood.into_iter().map(|one| one.join().unwrap()) {
            if status == 201 {
                continue;
            }
            let problem: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!((status, &problem["status"]), (429, &json!(429)), "{problem}");
            assert!(head.contains("application/problem+json"), "{head}");
            let after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
            assert!((1..=60).contains(&after.parse::<u64>().unwrap()), "{head}");
            refused += 1;
        }
        assert!((1..12).contains(&refused), "{refused} were refused");
        assert_eq!(metric(&daemon, "tine_queue_refused_total"), f64::from(refused));
    });
    assert_eq!(metric(&daemon, "tine_queue_length"), 0.0);
    assert!(metric(&daemon, "tine_queue_wait_seconds_count") >= 3.0);
}

#[test]
fn whoever_hangs_up_gives_its_place_back() {
    let daemon = Daemon::start(Limits { operations: 1, ..limits() });
    let parent = daemon.spawn(json!({"image": "workload", "memory_mib": 64})).remove(0);
    let path = format!("/v1/sandboxes/{parent}/fork");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let body = json!({"count": 30, "memory": "eager"});
            assert_eq!(ids(&daemon.post(&path, body)).len(), 30);
        });
        wait_until("a fork", || metric(&daemon, "tine_operations") == 1.0);
        let stream = daemon.open("", "POST", &path, "{\"count\":1}");
        wait_until("a queue", || metric(&daemon, "tine_queue_length") == 1.0);
        drop(stream);
        wait_until("no queue", || metric(&daemon, "tine_queue_length") == 0.0);
    });
    let left = daemon.get("/v1/sandboxes")["sandboxes"].as_array().unwrap().len();
    assert_eq!(left, 31, "what was given up was not made");
}

#[test]
fn the_same_key_makes_nothing_twice() {
    let daemon = Daemon::start(Limits { sandboxes: 31, ..limits() });
    let send = |key: &str, path: &str, body: &Value| {
        let (headers, body) = (format!("idempotency-key: {key}\r\n"), body.to_string());
        daemon.send_with(&headers, "POST", path, "application/json", body.as_bytes())
    };
    let exist = || daemon.get("/v1/sandboxes")["sandboxes"].as_array().unwrap().len();
    let replayed = |head: &str| head.contains("idempotent-replayed: true");
    let spawn = json!({"image": "workload", "memory_mib": 16});
    let first = send("a b", "/v1/sandboxes", &spawn);
    let again = send("a b", "/v1/sandboxes", &spawn);
    assert!(first.0 == 201 && !replayed(&first.1), "{}", first.1);
    assert!(again.0 == 201 && replayed(&again.1), "{}", again.1);
    assert!(again.1.contains("content-type: application/json"), "{}", again.1);
    assert_eq!((first.2.clone(), exist()), (again.2, 1));
    let parent = ids(&serde_json::from_slice(&first.2).unwrap()).remove(0);
    let fork = format!("/v1/sandboxes/{parent}/fork");

    for (path, body) in [("/v1/sandboxes", json!({"image": "workload"})), (&fork, spawn.clone())] {
        let (status, head, problem) = send("a b", path, &body);
        assert!(status == 422 && head.contains("application/problem+json"), "{head}");
        let problem: Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["field"], "Idempotency-Key");
    }
    assert_eq!(send("\u{e9}", &fork, &json!({})).0, 400);
    assert_eq!(send(&"x".repeat(256), &fork, &json!({})).0, 400);

    // All at once: one fork is made, and all hear of the same children.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let body = json!({"count": 10, "memory": "eager"});
        let all: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn({
                    let (fork, body) = (&fork, body.clone());
                    move || send("at once", fork, &body)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| (answer.0, &answer.2) == (201, &answers[0].2)));
    assert_eq!(answers.iter().filter(|answer| !replayed(&answer.1)).count(), 1);
    assert_eq!(exist(), 11);

    // Whoever hangs up finds the answer later.
    let body = json!({"count": 20, "memory": "eager"});
    let stream = daemon.open("idempotency-key: gone\r\n", "POST", &fork, &body.to_string());
    wait_until("an operation", || metric(&daemon, "tine_operations") == 1.0);
    drop(stream);
    wait_until("a fork", || exist() == 31);
    let (status, head, _) = send("gone", &fork, &body);
    assert!(status == 201 && replayed(&head), "{head}");

    // There is no room: that is not kept.
    assert_eq!(send("late", "/v1/sandboxes", &spawn).0, 503);
    assert_eq!(daemon.call("DELETE", &format!("/v1/sandboxes/{parent}"), &Value::Null).0, 204);
    let (status, head, _) = send("late", "/v1/sandboxes", &spawn);
    assert!(status == 201 && !replayed(&head), "{head}");
    // What a client did wrong is.
    assert_eq!(send("wrong", &fork, &json!({})).0, 404);
    let (status, head, _) = send("wrong", &fork, &json!({}));
    assert!(status == 404 && replayed(&head), "{head}");
    assert!(head.contains("application/problem+json"), "{head}");
}

/// Starts `tine serve`, which must fail. Returns what it said.
fn fails_to_start(directory: &Path, listen: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tine"))
        .args(["serve", "--listen", listen, "--state"])
        .arg(directory)
        .arg("--token-file")
        .arg(directory.join("token"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_daemon_tells_what_died_with_the_one_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path(), &[]);
    let spawn = json!({"image": "workload", "memory_mib": 16, "count": 3, "timeout_s": 900,
        "labels": {"team": "a"}});
    let mut made = first.daemon.spawn(spawn);
    let removed = format!("/v1/sandboxes/{}", made.remove(0));
    assert_eq!(first.daemon.call("DELETE", &removed, &Value::Null).0, 204);
    let child = first.daemon.fork(&made[0], 1).remove(0);
    made.push(child.clone());
    made.sort();

    // A second daemon does not get at the same records, and leaves no socket.
    let socket = directory.path().join("socket");
    let said = fails_to_start(directory.path(), &format!("unix:{}", socket.display()));
    assert!(said.contains("another daemon") && !socket.exists(), "{said}");

    // The writer needs a moment; then the daemon is killed without any.
    std::thread::sleep(Duration::from_secs(1));
    let parent = first.daemon.get(&format!("/v1/sandboxes/{child}"));
    drop(first);
    // One that can't serve eats nothing up.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fails_to_start(directory.path(), &taken.local_addr().unwrap().to_string());
    let log = directory.path().join("audit");
    let mut next = Process::start(directory.path(), &["--audit-log", log.to_str().unwrap()]);
    let lost = next.daemon.get("/v1/sandboxes/lost");
    assert_eq!(lost["lost"].as_array().unwrap().len(), 3, "{lost}");
    for (record, id) in lost["lost"].as_array().unwrap().iter().zip(&made) {
        assert_eq!(&record["id"], id);
        if *id == child {
            for field in ["image", "parent", "created_at", "memory_mib", "vcpus"] {
                assert_eq!(record[field], parent[field], "{field}");
            }
        } else {
            assert_eq!(record["labels"], json!({"team": "a"}));
            assert!(record["expires_at"].is_string());
        }
    }
    let audit = std::fs::read_to_string(&log).unwrap();
    assert_eq!(audit.matches("\"event\":\"lost\"").count(), 3, "{audit}");
    // One that stops in order leaves nothing.
    next.daemon.spawn(json!({"image": "workload", "memory_mib": 16}));
    next.signal(libc::SIGTERM);
    wait_for(&mut next.log, "stopped; killed");
    assert!(next.child.wait().unwrap().success());
    let last = Process::start(directory.path(), &[]);
    assert_eq!(last.daemon.get("/v1/sandboxes/lost"), json!({"lost": []}));
    assert_eq!(last.daemon.get("/v1/sandboxes"), json!({"sandboxes": []}));
}

#[test]
fn memory_is_admitted_up_to_the_operators_ratio() {
    let daemon = Daemon::start(Limits { ram_bytes: 64 << 20, overcommit: 4.0, ..limits() });
    let spawn = |count: u32, memory: &str| {
        let body = json!({"image": "workload", "memory_mib": 16, "count": count, "memory": memory});
        daemon.call("POST", "/v1/sandboxes", &body)
    };
    assert_eq!(spawn(5, "eager").0, 503);
    let (status, problem) = spawn(17, "cow");
    assert_eq!(status, 503);
    assert!(
        problem["detail"].as_str().unwrap().contains("64 MiB allowed: 0 are in use"),
        "{problem}"
    );
    assert_eq!(spawn(8, "cow").0, 201, "32 MiB");
    assert_eq!(spawn(2, "eager").0, 201, "32 more");
    assert_eq!(spawn(1, "cow").0, 503);
    let sandboxes = daemon.get("/v1/sandboxes")["sandboxes"].clone();
    let eager = sandboxes.as_array().unwrap().iter().find(|one| one["memory"] == "eager").unwrap();
    let eager = eager["id"].as_str().unwrap();
    let fork = format!("/v1/sandboxes/{eager}/fork");
    assert_eq!(daemon.call("POST", &fork, &json!({})).0, 503);
    let clone = sandboxes[0]["id"].as_str().unwrap();
    assert_eq!(daemon.call("DELETE", &format!("/v1/sandboxes/{clone}"), &Value::Null).0, 204);
    assert_eq!(daemon.call("POST", &fork, &json!({"memory": "eager"})).0, 503);
    assert_eq!(daemon.call("POST", &fork, &json!({})).0, 201, "there is room for one that shares");
    assert_eq!(metric(&daemon, "tine_sandboxes"), 10.0);
}

#[test]
fn the_audit_log_tells_who_did_what_and_no_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit");
    let mut daemon = Daemon::start_with(|options| options.audit_log = Some(log.clone()));
    let spawn = json!({"image": "workload", "memory_mib": 16, "labels": {"x": "label-secret"}});
    let (status, head, answer) = daemon.send_with(
        "x-request-id: mine-1\r\nidempotency-key: k\r\n",
        "POST",
        "/v1/sandboxes",
        "application/json",
        spawn.to_string().as_bytes(),
    );
    assert!(status == 201 && head.contains("x-request-id: mine-1"), "{head}");
    let parent = ids(&serde_json::from_slice(&answer).unwrap()).remove(0);
    let path = |rest: &str| format!("/v1/sandboxes/{parent}{rest}");
    let children = daemon.fork(&parent, 2);
    for verb in ["/pause", "/resume", "/snapshot", "/reset"] {
        daemon.post(&path(verb), Value::Null);
    }
    daemon.get(&path(""));
    let exec = json!({"argv": ["/bin/run", "argument-secret"], "stdin": "input-secret"});
    assert_eq!(daemon.call("POST", &path("/exec"), &exec).0, 409);
    assert_eq!(daemon.call("GET", &path("/files?path=/a"), &Value::Null).0, 409);
    assert_eq!(daemon.send("PUT", &path("/files?path=/a"), "", b"content-secret").0, 409);
    let refused = "GET /v1/sandboxes HTTP/1.1\r\nhost: tine\r\nconnection: close\r\n\
                   authorization: Bearer token-secret\r\n\r\n";
    let (status, head, _) = daemon.raw(refused, b"");
    assert!(status == 401 && head.contains("x-request-id: "), "{head}");
    let many = json!({"image": "workload", "memory_mib": 16, "count": 100});
    assert_eq!(daemon.call("POST", "/v1/sandboxes", &many).0, 503);
    daemon.post("/v1/sandboxes", json!({"image": "workload", "memory_mib": 16, "timeout_s": 1}));
    wait_until("a timeout", || std::fs::read_to_string(&log).unwrap().contains("\"expire\""));
    assert_eq!(daemon.call("DELETE", &path(""), &Value::Null).0, 204);
    assert_eq!(daemon.stop().killed.len(), 2);

    let text = std::fs::read_to_string(log).unwrap();
    assert!(!text.contains("secret") && !text.contains(&daemon.token), "{text}");
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = entries.iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        [
            "start",
            "spawn",
            "fork",
            "pause",
            "resume",
            "snapshot",
            "reset",
            "exec",
            "file_read",
            "file_write",
            "refused",
            "refused",
            "spawn",
            "expire",
            "kill",
            "stop"
        ]
    );
    let [_, spawn, fork, pause, ..] = &entries[..] else { panic!() };
    assert_eq!((&spawn["request"], &spawn["outcome"]), (&json!("mine-1"), &json!(201)));
    assert_eq!((&spawn["sandboxes"], &spawn["count"]), (&json!([parent]), &json!(1)));
    assert!(spawn["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{spawn}");
    assert!(spawn["duration_us"].as_u64().unwrap() > 100, "{spawn}");
    assert_eq!((&fork["parent"], &fork["sandboxes"]), (&json!(parent), &json!(children)));
    assert_eq!(pause["sandbox"], json!(parent));
    assert_eq!((&entries[7]["program"], &entries[7]["outcome"]), (&json!("/bin/run"), &json!(409)));
    assert_eq!((&entries[10]["outcome"], &entries[11]["outcome"]), (&json!(401), &json!(503)));
    assert_eq!(entries[15]["count"], json!(2));
}

/// The answer of /healthz.
fn health(daemon: &Daemon) -> (u16, String) {
    let head = "GET /healthz HTTP/1.1\r\nhost: tine\r\nconnection: close\r\n\r\n";
    let (status, _, body) = daemon.raw(head, b"");
    (status, String::from_utf8(body).unwrap())
}

/// Has the guest of a new sandbox work for `millis`, and waits until it does. The answer's status
/// is that of the thread.
fn work(daemon: &Daemon, millis: u64) -> (String, JoinHandle<u16>) {
    let id = daemon.spawn(json!({"image": "workload", "memory_mib": 16})).remove(0);
    let body = json!({"op": "spin", "millis": millis}).to_string();
    let mut stream = daemon.open(
        "connection: close\r\n",
        "POST",
        &format!("/v1/sandboxes/{id}/workload"),
        &body,
    );
    let path = format!("/v1/sandboxes/{id}");
    wait_until("work", || daemon.get(&path)["busy"] == json!(true));
    let answer = std::thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    });
    (id, answer)
}

#[test]
fn a_stop_lets_what_is_under_way_finish() {
    let mut daemon = Daemon::start_with(|options| options.drain = Duration::from_secs(15));
    assert_eq!(health(&daemon), (200, "ok\n".to_owned()));
    let (id, working) = work(&daemon, 2000);
    // A console that is followed is not waited for.
    let _follower = daemon.open("", "GET", &format!("/v1/sandboxes/{id}/console?follow=true"), "");
    let begun = Instant::now();
    daemon.stop.take().unwrap().send(()).unwrap();
    wait_until("the drain", || health(&daemon).0 == 503);
    assert_eq!(health(&daemon).1, "{\"status\":\"draining\"}");
    for path in ["/v1/sandboxes", &format!("/v1/sandboxes/{id}/fork")] {
        let body = if path.ends_with("fork") { "{}" } else { "{\"image\":\"workload\"}" };
        let (status, head, _) = daemon.send("POST", path, "application/json", body.as_bytes());
        assert!(status == 503 && head.contains("retry-after: 16"), "{head}");
    }
    assert_eq!(daemon.get(&format!("/v1/sandboxes/{id}"))["state"], "running", "others are served");
    assert_eq!(working.join().unwrap(), 200, "it was finished");
    let report = daemon.thread.take().unwrap().join().unwrap();
    assert_eq!(report.killed, [id]);
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing is waited for in vain");
}

#[test]
fn a_stop_waits_no_longer_than_it_may_and_a_second_signal_cuts_it_short() {
    let mut daemon = Daemon::start_with(|options| options.drain = Duration::from_secs(1));
    let (id, working) = work(&daemon, 60_000);
    let begun = Instant::now();
    assert_eq!(daemon.stop().killed, [id]);
    assert_eq!(working.join().unwrap(), 409, "it is told that its sandbox was killed");
    assert!((1..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());

    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path(), &["--drain", "60"]);
    let (id, working) = work(&process.daemon, 60_000);
    process.signal(libc::SIGTERM);
    wait_until("the drain", || health(&process.daemon).0 == 503);
    let begun = Instant::now();
    process.signal(libc::SIGINT);
    let stopped = wait_for(&mut process.log, "stopped; killed");
    assert_eq!(stopped["fields"]["ids"], json!(id));
    assert!(process.child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // It may have its answer, or a closed connection.
    drop(working);
    let next = Process::start(directory.path(), &[]);
    assert_eq!(next.daemon.get("/v1/sandboxes/lost"), json!({"lost": []}));
}

#[test]
fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let heard = || {
        let mut text = [0; 100];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let process = Process::start_with(directory.path(), &[], |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(heard(), "READY=1");
    process.signal(libc::SIGTERM);
    assert_eq!(heard(), "STOPPING=1");
}
