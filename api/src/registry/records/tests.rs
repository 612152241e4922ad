use super::*;

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

fn record(id: &str, vcpus: u8) -> SandboxRecord {
    SandboxRecord {
        id: id.to_owned(),
        image: "workload".to_owned(),
        parent: None,
        snapshot: Some("s".to_owned()),
        vcpus,
        memory_mib: 16,
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
        expires_at: None,
        pid: Some(7),
    }
}

fn snapshot(id: &str) -> SnapshotRecord {
    SnapshotRecord {
        id: id.to_owned(),
        name: Some("n".to_owned()),
        path: "/x/y".into(),
        image: "base".to_owned(),
        sandbox: None,
        vcpus: 1,
        memory_mib: 64,
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
    }
}

/// Stops the writer where it is, and copies the file as it is then: what a kill would leave.
fn crash(mut records: Records, to: &Path) {
    records.send(Order::Die);
    records.thread.take().unwrap().join().unwrap();
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(&records.path, to.join(FILE)).unwrap();
}

#[test]
fn a_dead_daemons_sandboxes_are_lost_once_and_its_snapshots_stay() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("new/state");
    let (records, lost) = Records::open(&state).unwrap();
    assert!(lost.is_empty());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
    records.insert(&record("a", 1));
    records.insert(&record("b", 2));
    records.remove("a");
    records.keep_snapshot(&snapshot("x"));
    records.keep_snapshot(&snapshot("y"));
    records.forget_snapshot("x");
    assert_eq!(records.snapshots().unwrap(), [snapshot("y")]);
    drop(records);
    let (records, lost) = Records::open(&state).unwrap();
    assert_eq!(lost, [record("b", 2)]);
    assert_eq!(records.snapshots().unwrap(), [snapshot("y")]);
    drop(records);
    assert!(Records::open(&state).unwrap().1.is_empty(), "they are told of once");
}

#[test]
fn a_second_daemon_and_another_format_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (records, _) = Records::open(directory.path()).unwrap();
    let error = Records::open(directory.path()).unwrap_err();
    assert!(matches!(error, RecordsError::Locked(_)), "{error}");
    assert!(error.to_string().contains("--state"), "{error}");
    let transaction = records.database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(FORMAT_KEY, FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(records);
    let error = Records::open(directory.path()).unwrap_err();
    assert!(matches!(error, RecordsError::Format { found: 2, .. }), "{error}");
    std::fs::write(directory.path().join(FILE), vec![7; 1 << 20]).unwrap();
    let error = Records::open(directory.path()).unwrap_err();
    assert!(matches!(error, RecordsError::Database { .. }), "{error}");
}

#[test]
fn a_damaged_record_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (records, _) = Records::open(directory.path()).unwrap();
    let transaction = records.database.begin_write().unwrap();
    transaction.open_table(SANDBOXES).unwrap().insert("who", b"{".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(records);
    let error = Records::open(directory.path()).unwrap_err();
    assert!(matches!(&error, RecordsError::Damaged { id, .. } if id == "who"), "{error}");
}

#[test]
fn a_closed_writer_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let (records, _) = Records::open(directory.path()).unwrap();
    records.send(Order::Die);
    while records.flush().is_ok() {}
    records.insert(&record("a", 1));
    assert!(matches!(records.flush(), Err(RecordsError::Gone)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// After a crash there is what was flushed, and of what came later a beginning.
    #[test]
    fn what_was_flushed_survives_a_crash(
        changes in prop::collection::vec((0..6u8, any::<bool>()), 0..40),
        flushed in 0..40usize,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(directory.path()).unwrap();
        let flushed = flushed.min(changes.len());
        let mut state = BTreeMap::new();
        let mut possible = vec![];
        for (at, (id, insert)) in changes.iter().enumerate() {
            if at == flushed {
                records.flush().unwrap();
                possible.push(state.clone());
            }
            let name = id.to_string();
            if *insert {
                let record = record(&name, at as u8);
                records.insert(&record);
                state.insert(name, record);
            } else {
                records.remove(&name);
                state.remove(&name);
            }
            if at >= flushed {
                possible.push(state.clone());
            }
        }
        if flushed == changes.len() {
            records.flush().unwrap();
            possible.push(state);
        }
        let after = directory.path().join("after");
        crash(records, &after);
        let (_, lost) = Records::open(&after).unwrap();
        let found: BTreeMap<_, _> = lost.into_iter().map(|one| (one.id.clone(), one)).collect();
        prop_assert!(possible.contains(&found), "{:?} is none of {:?}", found, possible);
    }
}
