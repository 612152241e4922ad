//! The thread on which a machine's devices serve: it sleeps until the guest notifies one of
//! them or something happens on the host's side, and stands still when the vCPUs do.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::MachineError;
use super::gate::{Gate, Next};
use crate::devices::Board;
use crate::lock;

/// Stack of the thread, bytes.
const STACK_BYTES: usize = 256 << 10;
/// Events taken at once.
const EVENTS: usize = 32;

/// The device thread of one machine.
pub(super) struct DeviceThread {
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl DeviceThread {
    /// Starts it behind `gate`, which must [have devices](Gate::with_devices).
    pub(super) fn start(board: &Arc<Board>, gate: &Arc<Gate>) -> Result<Self, MachineError> {
        let worker = Worker { board: Arc::clone(board), gate: Arc::clone(gate) };
        let thread = std::thread::Builder::new()
            .name("devices".into())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.serve())
            .map_err(MachineError::DeviceThread)?;
        Ok(Self { thread: Mutex::new(Some(thread)) })
    }

    /// Waits for it to end, once the gate wants it to.
    pub(super) fn join(&self) {
        let thread = lock(&self.thread).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the device thread of a machine panicked");
        }
    }
}

/// What to do when a descriptor is readable.
#[derive(Clone, Copy)]
enum Source {
    Bell,
    Guest(usize),
    Host(usize),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Bell => 0,
            Self::Guest(device) => 1 + 2 * device as u64,
            Self::Host(device) => 2 + 2 * device as u64,
        }
    }

    fn of(token: u64) -> Self {
        match token.checked_sub(1) {
            None => Self::Bell,
            Some(rest) if rest % 2 == 0 => Self::Guest((rest / 2) as usize),
            Some(rest) => Self::Host((rest / 2) as usize),
        }
    }
}

struct Worker {
    board: Arc<Board>,
    gate: Arc<Gate>,
}

impl Worker {
    fn serve(self) {
        while let Next::Run = self.gate.pass_devices() {
            if let Err(error) = self.run() {
                self.gate.fail(format!("the device thread: {error}"));
            }
        }
        for transport in self.board.transports() {
            transport.end();
        }
    }

    /// Serves until the gate closes.
    fn run(&self) -> io::Result<()> {
        // Made anew each time: a reset changes the devices' own descriptors.
        let epoll = self.watch()?;
        let mut events = [EpollEvent::default(); EVENTS];
        while self.gate.is_open() {
            let ready = match epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in &events[..ready] {
                // A closed gate lets nobody in, not even for what is ready already.
                if !self.gate.is_open() {
                    return Ok(());
                }
                match Source::of(event.data()) {
                    Source::Bell => self.gate.hear_bell(),
                    Source::Guest(device) => self.board.transports()[device].serve_guest(),
                    Source::Host(device) => self.board.transports()[device].serve_host(),
                }
            }
        }
        Ok(())
    }

    fn watch(&self) -> io::Result<Epoll> {
        let epoll = Epoll::new()?;
        let add = |descriptor: RawFd, source: Source| {
            let event = EpollEvent::new(EventSet::IN, source.token());
            epoll.ctl(ControlOperation::Add, descriptor, event)
        };
        if let Some(bell) = self.gate.bell() {
            add(bell.as_raw_fd(), Source::Bell)?;
        }
        for (index, transport) in self.board.transports().iter().enumerate() {
            add(transport.kicked(), Source::Guest(index))?;
            if let Some(descriptor) = transport.host_events() {
                add(descriptor, Source::Host(index))?;
            }
        }
        Ok(epoll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_source() {
        assert!(matches!(Source::of(Source::Bell.token()), Source::Bell));
        for device in 0..20 {
            assert!(
                matches!(Source::of(Source::Guest(device).token()), Source::Guest(d) if d == device)
            );
            assert!(
                matches!(Source::of(Source::Host(device).token()), Source::Host(d) if d == device)
            );
        }
    }
}
