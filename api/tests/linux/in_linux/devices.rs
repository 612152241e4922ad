//! Disks that are written, memory that is given back, and what a clone takes.

use std::time::Instant;

use tine_vmm::boot::linux::{COMMAND_LINE, Kernel};
use tine_vmm::devices::disk::Disk;
use tine_vmm::memory::ImageKind;
use tine_vmm::{LinuxConfig, Machine};

use super::common::{
    PATIENCE, background, fork, fork_many, guest, host, sh, spawn, store, template, wait_until,
};

/// Most pages that a clone may copy before it has answered its first command.
const MOST_PAGES: u64 = 3000;

/// A guest with a writable disk of 32 MiB, formatted and mounted at /mnt.
fn with_disk() -> Machine {
    let image = store().get("base").unwrap();
    let config = LinuxConfig {
        ram_bytes: 256 << 20,
        vcpus: 1,
        image: ImageKind::Small,
        kernel: Kernel {
            image: image.kernel,
            initramfs: image.initramfs,
            command_line: COMMAND_LINE.to_owned(),
        },
        disks: vec![
            Disk::read_only(&image.rootfs).unwrap(),
            Disk::overlay(None, 32 << 20).unwrap(),
        ],
    };
    let machine = Machine::boot_linux(host(), config, Box::new(std::io::stderr())).unwrap();
    machine.wait_ready(PATIENCE).unwrap();
    sh(&machine, "mkfs.ext2 /dev/vdb > /dev/null && mkdir -p /mnt && mount /dev/vdb /mnt");
    machine
}

#[test]
fn a_writable_disk_forks_with_its_guest() {
    let parent = with_disk();
    sh(&parent, "echo shared > /mnt/shared; sync; echo 3 > /proc/sys/vm/drop_caches");
    let mut family = fork_many(&parent, 2);
    family.push(fork(&family[1]));
    family.push(parent);
    for (number, machine) in family.iter().enumerate() {
        sh(machine, &format!("yes {number} | head -c 3000000 > /mnt/own; sync"));
    }
    for (number, machine) in family.iter().enumerate() {
        // From the disk, not from the cache.
        sh(machine, "umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount /dev/vdb /mnt");
        assert_eq!(sh(machine, "cat /mnt/shared"), "shared");
        let lines = "uniq /mnt/own | head -n 1; wc -c < /mnt/own";
        assert_eq!(sh(machine, lines), format!("{number}\n3000000"));
    }
}

#[test]
fn a_guest_that_writes_its_disk_is_forked_and_kept_in_a_file() {
    let parent = with_disk();
    let writer = "n=0; while :; do n=$((n+1)); yes $n | head -c 200000 > /mnt/block.new; \
                  sync; mv /mnt/block.new /mnt/block; echo $n > /tmp/done; done";
    background(&parent, writer);
    wait_until(&parent, "[ -s /tmp/done ]");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.tine");
    parent.snapshot().unwrap().0.save(&path).unwrap();
    let kept = tine_vmm::Snapshot::open(&path, host(), tine_vmm::snapshot::Verify::Full).unwrap();
    let mut family = fork_many(&parent, 2);
    family.push(spawn(&kept));
    family.push(parent);
    for machine in &family {
        let seen = sh(machine, "cat /tmp/done");
        wait_until(machine, &format!("[ $(cat /tmp/done) -gt {seen} ]"));
        // Whole, of one write, whichever it was.
        assert_eq!(sh(machine, "cp /mnt/block /tmp/b; uniq /tmp/b | wc -l"), "1");
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
