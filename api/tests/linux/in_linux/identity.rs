//! Clones are other machines than their parent.

use std::collections::BTreeSet;
use std::time::SystemTime;

use tine_abi::agent::{AgentMessage, Request};
use tine_vmm::{Identity, Machine, SpawnOptions};

use super::common::{fork, fork_many, guest, host, sh, spawn, template};

#[test]
fn clones_differ_in_random_numbers_uuid_and_machine_id() {
    let snapshot = template(1);
    let parent = spawn(&snapshot);
    let mut clones = vec![spawn(&snapshot), spawn(&snapshot)];
    clones.extend(fork_many(&parent, 2));
    clones.push(fork(&parent));
    clones.push(parent);
    let commands = [
        "head -c 32 /dev/urandom | md5sum",
        "cat /proc/sys/kernel/random/uuid",
        "cat /etc/machine-id",
    ];
    for command in commands {
        let answers: BTreeSet<String> = clones.iter().map(|clone| sh(clone, command)).collect();
        assert_eq!(answers.len(), clones.len(), "{command}: {answers:?}");
    }
}

#[test]
fn a_clone_has_the_name_that_it_was_given() {
    let machine_id = "0123456789abcdef0123456789abcdef".to_owned();
    let identity =
        Identity { hostname: Some("prong".into()), machine_id: Some(machine_id.clone()) };
    let options = SpawnOptions { identity, ..SpawnOptions::new() };
    let clone = Machine::spawn(host(), &template(1), options).unwrap();
    assert_eq!(sh(&clone, "hostname"), "prong");
    assert_eq!(sh(&clone, "cat /etc/machine-id"), machine_id);
    let child = fork(&clone);
    assert_eq!(sh(&child, "hostname"), "prong", "it stays unless another is given");
    assert_ne!(sh(&child, "cat /etc/machine-id"), machine_id);
}

#[test]
fn the_generation_id_reseeds_the_kernel_by_itself() {
    let parent = guest();
    sh(&parent, "dmesg -c > /dev/null");
    let child = fork(&parent);
    super::common::wait_until(&child, "dmesg | grep -q 'virtual machine fork'");
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// How far the clock of `machine` is from the host's, seconds; none while the answer was on its
/// way.
fn clock_error(machine: &Machine) -> f64 {
    let before = seconds_now();
    sh(machine, "touch /tmp/now");
    let after = seconds_now();
    let path = "/tmp/now".to_owned();
    let mut agent = machine.agent(Request::Stat { path }).unwrap();
    let there = match agent.receive().unwrap() {
        Some(AgentMessage::Entries(entries)) => entries[0].modified_ns as f64 / 1e9,
        other => panic!("{other:?}"),
    };
    (before - there).max(there - after).max(0.0)
}

#[test]
fn the_wall_clock_is_right_after_a_snapshot_that_is_an_hour_old() {
    let parent = guest();
    // Its own clock says that the snapshot was taken an hour ago.
    sh(&parent, "date -s @$(( $(date +%s) - 3600 ))");
    assert!(clock_error(&parent) > 3000.0);
    let (snapshot, _) = parent.snapshot().unwrap();
    for clone in [spawn(&snapshot), fork(&parent)] {
        let error = clock_error(&clone);
        assert!(error < 0.5, "{error} s off");
    }
    let clone = spawn(&snapshot);
    sh(&clone, "date -s @0");
    clone.reset().unwrap();
    let error = clock_error(&clone);
    assert!(error < 0.5, "{error} s off after a reset");
}
