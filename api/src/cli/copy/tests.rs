//! Copies, with a daemon whose guest is a directory.

use std::os::unix::fs::symlink;

use super::super::daemon::Daemon;
use super::*;

#[test]
fn places_are_told_apart() {
    let place = |text: &str| text.parse::<Place>();
    assert_eq!(place("-"), Ok(Place::Standard));
    let guest = GuestPath { id: "ab".into(), path: "/c".into() };
    assert_eq!(place("ab:/c"), Ok(Place::Guest(guest)));
    for here in ["a", "/a", "./ab:/c", "ab:c"] {
        assert_eq!(place(here), Ok(Place::Here(here.into())));
    }
    assert!(place("").is_err());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("a");
    let files = || fs::read_dir(directory.path()).unwrap().count();
    let mut unfinished = Unfinished::create(&to, 0o640).unwrap();
    unfinished.file.write_all(b"half").unwrap();
    assert!(files() == 1 && !to.exists());
    drop(unfinished);
    assert_eq!(files(), 0);
    let mut unfinished = Unfinished::create(&to, 0o640).unwrap();
    unfinished.file.write_all(b"all").unwrap();
    unfinished.finish(&to).unwrap();
    assert_eq!((files(), fs::read(&to).unwrap().as_slice()), (1, b"all".as_slice()));
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o137, 0);
}

#[test]
fn names_are_found_however_they_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    for path in [inner.clone(), inner.join(""), inner.join(".")] {
        assert_eq!(name_of(&path).unwrap(), "inner");
    }
    assert_eq!(name_of(&inner.join("../inner/../inner/.")).unwrap(), "inner");
}

/// A tree with what trees have: files, one of them long, directories, and a link.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/long"), vec![7; 3 << 20]).unwrap();
    fs::write(root.join("a/none"), b"").unwrap();
    fs::write(root.join("a/script"), b"#!").unwrap();
    fs::set_permissions(root.join("a/script"), fs::Permissions::from_mode(0o750)).unwrap();
}

fn assert_tree(root: &Path) {
    assert!(root.join("empty").is_dir());
    assert!(fs::read(root.join("a/b/long")).unwrap() == vec![7; 3 << 20]);
    assert_eq!(fs::read(root.join("a/none")).unwrap(), b"");
    let mode = fs::metadata(root.join("a/script")).unwrap().permissions().mode();
    assert_eq!(mode & 0o700, 0o700);
    assert_eq!(fs::read_dir(root.join("a")).unwrap().count(), 3, "nothing unfinished is left");
}

#[test]
fn trees_go_in_and_come_out_again() {
    let daemon = Daemon::start();
    let files = daemon.files();
    let here = tempfile::tempdir().unwrap();
    let source = here.path().join("source");
    tree(&source);
    assert_eq!(upload(&files, &source, "/new").unwrap(), 0);
    assert_tree(&daemon.root().join("new"));
    assert_eq!(upload(&files, &source, "/new").unwrap(), 0, "into what is a directory now");
    assert_tree(&daemon.root().join("new/source"));
    assert_eq!(download(&files, "/new/source", &here.path().join("back")).unwrap(), 0);
    assert_tree(&here.path().join("back"));
    assert_eq!(download(&files, "/new/source/", &here.path().join("back")).unwrap(), 0);
    assert_tree(&here.path().join("back/source"));
}

#[test]
fn single_files_go_where_they_are_sent() {
    let daemon = Daemon::start();
    let files = daemon.files();
    let here = tempfile::tempdir().unwrap();
    let source = here.path().join("f");
    fs::write(&source, b"hello").unwrap();
    let arrived = |path: &str| fs::read(daemon.root().join(path)).unwrap() == b"hello";
    upload(&files, &source, "/deep/g").unwrap();
    assert!(arrived("deep/g"));
    upload(&files, &source, "/deep").unwrap();
    assert!(arrived("deep/f"));
    upload(&files, &source, "/other/").unwrap();
    assert!(arrived("other/f"));
    download(&files, "/deep/g", here.path()).unwrap();
    assert_eq!(fs::read(here.path().join("g")).unwrap(), b"hello");
    download(&files, "/deep/g", Path::new("/dev/null")).unwrap();
    assert!(!Path::new("/dev/null").is_file());
    assert!(
        download(&files, "/no/such", here.path()).unwrap_err().to_string().contains("/no/such")
    );
}

#[test]
fn links_are_skipped_and_told() {
    let daemon = Daemon::start();
    let files = daemon.files();
    let here = tempfile::tempdir().unwrap();
    let source = here.path().join("source");
    tree(&source);
    symlink("/etc", source.join("link")).unwrap();
    assert_eq!(upload(&files, &source, "/new").unwrap(), 1);
    assert_tree(&daemon.root().join("new"));
    symlink("/etc", daemon.root().join("new/link")).unwrap();
    assert_eq!(download(&files, "/new", &here.path().join("back")).unwrap(), 1);
    assert!(!here.path().join("back/link").exists());
}
