//! What the host does with files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;

use common::{Agent, Host};
use tine_abi::agent::{AgentMessage, CHUNK, Entry, EntryKind, Failure, HostMessage, Request};

fn write(path: &str) -> Request {
    Request::Write { path: path.into(), mode: None, owner: None, parents: false }
}

fn read(path: &str) -> Request {
    Request::Read { path: path.into(), offset: 0, length: None }
}

/// All of a file, with what came in its place if it failed.
fn contents(mut host: Host) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match host.next() {
            Some(AgentMessage::Data(data)) => bytes.extend(data),
            Some(AgentMessage::Failed(failure)) => return Err(failure),
            Some(AgentMessage::End) => {
                assert_eq!(host.next(), None);
                return Ok(bytes);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn put(agent: &Agent, request: Request, data: &[u8]) -> AgentMessage {
    let mut host = agent.open(request);
    data.chunks(CHUNK).for_each(|chunk| host.data(chunk));
    host.send(HostMessage::End);
    host.last()
}

fn entries(mut host: Host) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        match host.next() {
            Some(AgentMessage::Entries(entries)) => all.extend(entries),
            Some(AgentMessage::End) => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn names(directory: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn fifty_megabytes_go_there_and_back() {
    let agent = Agent::start();
    let path = agent.path("large");
    let bytes: Vec<u8> = (0..50_000_000_u32).map(|n| (n ^ n >> 9 ^ n >> 17) as u8).collect();
    assert_eq!(put(&agent, write(&path), &bytes), AgentMessage::Done);
    assert!(fs::read(&path).unwrap() == bytes);
    assert!(contents(agent.open(read(&path))).unwrap() == bytes);
    // It was never all in the agent's memory.
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u32 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak_kb < 20_000, "{peak_kb} kB");
}

#[test]
fn a_part_can_be_read() {
    let agent = Agent::start();
    let path = agent.path("file");
    fs::write(&path, b"0123456789").unwrap();
    let part = |offset, length| {
        contents(agent.open(Request::Read { path: path.clone(), offset, length })).unwrap()
    };
    assert_eq!(part(3, Some(4)), b"3456");
    assert_eq!(part(8, Some(100)), b"89");
    assert_eq!(part(8, None), b"89");
    assert_eq!(part(100, None), b"");
    assert_eq!(part(0, Some(0)), b"");
}

#[test]
fn files_of_the_kernel_and_pipes_can_be_read() {
    let agent = Agent::start();
    assert_eq!(
        contents(agent.open(read("/proc/version"))).unwrap(),
        fs::read("/proc/version").unwrap()
    );
    assert_eq!(agent.shell(&format!("mkfifo {}", agent.path("pipe"))).stderr, b"");
    assert_eq!(contents(agent.open(read(&agent.path("pipe")))).unwrap(), b"");
}

#[test]
fn a_write_sets_or_keeps_permissions_and_sets_the_owner() {
    let agent = Agent::start();
    let path = agent.path("a/b/file");
    let request = |mode, owner: Option<&str>| Request::Write {
        path: path.clone(),
        mode,
        owner: owner.map(String::from),
        parents: true,
    };
    let after = |request| {
        assert_eq!(put(&agent, request, b"x"), AgentMessage::Done);
        let metadata = fs::metadata(&path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let agents = fs::metadata(agent.directory.path()).unwrap();
    let (uid, gid) = (agents.uid(), agents.gid());
    assert_eq!(after(request(None, None)), (0o644, uid, gid));
    assert_eq!(after(request(Some(0o4751), None)), (0o4751, uid, gid));
    // Only root can give files away.
    if uid == 0 {
        assert_eq!(after(request(None, Some("1234:7"))), (0o4751, 1234, 7));
    }
    assert_eq!(after(request(None, None)), (0o4751, uid, gid));
    assert_eq!(names(&agent.path("a/b")), ["file"]);
}

#[test]
fn a_write_follows_a_link() {
    let agent = Agent::start();
    fs::write(agent.path("real"), "old").unwrap();
    symlink("real", agent.path("link")).unwrap();
    assert_eq!(put(&agent, write(&agent.path("link")), b"new"), AgentMessage::Done);
    assert!(fs::symlink_metadata(agent.path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(agent.path("real")).unwrap(), b"new");
}

#[test]
fn a_write_that_breaks_leaves_nothing() {
    let agent = Agent::start();
    let directory = agent.path("d");
    fs::create_dir(&directory).unwrap();
    let path = agent.path("d/file");
    fs::write(&path, "old").unwrap();
    let mut host = agent.open(write(&path));
    host.data(b"new");
    while names(&directory).len() < 2 {
        thread::yield_now();
    }
    drop(host);
    while names(&directory).len() > 1 {
        thread::yield_now();
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let mut host = agent.open(write(&path));
    host.send(HostMessage::Signal(1));
    assert!(matches!(host.failure(), Failure::Invalid(_)));
    assert_eq!(names(&directory), ["file"]);
}

#[test]
fn files_are_known() {
    let agent = Agent::start();
    let path = agent.path("file");
    fs::write(&path, "12345").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let AgentMessage::Entries(known) = agent.ask(Request::Stat { path: path.clone() }) else {
        panic!()
    };
    let metadata = fs::metadata(&path).unwrap();
    let expected = Entry {
        name: "file".into(),
        kind: EntryKind::File,
        bytes: 5,
        mode: 0o640,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        target: None,
    };
    assert_eq!(known, [expected]);
    let AgentMessage::Entries(root) = agent.ask(Request::Stat { path: "/".into() }) else {
        panic!()
    };
    assert_eq!((root[0].name.as_str(), root[0].kind), ("/", EntryKind::Directory));
}

#[test]
fn a_directory_is_listed_by_name_however_long_it_is() {
    let agent = Agent::start();
    let directory = agent.path("d");
    fs::create_dir_all(agent.path("d/sub")).unwrap();
    symlink("nowhere", agent.path("d/link")).unwrap();
    for number in 0..3000 {
        fs::write(format!("{directory}/{number:0200}"), "").unwrap();
    }
    let listed = entries(agent.open(Request::List { path: directory.clone() }));
    let listed_names: Vec<_> = listed.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(listed_names, names(&directory));
    let [.., link, sub] = listed.as_slice() else { panic!() };
    assert_eq!((link.kind, link.target.as_deref()), (EntryKind::Link, Some("nowhere")));
    assert_eq!(sub.kind, EntryKind::Directory);
    fs::create_dir(agent.path("empty")).unwrap();
    assert_eq!(entries(agent.open(Request::List { path: agent.path("empty") })), []);
}

#[test]
fn directories_are_made_and_removed() {
    let agent = Agent::start();
    let path = agent.path("a/b/c");
    let remove = |name, recursive| Request::Remove { path: agent.path(name), recursive };
    for _ in 0..2 {
        assert_eq!(agent.ask(Request::MakeDirectory { path: path.clone() }), AgentMessage::Done);
    }
    assert!(fs::metadata(&path).unwrap().is_dir());
    let AgentMessage::Failed(Failure::Os { errno, .. }) = agent.ask(remove("a", false)) else {
        panic!()
    };
    assert_eq!(errno, libc::ENOTEMPTY);
    assert_eq!(agent.ask(remove("a/b/c", false)), AgentMessage::Done);
    fs::write(agent.path("file"), "").unwrap();
    symlink(agent.path("file"), agent.path("a/link")).unwrap();
    assert_eq!(agent.ask(remove("a", true)), AgentMessage::Done);
    assert!(fs::exists(agent.path("file")).unwrap() && !fs::exists(agent.path("a")).unwrap());
    assert_eq!(agent.ask(remove("file", true)), AgentMessage::Done);
}

#[test]
fn files_are_renamed() {
    let agent = Agent::start();
    fs::write(agent.path("from"), "x").unwrap();
    let rename = |from: &str, to: &str| {
        agent.ask(Request::Rename { from: agent.path(from), to: agent.path(to) })
    };
    assert_eq!(rename("from", "to"), AgentMessage::Done);
    assert_eq!(fs::read(agent.path("to")).unwrap(), b"x");
    let lost = |path: &str| AgentMessage::Failed(Failure::NotFound(agent.path(path)));
    assert_eq!(rename("from", "to"), lost("from"));
    assert_eq!(rename("to", "no/such"), lost("no/such"));
}

#[test]
fn what_is_not_there_is_not_found_and_the_rest_has_a_number() {
    let agent = Agent::start();
    let path = agent.path("no/such");
    let requests = [
        read(&path),
        write(&path),
        Request::Stat { path: path.clone() },
        Request::List { path: path.clone() },
        Request::Remove { path: path.clone(), recursive: true },
    ];
    for request in requests {
        let answer = agent.ask(request.clone());
        assert_eq!(answer, AgentMessage::Failed(Failure::NotFound(path.clone())), "{request:?}");
    }
    let numbered = [
        (read("/etc"), libc::EISDIR),
        (write("/etc"), libc::EISDIR),
        (Request::List { path: "/etc/passwd".into() }, libc::ENOTDIR),
        (Request::Stat { path: "/a\0b".into() }, libc::EINVAL),
    ];
    for (request, expected) in numbered {
        let AgentMessage::Failed(Failure::Os { errno, .. }) = agent.ask(request.clone()) else {
            panic!("{request:?}")
        };
        assert_eq!(errno, expected, "{request:?}");
    }
    assert!(matches!(agent.open(read("etc/passwd")).failure(), Failure::Invalid(_)));
}
