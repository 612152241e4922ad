//! Forks of forks.

use super::common::{fork, fork_many, guest, sh};

#[test]
fn a_chain_of_twenty_forks_has_what_each_of_them_did() {
    let mut machine = guest();
    let first = sh(&machine, "cat /proc/sys/kernel/random/boot_id");
    for generation in 0..20 {
        sh(&machine, &format!("echo {generation} >> /root/generations"));
        machine = fork(&machine);
    }
    let expected: Vec<String> = (0..20).map(|generation| generation.to_string()).collect();
    assert_eq!(sh(&machine, "cat /root/generations"), expected.join("\n"));
    assert_eq!(sh(&machine, "cat /proc/sys/kernel/random/boot_id"), first, "it never booted");
}

#[test]
fn grandchildren_of_one_parent_are_apart() {
    let parent = guest();
    let mut family = Vec::new();
    for (number, child) in fork_many(&parent, 2).into_iter().enumerate() {
        sh(&child, &format!("echo child {number} > /tmp/line"));
        family.extend(fork_many(&child, 2));
        sh(&child, "echo later > /tmp/line");
    }
    let lines: Vec<String> = family.iter().map(|machine| sh(machine, "cat /tmp/line")).collect();
    assert_eq!(lines, ["child 0", "child 0", "child 1", "child 1"]);
    assert_eq!(sh(&parent, "ls /tmp/line 2> /dev/null || echo none"), "none");
}
