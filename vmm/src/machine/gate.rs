//! When vCPUs run, and who waits for whom.
//!
//! A vCPU is *quiet* when its thread is not in the guest and will not enter it, and all
//! its pending I/O is complete: only then is its state whole. It gets quiet because the
//! machine is paused or stopped, or because the guest said that it has nothing to do.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::herald::Herald;
use super::{End, Status};
use crate::fork::Ladder;
use crate::lock;

/// What the machine wants of its vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Want {
    Run = 0,
    Pause = 1,
    Stop = 2,
}

/// What a vCPU may do next.
pub(super) enum Next {
    Run,
    Stop,
}

/// Who did not get quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loud {
    /// This vCPU.
    Vcpu(usize),
    /// The device thread.
    Devices,
}

impl std::fmt::Display for Loud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vcpu(vcpu) => write!(f, "vCPU {vcpu}"),
            Self::Devices => f.write_str("the device thread"),
        }
    }
}

#[derive(Clone, Debug)]
struct Activity {
    /// Not in the guest, nothing pending.
    quiet: bool,
    /// The guest has nothing to do.
    idle: bool,
    /// The guest has nothing to do, but was woken to show that it runs.
    settling: bool,
}

#[derive(Debug)]
struct State {
    want: Want,
    vcpus: Vec<Activity>,
    failure: Option<String>,
    /// How the guest ended by itself.
    end: Option<End>,
    /// The device thread is neither serving nor about to.
    devices_quiet: bool,
    /// Rises with every reset: commands of an earlier life are lost.
    life: u64,
    /// Announces that the gate is about to open.
    herald: Option<Herald>,
    /// Rung for whoever waits for the herald.
    heralded: Option<EventFd>,
}

/// First exit that a clone made on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstExit {
    requested: Instant,
    entered: Instant,
    seen: Instant,
}

impl FirstExit {
    /// Fills in the steps that end with it.
    pub(crate) fn complete(&self, ladder: &mut Ladder) {
        ladder.first_instruction = Some(self.seen - self.entered);
        ladder.total = Some(self.seen - self.requested);
    }
}

/// The first steps of a machine, from the moment when it is to show itself.
#[derive(Clone, Copy, Debug)]
struct Debut {
    requested: Instant,
    /// Since when the machine is complete.
    ready: Instant,
    entered: Option<Instant>,
    first_exit: Option<FirstExit>,
}

/// Rings a bell that rings once.
fn ring(bell: Option<EventFd>) {
    if let Some(Err(error)) = bell.map(|bell| bell.write(1)) {
        tracing::error!(%error, "the bell of a vCPU's thread can't be rung");
    }
}

/// The gate of one machine.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Copy of `state.want`, for a look without the lock.
    want: AtomicU8,
    debut: Mutex<Option<Debut>>,
    /// Whether there is something to note in `debut`: a look without the lock.
    unseen: AtomicBool,
    /// Rung when something changes, for the device thread, which sleeps elsewhere.
    bell: Option<EventFd>,
    /// Rung when the machine's owner may want to look at it.
    owner: OnceLock<EventFd>,
}

impl Gate {
    /// A closed gate for vCPUs that are idle or not, and whose threads are yet to come: they
    /// are quiet when they have.
    pub(crate) fn new(idle: impl IntoIterator<Item = bool>) -> Self {
        let vcpus =
            idle.into_iter().map(|idle| Activity { quiet: false, idle, settling: false }).collect();
        let state = State {
            want: Want::Pause,
            vcpus,
            failure: None,
            end: None,
            devices_quiet: true,
            life: 0,
            herald: None,
            heralded: None,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            want: AtomicU8::new(Want::Pause as u8),
            debut: Mutex::default(),
            unseen: AtomicBool::new(false),
            bell: None,
            owner: OnceLock::new(),
        }
    }

    /// The same gate for a machine with a device thread, which `bell` wakes.
    pub(crate) fn with_devices(self, bell: EventFd) -> Self {
        lock(&self.state).devices_quiet = false;
        Self { bell: Some(bell), ..self }
    }

    /// Rings `bell` whenever the machine's owner may want to look at it: the status or what
    /// the vCPUs do has changed. Only the first bell counts.
    pub(crate) fn tell_owner(&self, bell: EventFd) {
        self.owner.get_or_init(|| bell);
    }

    /// From now on the first vCPU's thread gets up when `herald` does, and waits awake for the gate
    /// to open: once.
    pub(crate) fn set_herald(&self, herald: Herald) -> io::Result<()> {
        let bell = herald.bell()?;
        let mut state = self.state();
        state.herald = Some(herald);
        state.heralded = Some(bell);
        self.changed.notify_all();
        Ok(())
    }

    fn ring_owner(&self) {
        if let Some(Err(error)) = self.owner.get().map(|bell| bell.write(1)) {
            tracing::error!(%error, "the bell of a machine's owner can't be rung");
        }
    }

    /// What wakes the device thread.
    pub(super) fn bell(&self) -> Option<&EventFd> {
        self.bell.as_ref()
    }

    /// The device thread has heard the bell.
    pub(super) fn hear_bell(&self) {
        if let Some(Err(error)) = self.bell.as_ref().map(EventFd::read) {
            tracing::error!(%error, "the bell of a device thread can't be read");
        }
    }

    /// Tells everybody who waits that something has changed.
    fn announce(&self) {
        self.changed.notify_all();
        if let Some(Err(error)) = self.bell.as_ref().map(|bell| bell.write(1)) {
            tracing::error!(%error, "the bell of a device thread can't be rung");
        }
        self.ring_owner();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sets what is wanted and tells those who wait. Running vCPUs must be kicked after.
    pub(super) fn want(&self, want: Want) {
        let mut state = self.state();
        if state.want != Want::Stop {
            state.want = want;
            self.want.store(want as u8, Ordering::SeqCst);
        }
        ring(state.heralded.take());
        self.announce();
    }

    /// The machine is complete, and is to show itself: it was asked for when `requested`.
    pub(crate) fn expect_debut(&self, requested: Instant) {
        let debut = Debut { requested, ready: Instant::now(), entered: None, first_exit: None };
        *lock(&self.debut) = Some(debut);
        self.unseen.store(true, Ordering::SeqCst);
    }

    /// Time from there to the first entry into KVM.
    pub(crate) fn first_run(&self) -> Duration {
        let debut = *lock(&self.debut);
        let took = debut.and_then(|debut| Some((debut.ready, debut.entered?)));
        took.map_or(Duration::ZERO, |(ready, entered)| entered.saturating_duration_since(ready))
    }

    pub(crate) fn first_exit(&self) -> Option<FirstExit> {
        lock(&self.debut).and_then(|debut| debut.first_exit)
    }

    /// Whether the machine is to run: a look without the lock.
    pub(super) fn is_open(&self) -> bool {
        self.want.load(Ordering::SeqCst) == Want::Run as u8
    }

    /// The vCPU is about to enter KVM. Whether it may.
    pub(super) fn may_enter(&self) -> bool {
        let open = self.is_open();
        if open
            && self.unseen.load(Ordering::Relaxed)
            && let Some(debut) = &mut *lock(&self.debut)
        {
            debut.entered.get_or_insert_with(Instant::now);
        }
        open
    }

    /// The guest made an exit on purpose.
    pub(super) fn saw_exit(&self) {
        if !self.unseen.swap(false, Ordering::Relaxed) {
            return;
        }
        let seen = Instant::now();
        if let Some(debut) = &mut *lock(&self.debut) {
            let entered = debut.entered.unwrap_or(seen);
            let exit = FirstExit { requested: debut.requested, entered, seen };
            debut.first_exit.get_or_insert(exit);
        }
        // Whoever waits holds the lock between looking and sleeping.
        drop(self.state());
        self.changed.notify_all();
        self.ring_owner();
    }

    /// Waits until the first exit was seen and vCPUs that were only woken for it wait
    /// again, the machine failed or stopped, or `limit` is over.
    pub(crate) fn wait_first_exit(&self, limit: Duration) {
        self.wait(limit, |state| {
            let settled = state.vcpus.iter().all(|vcpu| !vcpu.settling);
            let over = state.failure.is_some() || state.want == Want::Stop;
            over || (settled && self.first_exit().is_some())
        });
    }

    /// Waits until `done`, at most `limit`. Whether it came to be.
    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    /// vCPU `index` is quiet and waits until it may run or must stop.
    pub(super) fn pass(&self, index: usize) -> Next {
        let mut state = self.state();
        let vcpu = &mut state.vcpus[index];
        vcpu.quiet = true;
        vcpu.settling &= !vcpu.idle;
        self.changed.notify_all();
        self.ring_owner();
        loop {
            if state.want == Want::Stop || state.failure.is_some() {
                return Next::Stop;
            }
            if state.want == Want::Run && !state.vcpus[index].idle {
                state.vcpus[index].quiet = false;
                return Next::Run;
            }
            if let Some(herald) = state.herald.take_if(|_| index == 0) {
                drop(state);
                herald.wait(|| self.is_open());
                state = self.state();
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The device thread is quiet and waits until it may serve or must stop.
    pub(super) fn pass_devices(&self) -> Next {
        let mut state = self.state();
        state.devices_quiet = true;
        self.changed.notify_all();
        loop {
            match state.want {
                Want::Stop => return Next::Stop,
                Want::Run => {
                    state.devices_quiet = false;
                    return Next::Run;
                }
                Want::Pause => {}
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The guest on vCPU `index` has nothing to do.
    pub(super) fn set_idle(&self, index: usize) {
        self.state().vcpus[index].idle = true;
    }

    /// vCPU `index` can't go on: the machine has failed.
    pub(super) fn fail(&self, reason: String) {
        let mut state = self.state();
        state.failure.get_or_insert(reason);
        self.stop(state);
    }

    /// The guest ended by itself.
    pub(super) fn end(&self, end: End) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        self.stop(state);
    }

    fn stop(&self, mut state: MutexGuard<'_, State>) {
        ring(state.heralded.take());
        state.want = Want::Stop;
        self.want.store(Want::Stop as u8, Ordering::SeqCst);
        drop(state);
        self.announce();
    }

    /// Waits until every vCPU and the devices are quiet. Who is not, when `limit` is over.
    pub(super) fn wait_quiet(&self, limit: Duration) -> Result<(), Loud> {
        let loud = |state: &State| match state.vcpus.iter().position(|vcpu| !vcpu.quiet) {
            Some(vcpu) => Some(Loud::Vcpu(vcpu)),
            None => (!state.devices_quiet).then_some(Loud::Devices),
        };
        if self.wait(limit, |state| loud(state).is_none()) {
            return Ok(());
        }
        loud(&self.state()).map_or(Ok(()), Err)
    }

    /// Which vCPUs are not quiet.
    pub(super) fn running(&self) -> Vec<usize> {
        let state = self.state();
        (0..state.vcpus.len()).filter(|&index| !state.vcpus[index].quiet).collect()
    }

    /// Whether the guest on vCPU `index` has nothing to do, and its thread is quiet.
    pub(super) fn is_idle(&self, index: usize) -> bool {
        let state = self.state();
        state.vcpus[index].idle && state.vcpus[index].quiet
    }

    /// The guest on vCPU `index` has something to do. Returns the machine's life.
    pub(super) fn wake(&self, index: usize) -> u64 {
        let mut state = self.state();
        state.vcpus[index].idle = false;
        self.changed.notify_all();
        state.life
    }

    /// Wakes vCPUs that have nothing to do, for once: a clone that shows that it runs.
    pub(crate) fn wake_all(&self) {
        let mut state = self.state();
        for vcpu in &mut state.vcpus {
            vcpu.settling = vcpu.idle;
            vcpu.idle = false;
        }
        self.changed.notify_all();
    }

    /// Waits until the guest on vCPU `index` is idle, in life `life`. Whether it came to
    /// be; the machine may also have failed, stopped or been reset.
    pub(super) fn wait_idle(&self, index: usize, life: u64, limit: Duration) -> bool {
        self.wait(limit, |state| {
            let vcpu = &state.vcpus[index];
            let over = state.failure.is_some() || state.want == Want::Stop || state.life != life;
            over || (vcpu.idle && vcpu.quiet)
        })
    }

    pub(super) fn life(&self) -> u64 {
        self.state().life
    }

    /// Begins a new life, in which the vCPUs are idle or not. All must be quiet.
    pub(super) fn rebirth(&self, idle: impl IntoIterator<Item = bool>) {
        let mut state = self.state();
        state.life += 1;
        for (vcpu, idle) in state.vcpus.iter_mut().zip(idle) {
            vcpu.idle = idle;
        }
        self.changed.notify_all();
    }

    /// Whether the guest is at work on any vCPU.
    pub(super) fn busy(&self) -> bool {
        self.state().vcpus.iter().any(|vcpu| !vcpu.idle)
    }

    pub(super) fn idle_flags(&self) -> Vec<bool> {
        self.state().vcpus.iter().map(|vcpu| vcpu.idle).collect()
    }

    pub(super) fn status(&self) -> Status {
        let state = self.state();
        match (&state.failure, state.end, state.want) {
            (Some(reason), ..) => Status::Failed(reason.clone()),
            (None, Some(end), _) => Status::Ended(end),
            (None, None, Want::Run) => Status::Running,
            (None, None, Want::Pause) => Status::Paused,
            (None, None, Want::Stop) => Status::Killed,
        }
    }
}
