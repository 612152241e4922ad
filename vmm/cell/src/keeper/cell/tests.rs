//! Cells whose process is played by the test.

use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use tine_vmm::End;

use super::super::peer::{Peer, hello, say_bytes};
use super::*;
use crate::protocol::VERSION;

const LONG: Duration = Duration::from_secs(30);

/// A cell that does `script` after its greeting, heard as the switchboard does.
fn cell(script: impl FnOnce(&Channel)) -> (Cell, Peer, JoinHandle<()>) {
    let (line, peer) = Peer::greeted(script);
    let hearer = Arc::new(Hearer::new(line, Rank::of_clones(), Box::new(|_| {})).0);
    let ladder = Ladder::default();
    let started = Started { ladder, ram_bytes: 0, vcpus: 1, tsc_khz: 0 };
    let cell = Cell { hearer: Arc::clone(&hearer), started, pause: None };
    let thread = std::thread::spawn(move || {
        let mut goes_on = true;
        while goes_on {
            poll(&mut [PollFd::new(hearer.channel(), PollFlags::IN)], None).unwrap();
            goes_on = hearer.hear();
        }
    });
    (cell, peer, thread)
}

/// Waits until somebody has asked for something.
fn wait_asked(channel: &Channel) -> u64 {
    channel.receive::<Numbered>().unwrap().message.number
}

fn answer(channel: &Channel, number: u64, answer: Answer) {
    channel.send(&Said::Answer { number, result: Ok(answer) }, &[]).unwrap();
}

/// The reason for which a cell has failed that did `script` when it was asked; it must have
/// been killed.
fn why_killed(script: impl FnOnce(&Channel, u64)) -> String {
    let (cell, peer, thread) = cell(|channel| script(channel, wait_asked(channel)));
    let fault = cell.dirty_pages().unwrap_err();
    peer.must_be_killed();
    let Status::Failed(reason) = cell.status() else { panic!("{:?}", cell.status()) };
    assert!(fault.text.contains(&reason), "{fault}, and {reason}");
    assert!(cell.pause().is_err());
    thread.join().unwrap();
    reason
}

#[test]
fn a_cell_that_speaks_nonsense_is_killed_and_has_failed() {
    let reason = why_killed(|channel, _| say_bytes(channel, &[0xff; 100]));
    assert!(reason.contains("nonsense"), "{reason}");
    let reason = why_killed(|channel, number| answer(channel, number, Answer::Done));
    assert!(reason.contains("answered with Done"), "{reason}");
    let reason = why_killed(|channel, _| channel.send(&hello(), &[]).unwrap());
    assert!(reason.contains("second time"), "{reason}");
    let reason = why_killed(|channel, _| channel.send(&Said::Dying("so".into()), &[]).unwrap());
    assert!(reason.contains("gave up: so"), "{reason}");
    // It is not heard any more after that.
    let reason = why_killed(|channel, number| {
        channel.send(&Said::Hello { version: VERSION }, &[]).unwrap();
        answer(channel, number, Answer::Count(1));
    });
    assert!(reason.contains("second time"), "{reason}");
}

#[test]
fn answers_that_nobody_waits_for_are_passed_over() {
    let (cell, _peer, _) = cell(|channel| {
        let number = wait_asked(channel);
        answer(channel, number + 7, Answer::Count(1));
        answer(channel, 0, Answer::Done);
        answer(channel, number, Answer::Count(5));
    });
    assert_eq!(cell.dirty_pages().unwrap(), 5);
    assert_eq!(cell.status(), Status::Running);
}

#[test]
fn a_cell_that_does_not_answer_is_killed_and_has_failed() {
    let (cell, peer, thread) = cell(|_| {});
    let limit = Duration::from_millis(50);
    let fault = cell.call_within(Request::Pause, &[], limit).unwrap_err();
    assert_eq!(fault.kind, Kind::Timeout);
    peer.must_be_killed();
    assert!(matches!(cell.status(), Status::Failed(reason) if reason.contains("not answer")));
    thread.join().unwrap();
}

#[test]
fn all_who_wait_hear_when_the_process_goes() {
    let (cell, peer, thread) = cell(|channel| {
        for _ in 0..4 {
            wait_asked(channel);
        }
        crate::inside::fork::leave(3);
    });
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| cell.call_within(Request::Pause, &[], LONG))).collect();
        for thread in threads {
            assert!(thread.join().unwrap().unwrap_err().text.contains("gone"));
        }
    });
    thread.join().unwrap();
    assert_eq!(cell.status(), Status::Failed("its process is gone".into()));
    cell.hearer.ended("it gave up with code 3");
    let Status::Failed(reason) = cell.status() else { panic!("{:?}", cell.status()) };
    assert!(reason.ends_with("gone: it gave up with code 3"), "{reason}");
    drop(peer);
}

#[test]
fn a_guest_that_ended_has_not_failed_when_its_process_goes() {
    let off = Status::Ended(End::PowerOff);
    let told = Said::State { status: off.clone(), busy: false };
    let (cell, _peer, thread) = cell(|channel| {
        channel.send(&told, &[]).unwrap();
        crate::inside::fork::leave(0);
    });
    thread.join().unwrap();
    cell.hearer.ended("it left");
    assert_eq!(cell.status(), off);
}
