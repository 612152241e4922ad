//! What runs and lies in a guest goes on in its clones, and is theirs from then on.

use super::common::{background, fork, fork_many, guest, sh, spawn, wait_until};

/// A loop that counts into `file`, a line each time.
fn counter(file: &str) -> String {
    format!("exec 3> {file}; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.02; done")
}

#[test]
fn processes_files_and_pipes_carry_over_and_diverge() {
    let parent = guest();
    sh(&parent, "echo tmpfs > /tmp/a; echo overlay > /root/b; mkfifo /tmp/pipe");
    background(&parent, &counter("/tmp/count"));
    // A reader that waits at a pipe, for what comes after the fork.
    background(&parent, "read line < /tmp/pipe; echo got $line > /tmp/from-pipe");
    wait_until(&parent, "[ $(wc -l < /tmp/count) -gt 3 ]");
    let mut family = fork_many(&parent, 2);
    family.push(fork(&parent));
    family.push(parent);
    for (number, machine) in family.iter().enumerate() {
        assert_eq!(sh(machine, "cat /tmp/a /root/b"), "tmpfs\noverlay");
        sh(machine, &format!("echo {number} > /tmp/own; echo {number} > /root/own"));
        sh(machine, &format!("echo {number} > /tmp/pipe"));
        let seen = sh(machine, "wc -l < /tmp/count");
        wait_until(machine, &format!("[ $(wc -l < /tmp/count) -gt $(( {seen} + 3 )) ]"));
    }
    for (number, machine) in family.iter().enumerate() {
        assert_eq!(sh(machine, "cat /tmp/own /root/own"), format!("{number}\n{number}"));
        wait_until(machine, &format!("grep -q 'got {number}' /tmp/from-pipe"));
        // No line of the counter is lost, doubled or another's.
        let lines = "n=0; while read line; do n=$((n+1)); [ $line = $n ] || exit 1; done";
        sh(machine, &format!("head -n 20 /tmp/count | ( {lines} )"));
    }
}

#[test]
fn monotonic_time_never_steps_back() {
    let parent = guest();
    background(&parent, "while :; do cut -d. -f1,2 /proc/uptime; sleep 0.05; done > /tmp/times");
    wait_until(&parent, "[ $(wc -l < /tmp/times) -gt 3 ]");
    let mut machine = parent;
    for _ in 0..3 {
        machine = fork(&machine);
        let (snapshot, _) = machine.snapshot().unwrap();
        machine = spawn(&snapshot);
        let seen = sh(&machine, "wc -l < /tmp/times");
        wait_until(&machine, &format!("[ $(wc -l < /tmp/times) -gt $(( {seen} + 3 )) ]"));
    }
    let times = sh(&machine, "cut -d' ' -f1 /tmp/times");
    let times: Vec<f64> = times.lines().map(|line| line.parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
}

#[test]
fn a_sleeping_process_wakes_on_time() {
    let parent = guest();
    let sleeper = "cut -d' ' -f1 /proc/uptime > /tmp/slept; sleep 3; \
                   cut -d' ' -f1 /proc/uptime > /tmp/woke.new; mv /tmp/woke.new /tmp/woke";
    background(&parent, sleeper);
    wait_until(&parent, "[ -s /tmp/slept ]");
    let (snapshot, _) = parent.snapshot().unwrap();
    for machine in [spawn(&snapshot), fork(&parent), parent] {
        wait_until(&machine, "[ -s /tmp/woke ]");
        let time = |file| sh(&machine, &format!("cat {file}")).parse::<f64>().unwrap();
        let slept = time("/tmp/woke") - time("/tmp/slept");
        assert!((2.9..5.0).contains(&slept), "slept {slept} s of guest time, not 3");
    }
}

#[test]
fn a_reset_brings_the_snapshot_back() {
    let parent = guest();
    sh(&parent, "echo before > /tmp/a");
    let (snapshot, _) = parent.snapshot().unwrap();
    let clone = spawn(&snapshot);
    for _ in 0..3 {
        sh(&clone, "echo after > /tmp/a; rm -rf /bin/ls; dd if=/dev/zero of=/tmp/b bs=1M count=8");
        clone.reset().unwrap();
        assert_eq!(sh(&clone, "cat /tmp/a; ls /tmp/b 2> /dev/null || echo none"), "before\nnone");
    }
}

#[test]
fn a_snapshot_file_holds_a_whole_linux_guest() {
    use tine_vmm::snapshot::{Snapshot, Verify};
    let parent = guest();
    sh(&parent, "echo kept > /root/a");
    background(&parent, &counter("/tmp/count"));
    wait_until(&parent, "[ $(wc -l < /tmp/count) -gt 3 ]");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.tine");
    parent.snapshot().unwrap().0.save(&path).unwrap();
    drop(parent);
    let snapshot = Snapshot::open(&path, super::common::host(), Verify::Full).unwrap();
    for clone in [spawn(&snapshot), spawn(&snapshot)] {
        assert_eq!(sh(&clone, "cat /root/a"), "kept");
        let seen = sh(&clone, "wc -l < /tmp/count");
        wait_until(&clone, &format!("[ $(wc -l < /tmp/count) -gt $(( {seen} + 3 )) ]"));
    }
}
