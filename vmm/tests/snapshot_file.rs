//! Snapshot files: what is written comes back, and what is damaged is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use tine_vmm::memory::HotSet;
use tine_vmm::snapshot::{SnapshotFileError, Verify};
use tine_vmm::{KvmHost, Machine, Snapshot, SpawnOptions};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn open(path: &Path, host: &KvmHost) -> Result<Snapshot, SnapshotFileError> {
    Snapshot::open(path, host, Verify::Full)
}

#[test]
fn a_machine_goes_on_from_a_file_with_both_layers_and_its_hot_set() {
    let host = host();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine.tine");
    let parent = boot(&host, 32, 2);
    dirty(&parent, 400, 1);
    let _first = fork(&parent);
    dirty(&parent, 400, 2);
    let (snapshot, _) = parent.snapshot().unwrap();
    assert!(snapshot.image.delta().is_some());
    let hot = HotSet::new(tine_vmm::memory::Runs::from_iter([tine_vmm::memory::Run {
        first: 3,
        pages: 9,
    }]));
    snapshot.with_hot_set(hot.clone()).save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let expected = checksum(&parent);
    for verify in [Verify::Full, Verify::Header] {
        let loaded = Snapshot::open(&path, &host, verify).unwrap();
        assert_eq!(loaded.hot_set.as_deref(), Some(&hot));
        let options = SpawnOptions { hot_set: true, ..SpawnOptions::new() };
        let clone = Machine::spawn(&host, &loaded, options).unwrap();
        assert!(clone.dirty_pages().unwrap() >= 9);
        assert_eq!(checksum(&clone), expected);
        dirty(&clone, 300, 3);
        // A fork of a clone that lives on a file: no userfaultfd there, but the same result.
        let child = fork(&clone);
        assert_eq!(checksum(&child), checksum(&clone));
        let pair = fork_many(&clone, 2);
        assert_eq!(checksum(&pair[1]), checksum(&clone));
        clone.reset().unwrap();
        assert_eq!(checksum(&clone), expected);
    }
}

#[test]
fn pages_of_zeros_take_no_room() {
    let host = host();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse.tine");
    let (snapshot, _) = boot(&host, 256, 1).snapshot().unwrap();
    snapshot.save(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.len() > 256 << 20);
    assert!(metadata.blocks() * 512 < 8 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn damage_anywhere_is_refused_with_a_reason() {
    let host = host();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("whole.tine");
    let parent = boot(&host, 16, 1);
    dirty(&parent, 100, 1);
    parent.snapshot().unwrap().0.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged.tine");
    let refusal = |change: &dyn Fn(&Path)| {
        fs::write(&damaged, &bytes).unwrap();
        change(&damaged);
        open(&damaged, &host).map(drop).unwrap_err()
    };
    assert!(matches!(refusal(&|path| flip(path, 3)), SnapshotFileError::Foreign(_)));
    let version = refusal(&|path| flip(path, 8));
    assert!(matches!(version, SnapshotFileError::Version { found: 0x12, .. }), "{version}");
    // Header, state, chunk checksums, and memory: first and last byte of it, and a hole.
    let memory = bytes.len() - (16 << 20);
    for at in [16, 40, 63, 64, 200, memory - 5000, memory, bytes.len() - 1, memory + (9 << 20)] {
        let error = refusal(&|path| flip(path, at));
        assert!(matches!(error, SnapshotFileError::Damaged { .. }), "byte {at}: {error}");
    }
    for length in [0, 10, 64, 65, memory, bytes.len() - 1] {
        let error = refusal(&|path| fs::write(path, &bytes[..length]).unwrap());
        let refused =
            matches!(error, SnapshotFileError::Damaged { .. } | SnapshotFileError::Foreign(_));
        assert!(refused, "cut to {length}: {error}");
    }
    let grown = refusal(&|path| fs::write(path, [&bytes[..], &[0]].concat()).unwrap());
    assert!(grown.to_string().contains("cut short or has grown"), "{grown}");
    assert!(matches!(
        open(&directory.path().join("none.tine"), &host),
        Err(SnapshotFileError::Io { .. })
    ));
    open(&path, &host).unwrap();
}

#[test]
fn a_snapshot_of_a_cpu_with_more_features_is_refused() {
    let host = host();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.tine");
    let (mut snapshot, _) = boot(&host, 16, 1).snapshot().unwrap();
    let state = std::sync::Arc::get_mut(&mut snapshot.state).unwrap();
    let leaf = state.cpuid.iter_mut().find(|leaf| leaf.function == 1).unwrap();
    leaf.values[2] |= 1 << 16; // A reserved bit that no processor sets.
    snapshot.save(&path).unwrap();
    let error = open(&path, &host).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotFileError::Incompatible { .. }), "{error}");
    assert!(error.to_string().contains("0x10000 in ECX of CPUID leaf 0x1.0"), "{error}");
}

#[test]
fn a_failed_save_leaves_nothing_behind() {
    let host = host();
    let directory = tempfile::tempdir().unwrap();
    let (snapshot, _) = boot(&host, 16, 1).snapshot().unwrap();
    let taken = directory.path().join("directory");
    fs::create_dir(&taken).unwrap();
    assert!(snapshot.save(&taken).is_err());
    assert!(snapshot.save(&directory.path().join("no/such/place")).is_err());
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
