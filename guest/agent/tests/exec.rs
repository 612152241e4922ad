//! Programs that the host has run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use common::{Agent, Ended, shell, wait_until_gone};
use tine_abi::agent::{AgentMessage, CHUNK, Exec, Exit, Failure, HostMessage, WindowSize, send};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn output_and_code_arrive_apart() {
    let ended = Agent::start().shell("echo out; echo err >&2; exit 3");
    let expected = Ended { stdout: b"out\n".into(), stderr: b"err\n".into(), exit: Exit::Code(3) };
    assert_eq!(ended, expected);
}

#[test]
fn a_signal_is_told_from_a_code() {
    let agent = Agent::start();
    assert_eq!(agent.shell("kill -TERM $$").exit, Exit::Signal(libc::SIGTERM));
    assert_eq!(agent.shell("kill -40 $$").exit, Exit::Signal(40));
    assert_eq!(agent.shell("exit 143").exit, Exit::Code(143));
}

#[test]
fn what_cannot_be_run_fails() {
    let agent = Agent::start();
    let fails = |exec: Exec| agent.exec(exec).failure();
    let run = |program: &str| Exec { argv: vec![program.into()], ..Exec::default() };
    assert_eq!(fails(Exec::default()), Failure::Invalid("argv is empty".into()));
    assert_eq!(fails(run("no-such-program")), Failure::NotFound("no-such-program".into()));
    let refused = Failure::Os { action: "running /etc/passwd".into(), errno: libc::EACCES };
    assert_eq!(fails(run("/etc/passwd")), refused);
    let lost = Exec { cwd: Some("/no/such".into()), ..run("true") };
    assert_eq!(fails(lost), Failure::NotFound("/no/such".into()));
    let stranger = Exec { user: Some("no-such-user".into()), ..run("true") };
    assert_eq!(fails(stranger), Failure::NotFound("user no-such-user".into()));
    let odd = Exec { env: BTreeMap::from([("A=B".into(), "c".into())]), ..run("true") };
    assert!(matches!(fails(odd), Failure::Invalid(_)));
    assert!(matches!(fails(run("a\0b")), Failure::Os { errno: libc::EINVAL, .. }));
    assert_eq!(agent.shell("true").exit, Exit::Code(0));
}

#[test]
fn the_environment_is_minimal_with_what_was_asked_for() {
    let agent = Agent::start();
    let env = BTreeMap::from([("A".into(), "b c".into()), ("HOME".into(), "/x".into())]);
    let argv = vec!["env".into()];
    let ended = agent.exec(Exec { argv, env, cwd: Some("/".into()), ..Exec::default() }).end();
    let mut lines: Vec<_> = text(&ended.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[..2], ["A=b c", "HOME=/x"]);
    assert!(lines[2].starts_with("PATH=") && lines[3].starts_with("USER="), "{lines:?}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_program_starts_where_and_as_what_it_should() {
    let agent = Agent::start();
    let exec = Exec { cwd: Some("/usr".into()), ..shell("pwd") };
    assert_eq!(text(&agent.exec(exec).end().stdout), "/usr\n");
    // Only root can become somebody else.
    if fs::metadata(agent.directory.path()).unwrap().uid() != 0 {
        return;
    }
    let nobody = Exec {
        user: Some("65534:12".into()),
        ..shell("id -u; id -G; pwd; echo x > /dev/stdout; kill -0 $PPID || echo kept out")
    };
    let ended = agent.exec(nobody).end();
    assert_eq!(text(&ended.stdout), "65534\n12\n/\nx\nkept out\n", "{}", text(&ended.stderr));
}

#[test]
fn a_program_starts_with_nothing_of_the_agent() {
    let ended = Agent::start().shell("echo /proc/self/fd/*; grep ^Sig[BI] /proc/self/status");
    let lines: Vec<_> = text(&ended.stdout).lines().collect();
    // The last one is the directory that the shell reads.
    let open = ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/self/fd/3"];
    assert_eq!(lines[0], open.join(" "));
    assert_eq!(lines[1], "SigBlk:\t0000000000000000");
    // The C library keeps 32 and 33 for itself, and whoever runs this may have ignored them.
    let ignored = u64::from_str_radix(lines[2].strip_prefix("SigIgn:\t").unwrap(), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0);
}

#[test]
fn input_is_null_or_streamed() {
    let agent = Agent::start();
    assert_eq!(agent.shell("cat; readlink /proc/self/fd/0").stdout, b"/dev/null\n");
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| (n ^ n >> 9) as u8).collect();
    let exec = Exec { argv: vec!["cat".into()], stdin: true, ..Exec::default() };
    let mut host = agent.exec(exec);
    host.started();
    let mut sender = common::Host(host.0.try_clone().unwrap());
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            bytes.chunks(CHUNK).for_each(|chunk| sender.data(chunk));
            sender.send(HostMessage::End);
        });
        host.rest()
    });
    assert_eq!(ended.exit, Exit::Code(0));
    assert!(ended.stdout == bytes, "{} bytes came back", ended.stdout.len());
}

#[test]
fn input_that_nobody_reads_is_thrown_away() {
    let agent = Agent::start();
    let mut host =
        agent.exec(Exec { stdin: true, ..shell("exec <&-; echo closed; read x; sleep 0.1") });
    host.started();
    host.until("closed");
    (0..20).for_each(|_| host.data(&[7; 60_000]));
    host.send(HostMessage::End);
    assert_eq!(host.rest().exit, Exit::Code(0));
}

#[test]
fn a_signal_passes_input_that_waits() {
    let agent = Agent::start();
    let mut host = agent.exec(Exec { stdin: true, ..shell("sleep 1000") });
    host.started();
    (0..3).for_each(|_| host.data(&[7; 60_000]));
    host.send(HostMessage::Signal(libc::SIGUSR1));
    assert_eq!(host.rest().exit, Exit::Signal(libc::SIGUSR1));
}

#[test]
fn signals_go_to_the_whole_group() {
    let agent = Agent::start();
    let inner = "trap 'echo inner; exit' TERM; echo up; while :; do sleep 0.01; done";
    let outer = "trap 'wait; echo outer; exit 5' TERM";
    let mut host = agent.exec(shell(&format!("{outer}; sh -c \"{inner}\" & wait")));
    host.started();
    host.until("up");
    host.send(HostMessage::Signal(libc::SIGTERM));
    let ended = host.rest();
    assert_eq!((text(&ended.stdout), ended.exit), ("inner\nouter\n", Exit::Code(5)));
}

#[test]
fn a_signal_that_does_not_exist_is_an_error() {
    let agent = Agent::start();
    let mut host = agent.exec(shell("sleep 1000"));
    let pid = host.started();
    host.send(HostMessage::Signal(1000));
    let expected = Failure::Os { action: "sending signal 1000".into(), errno: libc::EINVAL };
    assert_eq!(host.failure(), expected);
    wait_until_gone(pid);
}

#[test]
fn time_runs_out_for_the_whole_group() {
    let agent = Agent::start();
    let exec = Exec { timeout_ms: Some(50), ..shell("sleep 1000 & echo $!; wait") };
    let ended = agent.exec(exec).end();
    assert_eq!(ended.exit, Exit::TimedOut);
    wait_until_gone(text(&ended.stdout).trim().parse().unwrap());
}

#[test]
fn time_runs_out_even_when_the_host_does_not_listen() {
    let agent = Agent::start();
    let mut host = agent.exec(Exec { timeout_ms: Some(50), ..shell("exec yes") });
    let pid = host.started();
    wait_until_gone(pid);
    assert_eq!(host.rest().exit, Exit::TimedOut);
}

/// Sends input until the agent takes no more of it.
fn fill(host: &mut common::Host) {
    host.0.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let data = HostMessage::Data(vec![7; CHUNK]);
    while send(&mut host.0, &data).is_ok() {}
}

#[test]
fn a_host_that_goes_takes_the_group_with_it() {
    let agent = Agent::start();
    for much_input in [false, true] {
        let mut host = agent.exec(Exec { stdin: true, ..shell("sleep 1000 & echo $!; wait") });
        let leader = host.started();
        let Some(AgentMessage::Stdout(line)) = host.next() else { panic!() };
        if much_input {
            fill(&mut host);
        }
        drop(host);
        wait_until_gone(leader);
        wait_until_gone(text(&line).trim().parse().unwrap());
    }
}

#[test]
fn one_left_behind_does_not_keep_the_host_waiting() {
    let agent = Agent::start();
    let ended = agent.shell("sleep 1000 & echo $!");
    assert_eq!(ended.exit, Exit::Code(0));
    let sleeper: i32 = text(&ended.stdout).trim().parse().unwrap();
    // It lives on, and is reaped as an orphan.
    // SAFETY: kill touches no memory; the process was started for this test.
    assert_eq!(unsafe { libc::kill(sleeper, libc::SIGKILL) }, 0);
    wait_until_gone(sleeper as u32);
}

#[test]
fn one_left_behind_that_never_stops_writing_does_neither() {
    let agent = Agent::start();
    let ended = agent.shell("yes & echo $! >&2");
    assert_eq!(ended.exit, Exit::Code(0));
    wait_until_gone(text(&ended.stderr).trim().parse().unwrap());
}

#[test]
fn all_output_arrives_before_the_end() {
    let agent = Agent::start();
    let ended = agent.shell("head -c 3000000 /dev/zero; printf end >&2");
    assert_eq!((ended.stdout.len(), text(&ended.stderr)), (3_000_000, "end"));
}

#[test]
fn many_programs_end_at_a_time() {
    let agent = Agent::start();
    thread::scope(|scope| {
        for code in 0..64 {
            let agent = &agent;
            scope.spawn(move || {
                assert_eq!(agent.shell(&format!("exit {code}")).exit, Exit::Code(code));
            });
        }
    });
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid()));
    assert_eq!(children.unwrap(), "");
}

fn on_terminal(script: &str) -> Exec {
    Exec { terminal: Some(WindowSize { rows: 10, columns: 20 }), ..shell(script) }
}

#[test]
fn a_terminal_is_controlling_and_has_a_size() {
    let agent = Agent::start();
    let ended = agent.exec(on_terminal("tty >/dev/tty && stty size; echo $TERM >&2")).end();
    let lines: Vec<_> = text(&ended.stdout).lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!((&lines[1..], ended.exit), (["10 20", "xterm"].as_slice(), Exit::Code(0)));
}

#[test]
fn a_terminal_can_be_resized() {
    let agent = Agent::start();
    let mut host = agent
        .exec(on_terminal("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done"));
    host.started();
    host.until("up");
    host.send(HostMessage::Resize(WindowSize { rows: 33, columns: 44 }));
    assert_eq!(text(&host.rest().stdout), "33 44\r\n");
}

#[test]
fn what_is_typed_is_read_and_may_interrupt_or_end() {
    let agent = Agent::start();
    let ends: [(HostMessage, Exit); 3] = [
        (HostMessage::Data(vec![3]), Exit::Signal(libc::SIGINT)),
        (HostMessage::Data(vec![4]), Exit::Code(0)),
        (HostMessage::End, Exit::Code(0)),
    ];
    for (last, exit) in ends {
        let mut host = agent.exec(on_terminal("stty -echo; echo up; exec cat"));
        host.started();
        host.until("up");
        host.data(b"word\n");
        host.until("word");
        host.send(last);
        assert_eq!(host.rest().exit, exit);
    }
}

#[test]
fn only_a_terminal_has_a_size() {
    let agent = Agent::start();
    let mut host = agent.exec(shell("sleep 1000"));
    let pid = host.started();
    host.send(HostMessage::Resize(WindowSize { rows: 1, columns: 1 }));
    assert!(matches!(host.failure(), Failure::Invalid(_)));
    wait_until_gone(pid);
}
