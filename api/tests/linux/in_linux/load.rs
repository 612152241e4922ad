//! Forks of a guest that is hard at work.

use std::time::Instant;

use tine_abi::agent::{AgentMessage, HostMessage};
use tine_vmm::Machine;

use super::common::{PATIENCE, background, finish, fork, sh, spawn, start, template, wait_until};

#[test]
fn a_guest_that_computes_on_four_vcpus_is_forked() {
    let parent = spawn(&template(4));
    assert_eq!(sh(&parent, "nproc"), "4");
    for worker in 0..4 {
        let work = "n=0; while :; do n=$((n+1)); echo $n > /tmp/worker";
        background(&parent, &format!("{work}-{worker}; done"));
    }
    wait_until(&parent, "[ $(ls /tmp/worker-* | wc -l) = 4 ]");
    let child = fork(&parent);
    // One at a time: an emulated host has two slow cores for all their vCPUs.
    parent.pause().unwrap();
    let grandchild = fork(&child);
    child.pause().unwrap();
    goes_on(&grandchild);
    drop(grandchild);
    child.resume().unwrap();
    goes_on(&child);
    drop(child);
    parent.resume().unwrap();
    goes_on(&parent);
}

/// Each of the four workers counts on.
fn goes_on(machine: &Machine) {
    for worker in 0..4 {
        let count = format!("0$(cat /tmp/worker-{worker})");
        let seen = sh(machine, &format!("echo {count}"));
        wait_until(machine, &format!("[ {count} -gt {seen} ]"));
    }
}

#[test]
fn a_guest_that_reads_its_disk_is_forked() {
    let parent = spawn(&template(1));
    let sum = "md5sum < /dev/vda";
    let expected = sh(&parent, sum);
    background(
        &parent,
        "while :; do echo 1 > /proc/sys/vm/drop_caches; md5sum < /dev/vda > /tmp/sum.new; \
         mv /tmp/sum.new /tmp/sum; echo x >> /tmp/rounds; done",
    );
    wait_until(&parent, "[ -s /tmp/rounds ]");
    let mut family = Vec::new();
    for _ in 0..3 {
        family.push(fork(&parent));
    }
    family.push(parent);
    for machine in &family {
        let seen = sh(machine, "wc -l < /tmp/rounds");
        wait_until(machine, &format!("[ $(wc -l < /tmp/rounds) -gt $(( {seen} + 1 )) ]"));
        assert_eq!(sh(machine, "cat /tmp/sum"), expected);
    }
}

#[test]
fn a_guest_that_talks_over_vsock_is_forked() {
    let parent = spawn(&template(1));
    // Both ways at once, while it is forked.
    let mut echo = start(&parent, "cat");
    let (mut sent, mut heard) = (0u64, 0u64);
    let mut children = Vec::new();
    for round in 0..30u8 {
        let data = vec![round; 20_000];
        sent += data.len() as u64;
        echo.send(&HostMessage::Data(data)).unwrap();
        if round % 10 == 5 {
            children.push(fork(&parent));
        }
    }
    echo.send(&HostMessage::End).unwrap();
    loop {
        match echo.receive().unwrap() {
            Some(AgentMessage::Stdout(bytes)) => heard += bytes.len() as u64,
            Some(AgentMessage::Exited(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, sent, "the parent's connection lost nothing");
    for child in &children {
        // Its part of the connection is gone, so the program's input has ended.
        assert_eq!(sh(child, "echo here"), "here");
        wait_until(child, "! pgrep -x cat");
    }
}

#[test]
fn connections_end_with_a_reset_and_the_agent_answers_again() {
    let machine = spawn(&template(1));
    let mut waiting = start(&machine, "cat");
    machine.reset().unwrap();
    let begun = Instant::now();
    assert_eq!(sh(&machine, "echo again"), "again");
    let ended = waiting.receive();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn children_answer_after_a_pause_in_mid_work() {
    let parent = spawn(&template(1));
    let busy = start(&parent, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i");
    parent.pause().unwrap();
    let child = fork(&parent);
    assert_eq!(sh(&child, "echo child"), "child");
    parent.resume().unwrap();
    assert_eq!(finish(busy).out.trim(), "2000");
}
