//! Images of huge pages: what was obtained is reported, and forks are right in any case.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::fs;

use common::*;
use tine_vmm::memory::ImageKind;
use tine_vmm::{Machine, MachineConfig, SpawnOptions};

fn config(image: ImageKind) -> MachineConfig {
    MachineConfig { ram_bytes: 32 << 20, vcpus: 1, image }
}

fn forks_are_right(parent: Machine) {
    let host = host();
    dirty(&parent, 2000, 1);
    let (snapshot, _) = parent.snapshot().unwrap();
    let huge = snapshot.image.huge_bytes().unwrap();
    assert!(huge <= 32 << 20 && huge % (2 << 20) == 0, "{huge} bytes in huge pages");
    let expected = checksum(&parent);
    let clone = Machine::spawn(&host, &snapshot, SpawnOptions::new()).unwrap();
    assert_eq!(checksum(&clone), expected);
    dirty(&clone, 100, 2);
    let child = fork(&clone);
    assert_eq!(checksum(&child), checksum(&clone));
    let (second, _) = clone.snapshot().unwrap();
    let grandchild = Machine::spawn(&host, &second, SpawnOptions::new()).unwrap();
    assert_eq!(checksum(&grandchild), checksum(&clone));
    dirty(&grandchild, 100, 3);
    grandchild.reset().unwrap();
    assert_eq!(checksum(&grandchild), checksum(&clone));
    assert_eq!(checksum(&parent), expected);
}

#[test]
fn transparent_huge_pages_or_what_the_kernel_makes_of_them() {
    let parent =
        Machine::boot(&host(), &config(ImageKind::TransparentHuge), Box::new(std::io::sink()));
    forks_are_right(parent.unwrap());
}

#[test]
fn reserved_huge_pages_or_an_error_that_says_why_not() {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let free = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap();
    let free: u64 = free.trim().parse().unwrap();
    let parent = Machine::boot(&host(), &config(ImageKind::HugeTlb), Box::new(std::io::sink()));
    if free >= 16 * 6 {
        forks_are_right(parent.unwrap());
    } else if free < 16 {
        let error = parent.unwrap_err();
        assert!(format!("{error:?}").contains("a memory file"), "{error:?}");
    }
}
