//! Pause, resume, reset, kill, commands, failures; clock, timers and registers across forks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::*;
use tine_abi::command::{Command, Op, Status as Outcome, mix};
use tine_abi::pattern::Selection;
use tine_vmm::devices::serial::ConsoleLog;
use tine_vmm::kvm::ClockPolicy;
use tine_vmm::{Machine, MachineConfig, MachineError, SpawnOptions, Status};

fn op(op: Op) -> Command {
    Command::new(op, Selection::NONE)
}

#[test]
fn a_guest_greets_on_its_console_and_its_clone_speaks_on_its_own() {
    let host = host();
    let log = ConsoleLog::new(4096);
    let config = MachineConfig { ram_bytes: 16 << 20, vcpus: 2, ..MachineConfig::default() };
    let parent = Machine::boot(&host, &config, Box::new(log.clone())).unwrap();
    let text = String::from_utf8(log.contents()).unwrap();
    assert!(text.starts_with("tine workload: 2 vCPU, 16 MiB, TSC "), "{text:?}");
    let own = ConsoleLog::new(4096);
    let options = SpawnOptions { console: Box::new(own.clone()), ..SpawnOptions::new() };
    let child = parent.fork(vec![options]).unwrap().remove(0).unwrap();
    run(&child, 0, &op(Op::Say));
    assert!(String::from_utf8(own.contents()).unwrap().starts_with("heartbeat "));
    assert_eq!(String::from_utf8(log.contents()).unwrap(), text);
}

#[test]
fn a_paused_machine_stands_still_and_goes_on_where_it_was() {
    let host = host();
    let machine = boot(&host, 16, 4);
    let tickets: Vec<_> =
        (0..4).map(|vcpu| machine.submit(vcpu, &op(Op::Spin).amount(300)).unwrap()).collect();
    thread::sleep(Duration::from_millis(20));
    machine.pause().unwrap();
    assert_eq!(machine.status(), Status::Paused);
    let beats =
        |machine: &Machine| (0..4).map(|vcpu| machine.heartbeat(vcpu).unwrap()).collect::<Vec<_>>();
    let before = beats(&machine);
    thread::sleep(Duration::from_millis(30));
    assert_eq!(beats(&machine), before);
    machine.pause().unwrap();
    let child = fork(&machine);
    assert_eq!(machine.status(), Status::Paused, "a fork leaves a paused parent paused");
    assert_eq!(beats(&machine), before);
    machine.resume().unwrap();
    assert_eq!(machine.status(), Status::Running);
    for ticket in tickets {
        assert_eq!(machine.wait(ticket, LIMIT).unwrap().status, Outcome::Done);
    }
    for vcpu in 0..4u8 {
        child.wait(child.current(vcpu).unwrap(), LIMIT).unwrap();
        assert!(child.heartbeat(vcpu).unwrap() > before[usize::from(vcpu)]);
    }
}

#[test]
fn commands_are_answered_refused_cancelled_and_not_mixed_up() {
    let host = host();
    let machine = boot(&host, 16, 2);
    let compute = op(Op::Compute).seed(3).amount(1000);
    let expected = (0..1000).fold(3, |value, _| mix(value));
    assert_eq!(run(&machine, 1, &compute).value, expected);
    assert!(matches!(machine.submit(2, &compute), Err(MachineError::NoVcpu { vcpu: 2, vcpus: 2 })));
    let beyond = Command::new(Op::Dirty, Selection::sequential(0, data_pages(&machine) + 1));
    assert!(matches!(machine.run(0, &beyond, LIMIT), Err(MachineError::Refused { .. })));
    let overflow = Command::new(Op::Read, Selection::sequential(u64::MAX, 2));
    assert!(matches!(machine.run(0, &overflow, LIMIT), Err(MachineError::Refused { .. })));

    let ticket = machine.submit(0, &op(Op::Spin).amount(60_000)).unwrap();
    assert!(machine.busy());
    assert!(matches!(machine.submit(0, &compute), Err(MachineError::Busy { vcpu: 0 })));
    assert_eq!(run(&machine, 1, &compute).value, expected, "the other vCPU is free");
    assert!(matches!(
        machine.wait(ticket, Duration::from_millis(10)),
        Err(MachineError::Timeout { .. })
    ));
    machine.cancel(0).unwrap();
    assert_eq!(machine.wait(ticket, LIMIT).unwrap().status, Outcome::Cancelled);
    assert!(!machine.busy());
}

#[test]
fn reset_goes_back_to_the_snapshot_in_the_same_machine() {
    let host = host();
    let parent = boot(&host, 32, 2);
    dirty(&parent, 300, 1);
    let child = fork(&parent);
    assert!(matches!(child.reset(), Err(MachineError::NoOrigin)));
    assert!(matches!(parent.reset(), Err(MachineError::NoOrigin)));
    dirty(&parent, 300, 2);
    let (snapshot, _) = parent.snapshot().unwrap();
    let expected = checksum(&parent);
    for memory in [tine_vmm::MemoryMode::Cow, tine_vmm::MemoryMode::Eager] {
        let options = SpawnOptions { memory, ..SpawnOptions::new() };
        let clone = Machine::spawn(&host, &snapshot, options).unwrap();
        for seed in 3..6 {
            dirty(&clone, 500, seed);
            let spinning = clone.submit(1, &op(Op::Spin).amount(60_000)).unwrap();
            assert_ne!(checksum(&clone), expected);
            clone.reset().unwrap();
            assert!(matches!(clone.wait(spinning, LIMIT), Err(MachineError::Lost)));
            assert_eq!(checksum(&clone), expected);
            assert_eq!(clone.heartbeat(1).unwrap(), parent.heartbeat(1).unwrap());
        }
    }
}

#[test]
fn a_killed_machine_says_so_and_lets_go_of_those_who_wait() {
    let host = host();
    let machine = Arc::new(boot(&host, 16, 1));
    let ticket = machine.submit(0, &op(Op::Spin).amount(60_000)).unwrap();
    let waiter = {
        let machine = Arc::clone(&machine);
        thread::spawn(move || machine.wait(ticket, LIMIT))
    };
    thread::sleep(Duration::from_millis(20));
    machine.kill();
    machine.kill();
    assert!(matches!(waiter.join().unwrap(), Err(MachineError::Killed)));
    assert_eq!(machine.status(), Status::Killed);
    assert!(matches!(machine.pause(), Err(MachineError::Killed)));
    assert!(matches!(machine.resume(), Err(MachineError::Killed)));
    assert!(matches!(machine.snapshot(), Err(MachineError::Killed)));
    assert!(matches!(machine.fork(vec![SpawnOptions::new()]), Err(MachineError::Killed)));
    assert!(matches!(machine.submit(0, &op(Op::Say)), Err(MachineError::Killed)));
}

#[test]
fn a_kill_during_a_fork_leaves_parent_or_child_whole() {
    let host = host();
    for round in 0..12u64 {
        let parent = Arc::new(boot(&host, 32, 2));
        dirty(&parent, 1500, round);
        let expected = checksum(&parent);
        let start = Arc::new(Barrier::new(2));
        let killer = {
            let (parent, start) = (Arc::clone(&parent), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                thread::sleep(Duration::from_micros(400 * round));
                parent.kill();
            })
        };
        start.wait();
        let forked = parent.fork(vec![SpawnOptions::new(), SpawnOptions::new()]);
        killer.join().unwrap();
        assert_eq!(parent.status(), Status::Killed);
        match forked {
            Ok(children) => {
                for child in children {
                    assert_eq!(checksum(&child.unwrap()), expected);
                }
            }
            Err(error) => assert!(matches!(error, MachineError::Killed), "{error}"),
        }
    }
}

#[test]
fn many_threads_may_fork_pause_and_command_one_parent() {
    let host = host();
    let parent = Arc::new(boot(&host, 16, 2));
    dirty(&parent, 200, 1);
    let expected = checksum(&parent);
    let threads: Vec<_> = (0..6)
        .map(|index| {
            let parent = Arc::clone(&parent);
            thread::spawn(move || {
                for _ in 0..4 {
                    match index % 3 {
                        0 => assert_eq!(checksum(&fork(&parent)), expected),
                        1 => {
                            for child in fork_many(&parent, 2) {
                                assert_eq!(checksum(&child), expected);
                            }
                        }
                        _ => {
                            parent.pause().unwrap();
                            parent.resume().unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(parent.status(), Status::Running);
    assert_eq!(checksum(&parent), expected);
}

#[test]
fn timer_interrupts_arrive_before_during_and_after_a_fork() {
    let host = host();
    let parent = boot(&host, 16, 2);
    // The local APIC's timer counts at 1 GHz under KVM: a tick each half millisecond.
    let timer = op(Op::Timer).seed(500_000);
    assert!(run(&parent, 0, &timer.amount(5)).done >= 5);
    let ticket = parent.submit(1, &timer.amount(400)).unwrap();
    thread::sleep(Duration::from_millis(20));
    let child = fork(&parent);
    // The child is in the middle of waiting: its timer must go on by itself.
    let reply = child.wait(child.current(1).unwrap(), LIMIT).unwrap();
    assert!(reply.done >= 400 && reply.status == Outcome::Done);
    assert!(parent.wait(ticket, LIMIT).unwrap().done >= 400);
    assert!(run(&child, 1, &timer.amount(3)).done >= 3, "and again after that");
    assert!(run(&child, 0, &timer.amount(3)).done >= 3, "on the other vCPU too");
}

fn clock(machine: &Machine) -> (Duration, Duration) {
    let reply = run(machine, 0, &op(Op::Clock));
    (Duration::from_nanos(reply.value), Duration::from_nanos(reply.value2))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[test]
fn clocks_are_right_after_a_fork_and_never_go_back() {
    let host = host();
    let parent = boot(&host, 16, 1);
    let (monotonic, wall) = clock(&parent);
    assert!(wall.abs_diff(now()) < Duration::from_millis(500), "at boot");
    let (snapshot, _) = parent.snapshot().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let clone = Machine::spawn(&host, &snapshot, SpawnOptions::new()).unwrap();
    let (later, wall) = clock(&clone);
    assert!(wall.abs_diff(now()) < Duration::from_millis(500), "the snapshot was old");
    assert!(later > monotonic);
    if host.clock_realtime() {
        assert!(later - monotonic > Duration::from_millis(1400), "time passed for the clone too");
    }
    let options = SpawnOptions { clock: ClockPolicy::Continue, ..SpawnOptions::new() };
    let frozen = Machine::spawn(&host, &snapshot, options).unwrap();
    let (after, wall) = clock(&frozen);
    assert!(after >= monotonic, "its clock goes on from the snapshot's");
    assert!(wall.abs_diff(now()) < Duration::from_millis(500));
    let mut last = clock(&parent).0;
    for _ in 0..5 {
        let child = fork(&parent);
        let (here, there) = (clock(&parent).0, clock(&child).0);
        assert!(here > last && there > last);
        last = here;
    }
}

#[test]
fn shapes_beyond_the_guest_are_refused() {
    let host = host();
    for (ram_bytes, vcpus) in [(0, 1), (4096, 1), (u64::MAX, 1), (16 << 20, 0), (16 << 20, 200)] {
        let config = MachineConfig { ram_bytes, vcpus, ..MachineConfig::default() };
        let result = Machine::boot(&host, &config, Box::new(std::io::sink()));
        assert!(matches!(result, Err(MachineError::Boot(_))), "{ram_bytes} bytes, {vcpus} vCPUs");
    }
}

#[test]
fn the_backend_is_found_by_measuring() {
    use tine_vmm::kvm::{Backend, Ring0};
    let backend = Backend::measure(&host()).unwrap();
    let emulated = backend.module == "kvm_pvm";
    assert_eq!(backend.ring0 == Ring0::Emulated, emulated, "{backend:?}");
}

#[test]
fn pages_are_renewed_at_their_pace_and_looked_at() {
    let host = host();
    let machine = boot(&host, 16, 1);
    let pages = data_pages(&machine);
    let all = |op| Command::new(op, Selection::scattered(pages, pages, 3));
    let first = run(&machine, 0, &all(Op::Renew).seed(7));
    assert_eq!((first.status, first.done, first.value), (Outcome::Done, pages, 0));
    let found = |seed| {
        let reply = run(&machine, 0, &all(Op::Renewed).seed(seed));
        (reply.value, reply.value2)
    };
    assert_eq!(found(7), (pages, 0));
    // None of the next version yet; of the one before, no page is left.
    assert_eq!(found(8), (0, 0));
    assert_eq!(found(9), (0, pages));

    // A page every 2 ms, for 200 ms and a little more.
    let ticket = machine.submit(0, &all(Op::Renew).seed(8).amount(500)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    machine.cancel(0).unwrap();
    let reply = machine.wait(ticket, LIMIT).unwrap();
    assert_eq!(reply.status, Outcome::Cancelled);
    let ms = reply.ticks() as f64 / f64::from(machine.tsc_khz());
    let due = (ms / 2.0) as u64 + 1;
    assert!(reply.done <= due && reply.done > 0, "{} of {due} in {ms} ms", reply.done);
    assert!(reply.value2 > 0);
    assert_eq!(found(8), (reply.done, 0));

    // One page of another version among those that were not renewed again.
    let last = all(Op::Renew).selection.iter().last().unwrap();
    run(&machine, 0, &Command::new(Op::Renew, Selection::sequential(last, 1)).seed(1));
    assert_eq!(found(8), (reply.done, 1));
}
