//! What runs in a cell: one thread that serves the keeper, beside those of the machine.
//!
//! Nothing here waits for a guest but what can't be done otherwise (booting, and making a
//! clone of Linux another machine): the thread that serves must be free to fork, and a fork
//! must find no other thread at work.

mod console;
pub(crate) mod fork;
mod frozen;
mod requests;

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tine_vmm::fork::{Frozen, Prepared};
use tine_vmm::{KvmHost, Machine, Status, Ticket};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::channel::{Channel, ChannelError, descriptor};
use crate::fault::{Fault, with_causes};
use crate::protocol::{Answer, Numbered, Said, VERSION};
use console::Console;

/// What is in the cell.
enum Contents {
    /// Nothing yet.
    Blank,
    /// A clone that may start.
    Prepared(Box<Prepared>),
    /// A machine.
    Machine(Box<Machine>),
    /// What a machine of another cell was.
    Frozen(Frozen),
}

/// A command whose answer is waited for.
struct Waiting {
    number: u64,
    ticket: Ticket,
    until: Instant,
    limit: Duration,
}

/// What came of a request.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is soon gone")]
enum Outcome {
    /// This, and files with it.
    Now(Result<(Answer, Vec<OwnedFd>), Fault>),
    /// It is answered later.
    Later,
}

/// One cell, from within.
pub(crate) struct Cell {
    channel: Arc<Channel>,
    host: Arc<KvmHost>,
    contents: Contents,
    console: Console,
    /// Rung by the machine.
    bell: EventFd,
    waiting: Vec<Waiting>,
    told: Option<(Status, bool)>,
}

impl Cell {
    fn new(channel: Channel, host: Arc<KvmHost>, contents: Contents) -> std::io::Result<Self> {
        let channel = Arc::new(channel);
        let bell = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let console = Console::new(Arc::clone(&channel), bell.try_clone()?);
        Ok(Self { channel, host, contents, console, bell, waiting: Vec::new(), told: None })
    }

    fn say(&self, said: &Said) -> Result<(), ChannelError> {
        self.channel.send(said, &[])
    }

    fn answer(
        &self,
        number: u64,
        result: Result<(Answer, Vec<OwnedFd>), Fault>,
    ) -> Result<(), ChannelError> {
        let (result, files) = match result {
            Ok((answer, files)) => (Ok(answer), files),
            Err(fault) => (Err(fault), vec![]),
        };
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.channel.send(&Said::Answer { number, result }, &files)
    }

    /// Serves until the keeper is gone.
    fn serve(&mut self) -> Result<Infallible, ChannelError> {
        self.say(&Said::Hello { version: VERSION })?;
        loop {
            self.wait()?;
            // What is asked goes first: somebody waits for it.
            while let Some(packet) = self.channel.try_receive::<Numbered>()? {
                let Numbered { number, request } = packet.message;
                let outcome = self.perform(number, request, packet.files);
                // Whoever has the answer must find what it says.
                self.tell_state()?;
                match outcome {
                    Outcome::Now(result) => self.answer(number, result)?,
                    Outcome::Later => {}
                }
            }
            // A bell without a machine, or none at all, reads as an error.
            let _ = self.bell.read();
            self.console.flush()?;
            self.tell_state()?;
            self.answer_waiting()?;
        }
    }

    /// Waits for the keeper, the machine, or the first limit that passes.
    fn wait(&self) -> Result<(), ChannelError> {
        let now = Instant::now();
        let limits = self.waiting.iter().map(|waiting| waiting.until);
        let until = limits.chain(self.console.flush_at()).min();
        let limit = until.map(|until| {
            let left = until.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let bell = descriptor(&self.bell);
        let mut sources = [
            PollFd::new(&*self.channel, PollFlags::IN),
            PollFd::from_borrowed_fd(bell, PollFlags::IN),
        ];
        match poll(&mut sources, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(ChannelError::Io("waiting for", error.into())),
        }
    }

    /// Answers those whose command is done, lost, or took too long.
    fn answer_waiting(&mut self) -> Result<(), ChannelError> {
        let Contents::Machine(machine) = &self.contents else { return Ok(()) };
        let now = Instant::now();
        let mut done = Vec::new();
        self.waiting.retain(|waiting| {
            let limit = if waiting.until <= now { waiting.limit } else { Duration::ZERO };
            match machine.wait(waiting.ticket, Duration::ZERO) {
                Err(tine_vmm::MachineError::Timeout { .. }) if limit.is_zero() => true,
                Err(tine_vmm::MachineError::Timeout { vcpu, .. }) => {
                    let late = tine_vmm::MachineError::Timeout { vcpu, limit };
                    done.push((waiting.number, Err(late.into())));
                    false
                }
                Ok(reply) => {
                    done.push((waiting.number, Ok((Answer::Reply(reply.encode()), vec![]))));
                    false
                }
                Err(error) => {
                    done.push((waiting.number, Err(error.into())));
                    false
                }
            }
        });
        done.into_iter().try_for_each(|(number, result)| self.answer(number, result))
    }

    /// Tells the keeper what the machine does, when that has changed.
    fn tell_state(&mut self) -> Result<(), ChannelError> {
        let Contents::Machine(machine) = &self.contents else { return Ok(()) };
        let state = (machine.status(), machine.busy());
        if self.told.as_ref() == Some(&state) {
            return Ok(());
        }
        self.told = Some(state.clone());
        let (status, busy) = state;
        self.say(&Said::State { status: shortened(status), busy })
    }
}

/// The same status, with a reason that fits into a message.
fn shortened(status: Status) -> Status {
    match status {
        Status::Failed(reason) => Status::Failed(Fault::state(reason).text),
        status => status,
    }
}

/// Serves the keeper at the other end of `channel` until it is gone. What is left of the
/// process is to end then.
pub(crate) fn run(channel: Channel, host: Arc<KvmHost>) -> u8 {
    serve(channel, host, Contents::Blank)
}

fn serve(channel: Channel, host: Arc<KvmHost>, contents: Contents) -> u8 {
    let mut cell = match Cell::new(channel, host, contents) {
        Ok(cell) => cell,
        Err(_) => return 1,
    };
    match cell.serve() {
        Err(ChannelError::Closed) => 0,
        Err(error) => {
            // The keeper learns what can still be told.
            let _ = cell.say(&Said::Dying(with_causes(&error)));
            1
        }
    }
}
