//! A cell that one holder uses alone.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cgroup::{CellLimits, Cgroups, Leaf, OVER_LIMIT};
use super::turn::Turn;
use super::{Process, Switchboard};
use crate::channel::{Channel, ChannelError};
use crate::fault::{Fault, Kind};
use crate::protocol::{Answer, Numbered, Request, Said, VERSION};

/// How long a new process may take to say that it is there.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// A cell that one holder uses alone. Its process is killed when nobody holds it.
#[derive(Debug)]
pub struct Line {
    channel: Channel,
    process: Process,
    pub(super) next: u64,
    /// What it said beside answers, for whoever has it later.
    pub(super) aside: Vec<Said>,
    /// What bounds it, where the host can.
    leaf: Option<Leaf>,
    /// Until it serves, it is the first that has to go when memory runs out.
    turn: Turn,
}

/// The end of a channel for a process that is about to be made.
#[derive(Debug)]
pub(super) struct Expected(Channel);

impl Expected {
    /// Both ends: this one, and that of the process.
    pub(super) fn pair() -> Result<(Self, Channel), Fault> {
        let (own, other) = Channel::pair().map_err(|error| Fault::of(Kind::Room, &error))?;
        own.tell_senders().map_err(|error| Fault::internal(&error))?;
        Ok((Self(own), other))
    }

    /// Waits until the process says that it is there.
    pub(super) fn greet(self) -> Result<Line, Fault> {
        self.greet_within(HELLO_LIMIT)
    }

    fn greet_within(self, limit: Duration) -> Result<Line, Fault> {
        let Self(channel) = self;
        wait(&channel, Instant::now() + limit, limit)?;
        let packet = channel.receive::<Said>().map_err(|error| gone(&error))?;
        // Killed, whatever comes out, unless it is the line's.
        let pid = packet.sender.ok_or_else(|| nonsense("without a sender"))?;
        let process = Process::find(pid).map_err(|error| Fault::of(Kind::Gone, &error));
        match packet.message {
            Said::Hello { version: VERSION } => {}
            Said::Hello { version } => {
                let text = format!("a cell speaks version {version}, not {VERSION}");
                return Err(Fault::new(Kind::Internal, text));
            }
            Said::Dying(reason) => return Err(Fault::new(Kind::Internal, reason)),
            _ => return Err(nonsense("before it has greeted")),
        }
        let turn = Turn::first(pid);
        Ok(Line { channel, process: process?, next: 0, aside: Vec::new(), leaf: None, turn })
    }

    /// The same for a process that was forked from a cell: it gets its own pagemap in place of its
    /// parent's.
    pub(super) fn greet_frozen(self) -> Result<Line, Fault> {
        let mut line = self.greet()?;
        line.give_pagemap()?;
        Ok(line)
    }
}

/// An answer to something else than was asked for.
pub(super) fn unexpected(answer: &Answer) -> Fault {
    Fault::new(Kind::Gone, format!("the cell answered with {answer:.40?}"))
}

fn nonsense(when: &str) -> Fault {
    Fault::new(Kind::Gone, format!("the cell spoke {when}, and was killed"))
}

pub(super) fn gone(error: &ChannelError) -> Fault {
    Fault::new(Kind::Gone, format!("the cell is gone: {}", crate::fault::with_causes(error)))
}

/// Waits until something can be received, at most until `until`, which is after `limit`.
fn wait(channel: &Channel, until: Instant, limit: Duration) -> Result<(), Fault> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(channel, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let text = format!("the cell did not answer within {limit:?}, and was killed");
                return Err(Fault::new(Kind::Timeout, text));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Fault::internal(&error)),
        }
    }
}

impl Line {
    /// Number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Asks for something, with `files`, and waits for the answer, at most `limit`.
    pub fn call(
        &mut self,
        request: Request,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), Fault> {
        self.ask(request, files)?;
        self.answer(limit, &mut |_, _| {})
    }

    /// Asks for something, with `files`.
    pub fn ask(&mut self, request: Request, files: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        self.next += 1;
        let numbered = Numbered { number: self.next, request };
        self.channel.try_send(&numbered, files).map_err(|error| gone(&error))
    }

    /// Waits for the answer to the last that was asked for, at most `limit` after the last sign
    /// of `progress`.
    pub fn answer(
        &mut self,
        limit: Duration,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Answer, Vec<OwnedFd>), Fault> {
        answer(&self.channel, self.next, limit, &mut self.aside, progress)
    }

    /// The same, but `progress` says whether to go on.
    pub(super) fn answer_while(
        &mut self,
        limit: Duration,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(Answer, Vec<OwnedFd>), Fault> {
        let mut given_up = false;
        let process = &self.process;
        let killed = &mut given_up;
        let answer = answer(&self.channel, self.next, limit, &mut self.aside, &mut |done, of| {
            if !*killed && !progress(done, of) {
                *killed = true;
                process.kill();
            }
        });
        match given_up {
            true => Err(Fault::state("it was given up")),
            false => answer,
        }
    }

    /// Channel, process and what bounds it, for another holder; and when it has to go.
    pub(super) fn into_parts(self) -> (Channel, Process, Option<Leaf>, Turn) {
        let Self { channel, process, leaf, turn, .. } = self;
        (channel, process, leaf, turn)
    }

    /// `fault`, of a process that is gone, with how it ended as far as `switchboard` knows.
    pub(super) fn explain(&self, fault: Fault, switchboard: &Switchboard) -> Fault {
        if fault.kind != Kind::Gone {
            return fault;
        }
        let how = match &self.leaf {
            Some(leaf) if leaf.ran_out_of_memory() => Some(OVER_LIMIT.to_owned()),
            _ => switchboard.how_it_ended(self.process.inner_pid),
        };
        match how {
            Some(how) => Fault::new(Kind::Gone, format!("its process is gone: {how}")),
            None => fault,
        }
    }

    /// Moves it into a leaf of `cgroups`, where there are any.
    pub(super) fn enter(&mut self, cgroups: Option<&Cgroups>) -> Result<(), Fault> {
        if let Some(cgroups) = cgroups {
            let leaf = cgroups.leaf(self.process.pid);
            self.leaf = Some(leaf.map_err(|error| Fault::of(Kind::Room, &error))?);
        }
        Ok(())
    }

    /// Sets the limits that are named.
    pub(super) fn limit(&self, limits: &CellLimits) -> Result<(), Fault> {
        match &self.leaf {
            Some(leaf) => leaf.limit(limits).map_err(|error| Fault::of(Kind::Room, &error)),
            None if limits.is_none() => Ok(()),
            None => Err(Fault::new(
                Kind::Value("limits".into()),
                "this host can't limit sandboxes one by one: it has no cgroup v2 with the \
                 controllers for cpu, memory and pids that the daemon may divide",
            )),
        }
    }

    /// Gives it what it can't open itself: its pagemap.
    pub fn give_pagemap(&mut self) -> Result<(), Fault> {
        let path = format!("/proc/{}/pagemap", self.process.pid);
        let file = File::open(path).map_err(|error| Fault::of(Kind::Gone, &error))?;
        self.call(Request::Pagemap, &[file.as_fd()], HELLO_LIMIT).map(drop)
    }
}

/// Waits on `channel` for the answer to request `number`, at most `limit` after the last sign of
/// `progress`; what else is said goes to `aside`.
fn answer(
    channel: &Channel,
    number: u64,
    limit: Duration,
    aside: &mut Vec<Said>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Answer, Vec<OwnedFd>), Fault> {
    let mut until = Instant::now() + limit;
    loop {
        wait(channel, until, limit)?;
        let packet = channel.receive::<Said>().map_err(|error| gone(&error))?;
        match packet.message {
            Said::Answer { number: of, result } if of == number => {
                return result.map(|answer| (answer, packet.files));
            }
            Said::Progress { done, of } => {
                progress(done, of);
                until = Instant::now() + limit;
            }
            Said::Dying(reason) => return Err(Fault::new(Kind::Gone, reason)),
            Said::Hello { .. } | Said::Answer { .. } => return Err(nonsense("out of turn")),
            said @ (Said::Console(_) | Said::State { .. }) => aside.push(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peer::{Peer, hello, say_bytes};
    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    fn answer_to(number: u64) -> Said {
        Said::Answer { number, result: Ok(Answer::Done) }
    }

    /// What comes of a first request to a cell that does `script` after its greeting; it must
    /// be dead as soon as the line is.
    fn fault_of(limit: Duration, script: impl FnOnce(&Channel)) -> Fault {
        let (mut line, peer) = Peer::greeted(script);
        let fault = line.call(Request::Pause, &[], limit).unwrap_err();
        drop(line);
        peer.must_be_killed();
        fault
    }

    #[test]
    fn a_cell_that_speaks_nonsense_is_killed() {
        let fault = fault_of(LONG, |channel| say_bytes(channel, &[0xff; 100]));
        assert_eq!(fault.kind, Kind::Gone);
        assert!(fault.text.contains("nonsense"), "{fault}");
        let too_long = fault_of(LONG, |channel| say_bytes(channel, &[1; 20_000]));
        assert!(too_long.text.contains("too long"), "{too_long}");
    }

    #[test]
    fn a_cell_that_answers_what_was_not_asked_is_killed() {
        for number in [0, 2, u64::MAX] {
            let fault = fault_of(LONG, |channel| channel.send(&answer_to(number), &[]).unwrap());
            assert!(fault.text.contains("out of turn"), "{fault}");
        }
    }

    #[test]
    fn a_cell_that_greets_twice_is_killed() {
        let fault = fault_of(LONG, |channel| channel.send(&hello(), &[]).unwrap());
        assert!(fault.text.contains("out of turn"), "{fault}");
    }

    #[test]
    fn a_cell_that_is_silent_is_killed_after_the_limit() {
        assert_eq!(fault_of(SOON, |_| {}).kind, Kind::Timeout);
        // What it prints meanwhile is no answer.
        let chatter = |channel: &Channel| channel.send(&Said::Console(vec![7]), &[]).unwrap();
        assert_eq!(fault_of(SOON, chatter).kind, Kind::Timeout);
    }

    #[test]
    fn a_cell_that_gives_up_says_why() {
        let dying = Said::Dying("for this reason".into());
        let fault = fault_of(LONG, |channel| channel.send(&dying, &[]).unwrap());
        assert_eq!((fault.kind, fault.text.as_str()), (Kind::Gone, "for this reason"));
    }

    #[test]
    fn what_is_said_beside_an_answer_is_kept() {
        let (mut line, _peer) = Peer::greeted(|channel| {
            channel.send(&Said::Console(b"a line".to_vec()), &[]).unwrap();
            channel.send(&answer_to(1), &[]).unwrap();
        });
        let (answer, _) = line.call(Request::Pause, &[], LONG).unwrap();
        assert!(matches!(answer, Answer::Done));
        assert!(matches!(&line.aside[..], [Said::Console(bytes)] if bytes == b"a line"));
    }

    #[test]
    fn whoever_does_not_greet_as_it_should_is_no_cell() {
        let later = Said::Hello { version: VERSION + 1 };
        for first in [answer_to(0), later, Said::Console(vec![]), Said::Dying("so".into())] {
            let (expected, peer) = Peer::start(|channel| channel.send(&first, &[]).unwrap());
            println!("{}", expected.greet_within(LONG).unwrap_err());
            peer.must_be_killed();
        }
        let (expected, _peer) = Peer::start(|channel| say_bytes(channel, &[0xff; 10]));
        assert!(expected.greet_within(LONG).unwrap_err().text.contains("nonsense"));
        let (expected, _peer) = Peer::start(|_| {});
        assert_eq!(expected.greet_within(SOON).unwrap_err().kind, Kind::Timeout);
        let (expected, _peer) = Peer::start(|_| crate::inside::fork::leave(0));
        assert_eq!(expected.greet_within(LONG).unwrap_err().kind, Kind::Gone);
    }
}
