//! What makes the daemon a service: fair turns, answers given again, records of what it held,
//! and an orderly end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tine::server::Limits;

use common::{Daemon, ids, limits};

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

/// Waits until `done`.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} never happens");
        std::thread::sleep(Duration::from_millis(5));
    }
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
        let stream = daemon.open("POST", &path, "{\"count\":1}");
        wait_until("a queue", || metric(&daemon, "tine_queue_length") == 1.0);
        drop(stream);
        wait_until("no queue", || metric(&daemon, "tine_queue_length") == 0.0);
    });
    let left = daemon.get("/v1/sandboxes")["sandboxes"].as_array().unwrap().len();
    assert_eq!(left, 31, "what was given up was not made");
}
