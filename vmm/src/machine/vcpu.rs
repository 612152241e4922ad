//! One vCPU: its descriptor, its thread, and the kick that gets it out of the guest.

use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exits::{After, handle};
use super::gate::{Gate, Next};
use super::{End, MachineError};
use crate::devices::{Board, Bus};
use crate::lock;

/// Stack of a vCPU's thread, bytes; most of it is never touched.
const STACK_BYTES: usize = 128 << 10;

thread_local! {
    /// `immediate_exit` of the vCPU whose thread this is.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// One vCPU of a machine.
pub(super) struct Vcpu {
    index: usize,
    /// Held by the thread whenever it is not quiet.
    fd: Arc<Mutex<VcpuFd>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Vcpu {
    /// Puts vCPU `index` on a thread of its own, behind `gate`.
    pub(super) fn start(
        fd: VcpuFd,
        index: usize,
        gate: &Arc<Gate>,
        board: &Arc<Board>,
        bus: &Arc<Bus>,
    ) -> Result<Self, MachineError> {
        register_kick().map_err(MachineError::Signal)?;
        let fd = Arc::new(Mutex::new(fd));
        let worker = Worker {
            index,
            fd: Arc::clone(&fd),
            gate: Arc::clone(gate),
            board: Arc::clone(board),
            bus: Arc::clone(bus),
        };
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK_BYTES)
            .spawn(move || worker.serve())
            .map_err(|source| MachineError::Thread { vcpu: index, source })?;
        Ok(Self { index, fd, thread: Mutex::new(Some(thread)) })
    }

    /// Its number.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Its descriptor; waits until the thread is quiet.
    pub(super) fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        lock(&self.fd)
    }

    /// Gets it out of the guest; its thread then looks at the gate.
    pub(super) fn kick(&self) {
        if let Some(thread) = lock(&self.thread).as_ref() {
            // A thread that has ended needs no kick.
            if let Err(error) = thread.kill(SIGRTMIN()) {
                tracing::debug!(%error, vcpu = self.index, "kick of a thread that has ended");
            }
        }
    }

    /// Waits for its thread to end, once the gate wants it to.
    pub(super) fn join(&self) {
        let thread = lock(&self.thread).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!(vcpu = self.index, "the thread of a vCPU panicked");
        }
    }
}

/// Sets up the signal whose handler makes the next or present `KVM_RUN` of its thread
/// return at once (KVM API, `immediate_exit` in `kvm_run`). Once per process.
fn register_kick() -> io::Result<()> {
    extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let flag = IMMEDIATE_EXIT.get();
        if !flag.is_null() {
            // SAFETY: the flag lies in the `kvm_run` page of this thread's vCPU, which is
            // mapped as long as the pointer is set, and only this thread writes it.
            unsafe { flag.write_volatile(1) };
        }
    }
    static REGISTERED: OnceLock<Result<(), i32>> = OnceLock::new();
    REGISTERED
        .get_or_init(|| register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// What a vCPU's thread works with.
struct Worker {
    index: usize,
    fd: Arc<Mutex<VcpuFd>>,
    gate: Arc<Gate>,
    board: Arc<Board>,
    bus: Arc<Bus>,
}

impl Worker {
    /// Runs the guest whenever the gate is open, until it says stop.
    fn serve(self) {
        let flag = (&raw mut lock(&self.fd).get_kvm_run().immediate_exit).cast::<u8>();
        IMMEDIATE_EXIT.set(flag);
        while let Next::Run = self.gate.pass(self.index) {
            let mut fd = lock(&self.fd);
            if let Err(reason) = self.run(&mut fd) {
                self.gate.fail(format!("vCPU {}: {reason}", self.index));
            }
        }
        IMMEDIATE_EXIT.set(null_mut());
    }

    /// Runs the guest until it is idle or the gate closes, and leaves it with all its I/O
    /// complete.
    fn run(&self, fd: &mut VcpuFd) -> Result<(), String> {
        loop {
            // A kick before this line is seen by the look at the gate after it; a kick
            // after it makes KVM_RUN return at once.
            fd.set_kvm_immediate_exit(0);
            if !self.gate.may_enter() {
                return complete_io(fd);
            }
            match enter(fd, &self.bus)? {
                After::Continue => {}
                After::Purpose => self.gate.saw_exit(),
                After::Idle => {
                    self.gate.saw_exit();
                    complete_io(fd)?;
                    self.gate.set_idle(self.index);
                    return Ok(());
                }
                After::End(end) => {
                    self.end(end);
                    return Ok(());
                }
                After::Fail(reason) => return Err(reason),
            }
        }
    }

    /// The guest ended. A kernel that panicked resets the machine, too, but has failed.
    fn end(&self, end: End) {
        match self.board.panic_report().filter(|_| end == End::Reset) {
            Some(report) => self.gate.fail(format!("the kernel panicked:\n{report}")),
            None => self.gate.end(end),
        }
    }
}

fn enter(fd: &mut VcpuFd, bus: &Bus) -> Result<After, String> {
    match fd.run() {
        Ok(exit) => Ok(handle(exit, bus)),
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => Ok(After::Continue),
            errno => Err(format!("KVM_RUN failed: {}", io::Error::from_raw_os_error(errno))),
        },
    }
}

/// Lets KVM finish the port access that the guest left for (KVM API 5, `KVM_EXIT_IO`):
/// its state is whole only then.
fn complete_io(fd: &mut VcpuFd) -> Result<(), String> {
    fd.set_kvm_immediate_exit(1);
    let result = match fd.run() {
        Ok(exit) => Err(format!("KVM_RUN with immediate_exit came back with {exit:?}")),
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(format!("completing I/O failed: {error}")),
    };
    fd.set_kvm_immediate_exit(0);
    result
}
