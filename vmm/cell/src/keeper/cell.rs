//! A cell that many use at once.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tine_abi::command::{Command, Reply};
use tine_vmm::kvm::stats::KvmCounters;
use tine_vmm::memory::Ledger;
use tine_vmm::{Ladder, Status};

use super::cgroup::{Leaf, OVER_LIMIT};
use super::line::gone;
use super::turn::Rank;
use super::{Line, Process, Switchboard};
use crate::channel::{Channel, ChannelError};
use crate::fault::{Fault, Kind};
use crate::protocol::{Answer, Numbered, Request, Said, Started};

/// How long a cell may take for what it does at once. One that takes longer hangs, and is killed.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// Where a guest's console output goes.
pub type ConsoleOutput = Box<dyn FnMut(&[u8]) + Send>;

type AnswerAndFiles = Result<(Answer, Vec<OwnedFd>), Fault>;

#[derive(Debug)]
struct Known {
    status: Status,
    busy: bool,
    /// The channel is closed, or was given up.
    gone: bool,
    /// Answers that are waited for; none is any more when the cell is gone.
    waiting: HashMap<u64, SyncSender<AnswerAndFiles>>,
}

/// What the switchboard tells of a cell.
pub(super) struct Hearer {
    channel: Channel,
    // Killed before what bounds it can go.
    process: Process,
    leaf: Option<Leaf>,
    rank: Rank,
    known: Mutex<Known>,
    console: Mutex<ConsoleOutput>,
    next: AtomicU64,
}

impl std::fmt::Debug for Hearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearer").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Hearer {
    /// The hearer of `line`, which serves from now on, with `rank`; and what it has said so far.
    pub(super) fn new(mut line: Line, rank: Rank, console: ConsoleOutput) -> (Self, Vec<Said>) {
        let aside = std::mem::take(&mut line.aside);
        let next = AtomicU64::new(line.next);
        let (channel, process, leaf, turn) = line.into_parts();
        turn.serve(rank);
        let known =
            Known { status: Status::Running, busy: false, gone: false, waiting: HashMap::new() };
        let (known, console) = (Mutex::new(known), Mutex::new(console));
        (Self { channel, process, leaf, rank, known, console, next }, aside)
    }

    /// What the machine is doing.
    pub(super) fn status(&self) -> Status {
        self.known().status.clone()
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn inner_pid(&self) -> u32 {
        self.process.inner_pid
    }

    /// Whether its process has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.process.wait_gone(Duration::ZERO)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the cell says. Whether there can be more.
    pub(super) fn hear(&self) -> bool {
        loop {
            let packet = match self.channel.try_receive::<Said>() {
                Ok(None) => return true,
                Ok(Some(packet)) => packet,
                Err(ChannelError::Closed) => {
                    self.give_up("its process is gone");
                    return false;
                }
                Err(error) => {
                    self.lost(&format!("its cell was killed: {error}"));
                    return false;
                }
            };
            if let Err(reason) = self.take(packet.message, packet.files) {
                self.lost(&reason);
                return false;
            }
        }
    }

    fn take(&self, said: Said, files: Vec<OwnedFd>) -> Result<(), String> {
        match said {
            Said::Answer { number, result } => {
                // Nobody may wait for it any more.
                if let Some(waiting) = self.known().waiting.remove(&number) {
                    let _ = waiting.try_send(result.map(|answer| (answer, files)));
                }
            }
            Said::Console(bytes) => {
                (self.console.lock().unwrap_or_else(PoisonError::into_inner))(&bytes);
            }
            Said::State { status, busy } => {
                let mut known = self.known();
                if known.status != Status::Killed {
                    (known.status, known.busy) = (status, busy);
                }
            }
            Said::Dying(reason) => return Err(format!("its cell gave up: {reason}")),
            Said::Progress { .. } => {}
            Said::Hello { .. } => {
                return Err("its cell was killed: it greeted a second time".into());
            }
        }
        Ok(())
    }

    /// The cell is no more: the machine failed, unless it has ended otherwise.
    fn give_up(&self, reason: &str) {
        let mut known = self.known();
        known.gone = true;
        known.waiting.clear();
        known.busy = false;
        if matches!(known.status, Status::Running | Status::Paused) {
            known.status = Status::Failed(reason.to_owned());
        }
    }

    /// Nobody hears the cell any more: it is killed.
    pub(super) fn lost(&self, reason: &str) {
        // In this order: what is told of the end of a process never hides why it had to end.
        self.give_up(reason);
        self.process.kill();
    }

    /// The process has ended, as the warden saw.
    pub(super) fn ended(&self, how: &str) {
        let how = match &self.leaf {
            Some(leaf) if leaf.ran_out_of_memory() => OVER_LIMIT,
            _ => how,
        };
        let mut known = self.known();
        if let Status::Running | Status::Paused = known.status {
            known.status = Status::Failed(format!("its process is gone: {how}"));
        } else if let Status::Failed(reason) = &mut known.status
            && reason == "its process is gone"
        {
            *reason = format!("{reason}: {how}");
        }
    }
}

/// A cell with a machine in it. It is killed when this is dropped.
#[derive(Debug)]
pub struct Cell {
    hearer: Arc<Hearer>,
    started: Started,
    pause: Option<Duration>,
}

impl Cell {
    /// The cell of `line`, in which a machine has `started`, with `rank`; from now on
    /// `switchboard` hears it, and what the guest prints goes to `console`.
    pub(super) fn attach(
        line: Line,
        (started, rank): (Started, Rank),
        switchboard: &Switchboard,
        console: ConsoleOutput,
    ) -> Result<Self, Fault> {
        let (hearer, aside) = Hearer::new(line, rank, console);
        let cell = Self { hearer: Arc::new(hearer), started, pause: None };
        for said in aside {
            cell.hearer.take(said, vec![]).map_err(|reason| Fault::new(Kind::Gone, reason))?;
        }
        switchboard.attach(&cell.hearer).map_err(|error| Fault::of(Kind::Room, &error))?;
        Ok(cell)
    }

    /// Notes how long its parent stood still for it.
    pub fn after_pause(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }

    /// When it has to go, of those that serve.
    pub(super) fn rank(&self) -> Rank {
        self.hearer.rank
    }

    /// Number of its process.
    pub fn pid(&self) -> u32 {
        self.hearer.process.pid
    }

    /// What the machine is doing.
    pub fn status(&self) -> Status {
        self.hearer.status()
    }

    /// Whether the guest is at work.
    pub fn busy(&self) -> bool {
        self.hearer.known().busy
    }

    /// Size of its RAM, bytes.
    pub fn ram_bytes(&self) -> u64 {
        self.started.ram_bytes
    }

    /// Number of its vCPUs.
    pub fn vcpus(&self) -> u8 {
        self.started.vcpus
    }

    /// Frequency of its TSC, kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.started.tsc_khz
    }

    /// What its making took, as far as it was known when it had started, or later.
    pub fn ladder(&self) -> Ladder {
        let mut ladder = self.started.ladder.clone();
        if ladder.total.is_none()
            && let Ok((Answer::Ladder(later), _)) = self.call(Request::Ladder, &[])
        {
            ladder = later;
        }
        ladder.parent_pause = self.pause.or(ladder.parent_pause);
        ladder
    }

    /// Asks for something, with `files`, and waits for the answer.
    pub fn call(&self, request: Request, files: &[BorrowedFd<'_>]) -> AnswerAndFiles {
        self.call_within(request, files, LIMIT)
    }

    fn call_within(
        &self,
        request: Request,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> AnswerAndFiles {
        let number = self.hearer.next.fetch_add(1, Ordering::Relaxed) + 1;
        let receiver = self.expect(number)?;
        let numbered = Numbered { number, request };
        if let Err(error) = self.hearer.channel.try_send(&numbered, files) {
            self.hearer.known().waiting.remove(&number);
            return Err(match error {
                ChannelError::Closed => self.fault_when_gone(),
                error => gone(&error),
            });
        }
        match receiver.recv_timeout(limit) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(self.fault_when_gone()),
            Err(RecvTimeoutError::Timeout) => {
                let text = format!("its cell did not answer within {limit:?}, and was killed");
                self.hearer.lost(&text);
                Err(Fault::new(Kind::Timeout, text))
            }
        }
    }

    fn expect(&self, number: u64) -> Result<Receiver<AnswerAndFiles>, Fault> {
        let (sender, receiver) = sync_channel(1);
        let mut known = self.hearer.known();
        if known.gone {
            drop(known);
            return Err(self.fault_when_gone());
        }
        known.waiting.insert(number, sender);
        Ok(receiver)
    }

    /// Why there is no answer.
    fn fault_when_gone(&self) -> Fault {
        let begun = Instant::now();
        // The warden tells how the process ended a moment after its channel has closed.
        loop {
            match self.status() {
                Status::Killed => return Fault::state("the machine was killed"),
                Status::Ended(end) => return Fault::state(format!("the guest {end}")),
                Status::Failed(reason)
                    if reason != "its process is gone" || begun.elapsed().as_millis() > 200 =>
                {
                    return Fault::new(Kind::State, format!("the machine failed: {reason}"));
                }
                _ if begun.elapsed().as_millis() > 200 => {
                    return Fault::new(Kind::Gone, "the cell is gone");
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn done(&self, request: Request) -> Result<(), Fault> {
        self.call(request, &[]).map(drop)
    }

    /// Stops the vCPUs until [`resume`](Self::resume).
    pub fn pause(&self) -> Result<(), Fault> {
        self.done(Request::Pause)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), Fault> {
        self.done(Request::Resume)
    }

    /// Puts the machine back to the state it was spawned from.
    pub fn reset(&self) -> Result<Ladder, Fault> {
        match self.call(Request::Reset, &[])? {
            (Answer::Ladder(ladder), _) => Ok(ladder),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// Gives vCPU `vcpu` a command and waits for the answer, at most `limit`.
    pub fn work(&self, vcpu: u8, command: &Command, limit: Duration) -> Result<Reply, Fault> {
        let request = Request::Work { vcpu, command: command.encode(), limit };
        // The cell says itself when the guest takes too long.
        match self.call_within(request, &[], limit + LIMIT)? {
            (Answer::Reply(words), _) => Reply::decode(&words)
                .ok_or_else(|| Fault::new(Kind::Guest, "the guest's answer makes no sense")),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// Has the command of vCPU `vcpu` end early.
    pub fn cancel(&self, vcpu: u8) -> Result<(), Fault> {
        self.done(Request::Cancel { vcpu })
    }

    /// Types on the console, as many bytes as fit. Returns how many.
    pub fn console_input(&self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        for piece in bytes.chunks(crate::protocol::CONSOLE_BYTES) {
            match self.call(Request::ConsoleInput(piece.to_vec()), &[])? {
                (Answer::Count(count), _) => {
                    taken += (count as usize).min(piece.len());
                    if (count as usize) < piece.len() {
                        break;
                    }
                }
                other => return Err(self.nonsense(&other.0)),
            }
        }
        Ok(taken)
    }

    /// Connects to a port of a Linux guest.
    pub fn connect(&self, port: u32) -> Result<UnixStream, Fault> {
        match self.call(Request::Connect { port }, &[])? {
            (Answer::File, files) if files.len() == 1 => {
                let stream = files.into_iter().next().map(UnixStream::from);
                stream.ok_or_else(|| self.nonsense(&Answer::File))
            }
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// The memory account.
    pub fn ledger(&self) -> Result<Ledger, Fault> {
        match self.call(Request::Ledger, &[])? {
            (Answer::Ledger(ledger), _) => Ok(ledger),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// What KVM counted.
    pub fn counters(&self) -> Result<KvmCounters, Fault> {
        match self.call(Request::Counters, &[])? {
            (Answer::Counters(counters), _) => Ok(counters),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// How many pages the machine has of its own.
    pub fn dirty_pages(&self) -> Result<u64, Fault> {
        match self.call(Request::DirtyPages, &[])? {
            (Answer::Count(pages), _) => Ok(pages),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// Units of work that vCPU `vcpu` has done since boot, its ancestors' included.
    pub fn heartbeat(&self, vcpu: u8) -> Result<u64, Fault> {
        match self.call(Request::Heartbeat { vcpu }, &[])? {
            (Answer::Count(beats), _) => Ok(beats),
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// The pages that the machine has of its own, as a file.
    pub fn hot_set(&self) -> Result<std::fs::File, Fault> {
        match self.call(Request::HotSet, &[])? {
            (Answer::File, files) => {
                let file = files.into_iter().next().map(std::fs::File::from);
                file.ok_or_else(|| self.nonsense(&Answer::File))
            }
            other => Err(self.nonsense(&other.0)),
        }
    }

    /// A cell that answers with something else than was asked for is killed.
    pub(super) fn nonsense(&self, answer: &Answer) -> Fault {
        let text = format!("its cell was killed: it answered with {answer:.40?}");
        self.hearer.lost(&text);
        Fault::new(Kind::Gone, text)
    }

    /// Kills the process, and waits until it is gone.
    pub fn kill(&self) {
        self.begin_kill();
        if !self.hearer.process.wait_gone(GONE_LIMIT) {
            tracing::error!(pid = self.pid(), "a killed cell does not go");
        }
    }

    fn begin_kill(&self) {
        let mut known = self.hearer.known();
        if !matches!(known.status, Status::Failed(_) | Status::Ended(_)) {
            known.status = Status::Killed;
        }
        known.gone = true;
        known.busy = false;
        known.waiting.clear();
        drop(known);
        if let Some(leaf) = &self.hearer.leaf {
            leaf.kill();
        }
        self.hearer.process.kill();
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.begin_kill();
    }
}

#[cfg(test)]
mod tests;
