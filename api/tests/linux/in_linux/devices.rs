//! Disks that are written, memory that is given back, and what a clone takes.

use std::time::Instant;

use tine_vmm::boot::linux::{BootFile, COMMAND_LINE, Kernel};
use tine_vmm::devices::disk::Disk;
use tine_vmm::memory::ImageKind;
use tine_vmm::{LinuxConfig, Machine};

use super::common::{
    PATIENCE, background, fork, fork_many, guest, host, sh, spawn, store, template, wait_until,
};

/// Most pages that a clone may copy before it has answered its first command.
const MOST_PAGES: u64 = 3000;

/// A guest with a writable disk of 32 MiB, /dev/vdb.
fn with_disk() -> Machine {
    let image = store().get("base").unwrap();
    let config = LinuxConfig {
        ram_bytes: 256 << 20,
        vcpus: 1,
        image: ImageKind::Small,
        kernel: Kernel {
            image: BootFile::open(&image.kernel).unwrap(),
            initramfs: BootFile::open(&image.initramfs).unwrap(),
            command_line: COMMAND_LINE.to_owned(),
        },
        disks: vec![
            Disk::read_only(&image.rootfs).unwrap(),
            Disk::overlay(None, 32 << 20).unwrap(),
        ],
    };
    let machine = Machine::boot_linux(host(), config, Box::new(std::io::stderr())).unwrap();
    machine.wait_ready(PATIENCE).unwrap();
    machine
}

/// Writes `number` over and over from 1 MiB of the disk on, and sees to it that it is there.
fn write(number: &str) -> String {
    format!("yes {number} | head -c 3000000 | dd of=/dev/vdb bs=64k seek=16 conv=notrunc,fsync")
}

/// Reads that back: from the disk, not from the cache.
const READ: &str = "echo 3 > /proc/sys/vm/drop_caches; \
                    tail -c +1048577 /dev/vdb | head -c 2000000 | uniq | tr '\\n' ' '";

#[test]
fn a_writable_disk_forks_with_its_guest() {
    let parent = with_disk();
    sh(&parent, "echo shared | dd of=/dev/vdb conv=notrunc,fsync");
    let mut family = fork_many(&parent, 2);
    family.push(fork(&family[1]));
    family.push(parent);
    for (number, machine) in family.iter().enumerate() {
        sh(machine, &write(&number.to_string()));
    }
    for (number, machine) in family.iter().enumerate() {
        assert_eq!(sh(machine, READ).trim(), format!("{number}"));
        assert_eq!(sh(machine, "head -n 1 /dev/vdb"), "shared");
    }
}

#[test]
fn a_guest_that_writes_its_disk_is_forked_and_kept_in_a_file() {
    let parent = with_disk();
    let writer = "n=1000; while [ ! -e /tmp/stop ]; do n=$((n+1)); WRITE; echo $n > /tmp/done; done; \
                  echo > /tmp/stopped";
    background(&parent, &writer.replace("WRITE", &write("$n")));
    wait_until(&parent, "[ -s /tmp/done ]");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.tine");
    parent.snapshot().unwrap().0.save(&path).unwrap();
    let kept = tine_vmm::Snapshot::open(&path, host(), tine_vmm::snapshot::Verify::Full).unwrap();
    let mut family = fork_many(&parent, 2);
    family.push(spawn(&kept));
    family.push(parent);
    for machine in &family {
        // The write that was under way is done, and others after it.
        let seen = sh(machine, "cat /tmp/done");
        wait_until(machine, &format!("[ $(cat /tmp/done) -gt {seen} ]"));
        sh(machine, "touch /tmp/stop");
        wait_until(machine, "[ -e /tmp/stopped ]");
        assert_eq!(sh(machine, READ).trim(), sh(machine, "cat /tmp/done"));
    }
}

#[test]
fn memory_freed_in_a_guest_leaves_the_host() {
    let machine = guest();
    sh(&machine, "dd if=/dev/urandom of=/tmp/big bs=1M count=64");
    let full = machine.dirty_pages().unwrap();
    assert!(full > 64 << 8, "{full} pages");
    sh(&machine, "rm /tmp/big");
    let begun = Instant::now();
    // The kernel reports free memory every two seconds, in pieces of 2 MiB and more.
    while machine.dirty_pages().unwrap() > full - (40 << 8) {
        assert!(begun.elapsed() < PATIENCE, "{} of {full}", machine.dirty_pages().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(sh(&machine, "echo alive"), "alive");
    // What was given back is no secret of another guest, and is written again.
    sh(&machine, "dd if=/dev/zero of=/tmp/big bs=1M count=64 && md5sum /tmp/big");
}

#[test]
fn a_clone_copies_few_pages_before_its_first_answer() {
    let snapshot = template(1);
    let clone = spawn(&snapshot);
    let ready = clone.dirty_pages().unwrap();
    sh(&clone, "true");
    let answered = clone.dirty_pages().unwrap();
    let before = clone.counters().unwrap();
    sh(&clone, "true");
    let after = clone.counters().unwrap();
    println!(
        "pages copied: {ready} when ready, {answered} after the first command, {} after the \
         second; exits: {} until then, {} for the second command alone",
        clone.dirty_pages().unwrap(),
        before.exits,
        after.exits - before.exits,
    );
    assert!(answered <= MOST_PAGES, "{answered} pages");
}
