//! The API over real HTTP, with real guests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tine::server::{Limits, Listen, ServeOptions, Server, StopReport};

use common::{Daemon, cells, limits};

#[test]
fn checksums_tell_the_story_of_isolation() {
    let daemon = Daemon::start(limits());
    let parent = daemon.spawn(json!({"image": "workload", "memory_mib": 64})).remove(0);
    daemon.work(&parent, json!({"op": "dirty", "bytes": 8 << 20, "seed": 1}));
    let mut family = daemon.fork(&parent, 3);
    family.extend(daemon.fork(&parent, 1));
    family.push(parent);
    let first = daemon.checksum(&family[0]);
    assert!(family.iter().all(|id| daemon.checksum(id) == first), "all begin alike");
    let mut seen = std::collections::BTreeSet::from([first.clone()]);
    for (index, id) in family.iter().enumerate() {
        daemon.work(
            id,
            json!({"op": "dirty", "fraction": 0.1, "scattered": true, "seed": 100 + index}),
        );
        assert!(seen.insert(daemon.checksum(id)), "{id} has memory of its own");
        for untouched in &family[index + 1..] {
            assert_eq!(daemon.checksum(untouched), first, "nobody else sees it");
        }
    }
}

#[test]
fn every_route_does_what_it_says() {
    let mut daemon = Daemon::start(limits());
    let spawn = json!({"image": "workload", "memory_mib": 16, "vcpus": 2, "count": 2,
        "labels": {"team": "a"}, "timeout_s": 600});
    let answer = daemon.post("/v1/sandboxes", spawn);
    let sandbox = &answer["results"][0]["sandbox"];
    let id = sandbox["id"].as_str().unwrap();
    assert!(id.len() == 20 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    assert_eq!(
        (&sandbox["state"], &sandbox["vcpus"], &sandbox["memory_mib"]),
        (&json!("running"), &json!(2), &json!(16))
    );
    for step in
        ["queue", "shell", "memslot", "map", "restore", "first_run", "first_instruction", "total"]
    {
        assert!(sandbox["ladder"][step].is_number(), "{step} in {}", sandbox["ladder"]);
    }
    let path = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    assert_eq!(daemon.get(&path(""))["id"], json!(id));
    assert_eq!(daemon.get("/v1/sandboxes?label=team=a")["sandboxes"].as_array().unwrap().len(), 2);
    for others in ["label=team=b", "label=team=a&label=job=x", "label=team="] {
        let path = format!("/v1/sandboxes?{others}");
        assert_eq!(daemon.get(&path)["sandboxes"], json!([]), "{others}");
    }
    let path_of_both = "/v1/sandboxes?label=team=a&label=team=a";
    assert_eq!(daemon.get(path_of_both)["sandboxes"].as_array().unwrap().len(), 2);

    assert_eq!(daemon.post(&path("/pause"), Value::Null)["state"], "paused");
    assert_eq!(daemon.call("POST", &path("/workload"), &json!({"op": "say"})).0, 409);
    assert_eq!(daemon.post(&path("/resume"), Value::Null)["state"], "running");
    daemon.work(id, json!({"op": "say"}));
    let (status, _, console) = daemon.send("GET", &path("/console"), "", b"");
    assert!(status == 200 && console.starts_with(b"heartbeat "), "{console:?}");

    let before = daemon.checksum(id);
    let done = daemon.work(id, json!({"op": "dirty", "bytes": 4 << 20, "stride": 8, "vcpu": 1}));
    assert_eq!((&done["done"], &done["bytes"]), (&json!(1024), &json!(4 << 20)));
    assert!(done["guest_us"].as_f64().unwrap() > 0.0);
    let memory = daemon.get(&path("/memory"));
    assert!(memory["private_bytes"].as_u64().unwrap() >= 4 << 20, "{memory}");
    assert!(memory["kvm"]["exits"].as_u64().unwrap() > 0);
    let snapshot = daemon.post(&path("/snapshot"), json!({"name": "dirty", "hot_set": true}));
    assert!(snapshot["delta_bytes"].as_u64().unwrap() >= 4 << 20);
    let dirty = daemon.checksum(id);
    daemon.post(&path("/reset"), Value::Null);
    assert_eq!(daemon.checksum(id), before);
    assert_eq!(daemon.get("/v1/snapshots/dirty")["id"], snapshot["id"]);
    let clone =
        daemon.spawn(json!({"snapshot": "dirty", "hot_set": true, "memory": "eager"})).remove(0);
    assert_eq!(daemon.checksum(&clone), dirty);
    assert_eq!(daemon.get(&format!("/v1/sandboxes/{clone}"))["snapshot"], snapshot["id"]);
    assert_eq!(daemon.call("POST", &path("/snapshot"), &json!({"name": "dirty"})).0, 409);
    assert_eq!(daemon.call("DELETE", "/v1/snapshots/dirty", &Value::Null).0, 204);
    assert_eq!(daemon.get("/v1/snapshots")["snapshots"], json!([]));
    assert_eq!(daemon.checksum(&clone), dirty, "a sandbox outlives its snapshot");

    let child = daemon.fork(id, 1).remove(0);
    let described = daemon.get(&format!("/v1/sandboxes/{child}"));
    assert_eq!(described["parent"], json!(id));
    assert!(described["ladder"]["parent_pause"].is_number());
    assert_eq!(daemon.call("POST", &format!("/v1/sandboxes/{child}/reset"), &Value::Null).0, 409);

    let (status, _, metrics) = daemon.send("GET", "/metrics", "", b"");
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(status == 200 && metrics.contains("tine_sandboxes 4\n"), "{metrics}");
    assert!(metrics.contains("tine_sandboxes_made_total{by=\"spawn\"} 3\n"), "{metrics}");
    for (way, count) in [
        ("by=\"spawn\",memory=\"cow\"", 2),
        ("by=\"spawn\",memory=\"eager\"", 1),
        ("by=\"fork\",memory=\"cow\"", 1),
    ] {
        for times in ["first_instruction", "guest_entry"] {
            let line = format!("tine_{times}_seconds_count{{{way}}} {count}\n");
            assert!(metrics.contains(&line), "no {line} in {metrics}");
        }
    }
    assert!(metrics.contains("tine_parent_pause_seconds_count 2\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("tine_") && value.parse::<f64>().is_ok(), "{line}");
    }

    for sandbox in daemon.get("/v1/sandboxes")["sandboxes"].as_array().unwrap() {
        let path = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
        assert_eq!(daemon.call("DELETE", &path, &Value::Null).0, 204);
        assert_eq!(daemon.call("DELETE", &path, &Value::Null).0, 404);
        assert_eq!(daemon.call("POST", &format!("{path}/fork"), &json!({})).0, 404);
    }
    assert_eq!(daemon.get("/v1/sandboxes")["sandboxes"], json!([]));
    let last = daemon.spawn(json!({"image": "workload", "memory_mib": 16}));
    assert_eq!(daemon.stop().killed, last, "the stop says what still ran");
}

#[test]
fn the_embedded_workload_has_no_programs_and_no_files() {
    let daemon = Daemon::start(limits());
    let id = daemon.spawn(json!({"image": "workload", "memory_mib": 16})).remove(0);
    let path = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    let exec = json!({"argv": ["true"]});
    for (method, rest, body) in [
        ("POST", "/exec", exec.clone()),
        ("GET", "/files?path=/a", Value::Null),
        ("GET", "/files?path=/a&list=true", Value::Null),
        ("GET", "/files?path=/a&stat=true", Value::Null),
        ("DELETE", "/files?path=/a&recursive=true", Value::Null),
        ("POST", "/files/rename", json!({"from": "/a", "to": "/b"})),
        ("POST", "/files/mkdir", json!({"path": "/a"})),
    ] {
        let (status, problem) = daemon.call(method, &path(rest), &body);
        assert_eq!(status, 409, "{method} {rest}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("no agent"), "{problem}");
        let elsewhere = format!("/v1/sandboxes/aaaaaaaaaaaaaaaaaaaa{rest}");
        assert_eq!(daemon.call(method, &elsewhere, &body).0, 404, "{method} {rest}");
    }
    let long = vec![0; 100 * limits().body_bytes];
    let write = daemon.send("PUT", &path("/files?path=/a&mode=644"), "", &long);
    assert_eq!(write.0, 409, "an upload has no limit");

    for (method, rest, body, field) in [
        ("POST", "/exec", json!({"argv": []}), "argv"),
        ("POST", "/exec", json!({"argv": ["a"], "interactive": true}), "interactive"),
        ("GET", "/files?path=a", Value::Null, "path"),
        ("GET", "/files?path=/a%00", Value::Null, "path"),
        ("GET", "/files?path=/a&list=true&stat=true", Value::Null, "stat"),
        ("PUT", "/files?path=/a&mode=9", Value::Null, "mode"),
        ("DELETE", "/files?path=", Value::Null, "path"),
        ("POST", "/files/rename", json!({"from": "/a", "to": "b"}), "to"),
        ("POST", "/files/mkdir", json!({"path": "../a"}), "path"),
    ] {
        let (status, problem) = daemon.call(method, &path(rest), &body);
        assert_eq!((status, &problem["field"]), (422, &json!(field)), "{method} {rest}: {problem}");
    }

    let upgrade = "connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let open = |token: &str, upgrade: &str| {
        let path = path("/exec");
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: tine\r\nauthorization: Bearer {token}\r\n{upgrade}\r\n"
        );
        daemon.raw(&head, b"")
    };
    assert_eq!(open("wrong", upgrade).0, 401);
    let (status, head, _) = open(&daemon.token, "connection: close\r\n");
    assert!(status == 400 && head.contains("application/problem+json"), "{head}");
    let (status, head, _) = open(&daemon.token, upgrade);
    assert!(status == 409 && head.contains("application/problem+json"), "{head}");

    let typed = daemon.send("POST", &path("/console"), "application/octet-stream", b"ab");
    assert_eq!((typed.0, typed.2.as_slice()), (200, br#"{"bytes":2}"#.as_slice()));
    let long = vec![b'x'; limits().body_bytes + 1];
    assert_eq!(daemon.send("POST", &path("/console"), "", &long).0, 413);
}

#[test]
fn what_is_open_is_open_and_the_rest_needs_the_token() {
    let daemon = Daemon::start(limits());
    let without = |path: &str, header: &str| {
        daemon.raw(
            &format!("GET {path} HTTP/1.1\r\nhost: tine\r\nconnection: close\r\n{header}\r\n"),
            b"",
        )
    };
    for path in ["/healthz", "/openapi.json", "/"] {
        assert_eq!(without(path, "").0, 200, "{path}");
    }
    let almost = format!("authorization: Bearer {}x\r\n", daemon.token);
    for header in ["", "authorization: Bearer wrong\r\n", "authorization: Basic abc\r\n", &almost] {
        for path in ["/v1/sandboxes", "/v1/snapshots", "/metrics", "/nowhere"] {
            let (status, head, _) = without(path, header);
            assert_eq!(status, 401, "{path} with {header:?}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
        }
    }
    let (_, _, text) = without("/openapi.json", "");
    let description: Value = serde_json::from_slice(&text).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = description["paths"].as_object().unwrap();
    let described: Vec<String> = paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let mut expected = [
        "get /healthz",
        "get /metrics",
        "get /v1/sandboxes",
        "post /v1/sandboxes",
        "get /v1/sandboxes/lost",
        "get /v1/sandboxes/{id}",
        "delete /v1/sandboxes/{id}",
        "get /v1/sandboxes/{id}/console",
        "post /v1/sandboxes/{id}/console",
        "get /v1/sandboxes/{id}/exec",
        "post /v1/sandboxes/{id}/exec",
        "get /v1/sandboxes/{id}/files",
        "put /v1/sandboxes/{id}/files",
        "delete /v1/sandboxes/{id}/files",
        "post /v1/sandboxes/{id}/files/mkdir",
        "post /v1/sandboxes/{id}/files/rename",
        "post /v1/sandboxes/{id}/fork",
        "get /v1/sandboxes/{id}/memory",
        "post /v1/sandboxes/{id}/pause",
        "post /v1/sandboxes/{id}/reset",
        "post /v1/sandboxes/{id}/resume",
        "post /v1/sandboxes/{id}/snapshot",
        "post /v1/sandboxes/{id}/workload",
        "get /v1/snapshots",
        "get /v1/snapshots/{id}",
        "delete /v1/snapshots/{id}",
    ];
    let mut described: Vec<&str> = described.iter().map(String::as_str).collect();
    described.sort_unstable();
    expected.sort_unstable();
    assert_eq!(described, expected);
    for reference in references(&description) {
        let pointer = reference.trim_start_matches('#');
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let (_, head, _) = without("/", "");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
}

/// Every `$ref` in `value`.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => vec![],
    }
}

#[test]
fn bad_input_gets_the_right_status_and_loses_nothing() {
    let daemon = Daemon::start(limits());
    let id = daemon.spawn(json!({"image": "workload", "memory_mib": 16})).remove(0);
    let before = daemon.checksum(&id);
    let path = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    let sandboxes = "/v1/sandboxes";
    let gone = "/v1/sandboxes/aaaaaaaaaaaaaaaaaaaa";
    let cases = [
        ("GET", gone.to_owned(), Value::Null, 404, ""),
        ("DELETE", gone.to_owned(), Value::Null, 404, ""),
        ("POST", format!("{gone}/fork"), json!({"count": 1}), 404, ""),
        ("GET", "/v1/snapshots/none".to_owned(), Value::Null, 404, ""),
        ("GET", "/v1/nothing".to_owned(), Value::Null, 404, ""),
        ("PUT", sandboxes.to_owned(), Value::Null, 405, ""),
        ("POST", "/healthz".to_owned(), Value::Null, 405, ""),
        ("DELETE", "/".to_owned(), Value::Null, 405, ""),
        ("GET", format!("{sandboxes}?colour=red"), Value::Null, 400, "colour"),
        ("GET", format!("{sandboxes}?label=x"), Value::Null, 422, "label"),
        ("POST", sandboxes.to_owned(), json!({}), 422, "image"),
        ("POST", sandboxes.to_owned(), json!({"image": "windows"}), 404, "image"),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "snapshot": "x"}),
            422,
            "snapshot",
        ),
        ("POST", sandboxes.to_owned(), json!({"snapshot": "none"}), 404, ""),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": 0}),
            422,
            "memory_mib",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": 1}),
            422,
            "memory_mib",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": 1u64 << 40}),
            422,
            "memory_mib",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": u64::MAX}),
            422,
            "memory_mib",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": -5}),
            400,
            "memory_mib",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": "big"}),
            400,
            "memory_mib",
        ),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "vcpus": 0}), 422, "vcpus"),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "vcpus": 100}), 422, "vcpus"),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "vcpus": 1000}), 400, "vcpus"),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "count": 0}), 422, "count"),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "count": 1001}), 422, "count"),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory_mib": 16, "count": 40}),
            503,
            "",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "timeout_s": 0}),
            422,
            "timeout_s",
        ),
        ("POST", sandboxes.to_owned(), json!({"image": "workload", "color": 1}), 400, "color"),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "memory": "magic"}),
            400,
            "memory",
        ),
        (
            "POST",
            sandboxes.to_owned(),
            json!({"image": "workload", "labels": {"": "x"}}),
            422,
            "labels",
        ),
        ("POST", sandboxes.to_owned(), json!([1, 2]), 400, ""),
        ("POST", path("/fork"), json!({"count": 0}), 422, "count"),
        ("POST", path("/snapshot"), json!({"name": "a/b"}), 422, "name"),
        ("POST", path("/snapshot"), json!({"name": ".."}), 422, "name"),
        ("POST", path("/workload"), json!({}), 400, ""),
        ("POST", path("/workload"), json!({"op": "format"}), 400, "op"),
        ("POST", path("/workload"), json!({"op": "dirty", "bytes": 1u64 << 50}), 422, "bytes"),
        ("POST", path("/workload"), json!({"op": "dirty", "bytes": 0}), 422, "bytes"),
        ("POST", path("/workload"), json!({"op": "dirty", "offset": 1}), 422, "offset"),
        ("POST", path("/workload"), json!({"op": "dirty", "fraction": 1.5}), 422, "fraction"),
        (
            "POST",
            path("/workload"),
            json!({"op": "dirty", "stride": 2, "scattered": true}),
            422,
            "stride",
        ),
        ("POST", path("/workload"), json!({"op": "spin", "millis": u64::MAX}), 422, "millis"),
        ("POST", path("/workload"), json!({"op": "read", "vcpu": 3}), 422, "vcpu"),
    ];
    for (method, path, body, expected, field) in cases {
        let (status, problem) = daemon.call(method, &path, &body);
        assert_eq!(status, expected, "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"], json!(expected), "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        if !field.is_empty() {
            assert_eq!(problem["field"], json!(field), "{method} {path} {body}: {problem}");
        }
    }
    for body in [
        "{",
        "{\"image\":\"workload\"} x",
        "\u{0}",
        "{\"image\":\"workload\",\"memory_mib\":1e400}",
    ] {
        let (status, _, _) = daemon.send("POST", sandboxes, "application/json", body.as_bytes());
        assert_eq!(status, 400, "{body:?}");
    }
    let (status, _, _) = daemon.send("POST", sandboxes, "text/plain", b"{\"image\":\"workload\"}");
    assert_eq!(status, 415);
    let (status, _, _) = daemon.send("POST", sandboxes, "application/json", &vec![b' '; 5000]);
    assert_eq!(status, 413);
    assert_eq!(daemon.checksum(&id), before);
    let left = daemon.get(sandboxes);
    assert_eq!(left["sandboxes"].as_array().unwrap().len(), 1, "nothing half-made is left: {left}");
}

#[test]
fn guests_at_work_keep_nobody_from_anything_else() {
    let mut daemon = Daemon::start(Limits { operations: 1, ..limits() });
    let (stop, thread) = (daemon.stop.take().unwrap(), daemon.thread.take().unwrap());
    let ids = daemon.spawn(json!({"image": "workload", "memory_mib": 16, "count": 2}));
    let spin = |id: &str, status: u16| {
        let path = format!("/v1/sandboxes/{id}/workload");
        let begun = Instant::now();
        let answer = daemon.call("POST", &path, &json!({"op": "spin", "millis": 60_000}));
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(begun.elapsed() < Duration::from_secs(30), "it ended with the sandbox");
    };
    let wait_busy = |id: &str| {
        let begun = Instant::now();
        while daemon.get(&format!("/v1/sandboxes/{id}"))["busy"] != json!(true) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{id} never began");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let path = |rest: &str| format!("/v1/sandboxes/{}{rest}", ids[0]);
    std::thread::scope(|scope| {
        // There is one turn for guests at work, and this takes it.
        scope.spawn(|| spin(&ids[0], 409));
        wait_busy(&ids[0]);
        daemon.get(&path("/memory"));
        assert_eq!(daemon.post(&path("/pause"), Value::Null)["state"], "paused");
        assert_eq!(daemon.post(&path("/resume"), Value::Null)["state"], "running");
        let child = daemon.fork(&ids[0], 1).remove(0);
        let child_path = format!("/v1/sandboxes/{child}");
        assert_eq!(daemon.get(&child_path)["busy"], json!(true), "it goes on in the child");
        assert_eq!(daemon.call("DELETE", &child_path, &Value::Null).0, 204);
        assert_eq!(daemon.call("DELETE", &path(""), &Value::Null).0, 204);
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| spin(&ids[1], 409));
        wait_busy(&ids[1]);
        stop.send(()).unwrap();
    });
    let report = thread.join().unwrap();
    assert_eq!(report.killed, ids[1..], "a stop ends guests at work too");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn shapes_that_clients_choose_do_not_pile_up() {
    let daemon = Daemon::start(limits());
    let before = descriptors("memfd:tine-image");
    for mib in 8..88 {
        let id = daemon.spawn(json!({"image": "workload", "memory_mib": mib})).remove(0);
        assert_eq!(daemon.call("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null).0, 204);
    }
    // Other tests of this process may hold some of their own.
    let kept = descriptors("memfd:tine-image").saturating_sub(before);
    assert!(kept < 60, "{kept} images are kept");
    let id = daemon.spawn(json!({"image": "workload", "memory_mib": 8})).remove(0);
    assert_eq!(daemon.checksum(&id).len(), 16, "what went boots again");
}

/// How many open descriptors of this process are of a kind.
fn descriptors(kind: &str) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().contains(kind))
        .count()
}

#[test]
fn sandboxes_end_at_their_timeout_and_consoles_with_them() {
    let daemon = Daemon::start(limits());
    let id = daemon.spawn(json!({"image": "workload", "memory_mib": 16, "timeout_s": 1})).remove(0);
    daemon.work(&id, json!({"op": "say"}));
    let begun = Instant::now();
    let (status, _, console) =
        daemon.send("GET", &format!("/v1/sandboxes/{id}/console?follow=true"), "", b"");
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&console).contains("heartbeat "));
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(daemon.get("/v1/sandboxes")["sandboxes"], json!([]));
}

#[test]
fn many_clients_fork_one_parent_at_once() {
    let daemon = Daemon::start(limits());
    let parent = daemon.spawn(json!({"image": "workload", "memory_mib": 16})).remove(0);
    daemon.work(&parent, json!({"op": "dirty", "bytes": 1 << 20, "seed": 4}));
    let expected = daemon.checksum(&parent);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (daemon, parent, expected) = (&daemon, &parent, &expected);
            scope.spawn(move || {
                for id in daemon.fork(parent, 1 + client % 3) {
                    assert_eq!(&daemon.checksum(&id), expected);
                    assert_eq!(
                        daemon.call("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null).0,
                        204
                    );
                }
            });
        }
    });
    assert_eq!(daemon.checksum(&parent), expected);
    assert_eq!(daemon.get("/v1/sandboxes")["sandboxes"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_goes_and_the_world_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("tine.sock");
    let mut options = ServeOptions::new(Listen::Unix(path.clone()), directory.path().join("token"));
    options.cells = Some(cells());
    let server = Server::bind(&options).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async {
        stopped.await.unwrap();
    }));
    let answer = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        }
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    stop.send(()).unwrap();
    assert_eq!(running.await.unwrap().unwrap(), StopReport { killed: vec![] });
    assert!(!path.exists());
    options.listen = Listen::Tcp("0.0.0.0:0".parse().unwrap());
    let refused = Server::bind(&options).await.err().unwrap();
    assert!(refused.to_string().contains("--allow-remote"), "{refused}");
}
