//! What a cell does when it is asked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tine_abi::command::Command;
use tine_vmm::boot::linux::{BootFile, Kernel};
use tine_vmm::devices::disk::{Disk, given};
use tine_vmm::fork::{Frozen, Prepared, StartOptions};
use tine_vmm::kvm::ClockPolicy;
use tine_vmm::memory::{HotSet, ImageKind, pagemap};
use tine_vmm::snapshot::Verify;
use tine_vmm::{
    Herald, Identity, LinuxConfig, Machine, MachineConfig, MemoryMode, Snapshot, Status,
};

use super::fork::{self, Side};
use super::{Cell, Contents, Outcome, Waiting, frozen};
use crate::channel::Channel;
use crate::fault::{Fault, Kind};
use crate::protocol::{About, Answer, Request, Start, Started};

/// An answer, and files with it.
type Reply = Result<(Answer, Vec<OwnedFd>), Fault>;

fn done() -> Reply {
    Ok((Answer::Done, vec![]))
}

impl Cell {
    /// Does what request `number` asks for.
    pub(super) fn perform(
        &mut self,
        number: u64,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> Outcome {
        Outcome::Now(match request {
            Request::BootWorkload { ram_bytes, vcpus, image } => {
                self.boot_workload(MachineConfig { ram_bytes, vcpus, image })
            }
            Request::BootLinux { ram_bytes, vcpus, command_line, files: names, limit } => {
                self.boot_linux(ram_bytes, vcpus, command_line, names, files, limit)
            }
            Request::Prepare { eager, hot_set, ahead, watch } => {
                self.prepare(eager, hot_set, ahead, watch, files)
            }
            Request::Open { name, disks } => self.open(&name, disks, files),
            Request::Start(start) => self.start(start),
            Request::Thaw(start) => self.thaw(start),
            Request::Pagemap => {
                pagemap::use_file(files.into_iter().next().map(File::from));
                done()
            }
            Request::Work { vcpu, command, limit } => {
                return match self.work(number, vcpu, command, limit) {
                    Ok(()) => Outcome::Later,
                    Err(fault) => Outcome::Now(Err(fault)),
                };
            }
            Request::Freeze => self.freeze(files),
            Request::Split => frozen::split(self, files),
            Request::Save => frozen::save(self, files),
            Request::Export => frozen::export(self),
            request => self.machine().and_then(|machine| ask(machine, request)),
        })
    }

    fn machine(&self) -> Result<&Machine, Fault> {
        match &self.contents {
            Contents::Machine(machine) => Ok(machine),
            _ => Err(Fault::state("there is no machine in the cell")),
        }
    }

    pub(super) fn frozen(&self) -> Result<&Frozen, Fault> {
        match &self.contents {
            Contents::Frozen(frozen) => Ok(frozen),
            _ => Err(Fault::state("there is nothing frozen in the cell")),
        }
    }

    fn take(&mut self) -> Contents {
        std::mem::replace(&mut self.contents, Contents::Blank)
    }

    /// A machine is there: the answer that says so.
    fn keep(&mut self, machine: Machine) -> Reply {
        let bell = self.bell.try_clone();
        machine.ring_on_change(bell.map_err(|error| Fault::internal(&error))?);
        let started = Started {
            ladder: machine.ladder(),
            ram_bytes: machine.ram_bytes(),
            vcpus: machine.vcpus(),
            tsc_khz: machine.tsc_khz(),
        };
        self.contents = Contents::Machine(Box::new(machine));
        // What is known of a machine that has started, unless it is told otherwise.
        self.told = Some((Status::Running, false));
        Ok((Answer::Started(started), vec![]))
    }

    fn blank(&self) -> Result<(), Fault> {
        match self.contents {
            Contents::Blank => Ok(()),
            _ => Err(Fault::state("there is something in the cell already")),
        }
    }

    fn boot_workload(&mut self, config: MachineConfig) -> Reply {
        self.blank()?;
        let console = Box::new(self.console.clone());
        let machine = Machine::boot(&self.host, &config, console)?;
        self.keep(machine)
    }

    fn boot_linux(
        &mut self,
        ram_bytes: u64,
        vcpus: u8,
        command_line: String,
        names: Vec<PathBuf>,
        files: Vec<OwnedFd>,
        limit: Duration,
    ) -> Reply {
        self.blank()?;
        let mut named = names.into_iter().zip(files.into_iter().map(File::from));
        let mut next = || named.next().ok_or_else(|| Fault::state("a file to boot is missing"));
        let ((kernel, image), (initramfs, initial)) = (next()?, next()?);
        let kernel = Kernel {
            image: BootFile::given(image, &kernel),
            initramfs: BootFile::given(initial, &initramfs),
            command_line,
        };
        let mut disks = Vec::new();
        for (path, file) in named {
            given::take(path.clone(), file);
            disks.push(Disk::read_only(&path).map_err(|error| Fault::internal(&error))?);
        }
        let config = LinuxConfig { ram_bytes, vcpus, image: ImageKind::Small, kernel, disks };
        let machine = Machine::boot_linux(&self.host, config, Box::new(self.console.clone()))?;
        machine.wait_ready(limit)?;
        self.keep(machine)
    }

    fn prepare(
        &mut self,
        eager: bool,
        hot_set: bool,
        ahead: bool,
        watch: bool,
        mut files: Vec<OwnedFd>,
    ) -> Reply {
        self.blank()?;
        let hot = if hot_set { files.pop() } else { None };
        let internal = |error: tine_vmm::snapshot::PartsError| Fault::internal(&error);
        let files = files.into_iter().map(File::from).collect();
        let mut snapshot = Snapshot::from_files(files, &self.host).map_err(internal)?;
        if let Some(hot) = hot {
            snapshot = snapshot.with_hot_set(HotSet::from_file(hot.into()).map_err(internal)?);
        }
        let memory = if eager { MemoryMode::Eager } else { MemoryMode::Cow };
        let console = Box::new(self.console.clone());
        let mut prepared = Prepared::new(&self.host, &snapshot, memory, hot_set, console)?;
        prepared.divide_memory()?;
        if eager {
            snapshot.image.put_away().map_err(tine_vmm::MachineError::from)?;
        }
        if watch {
            prepared.watch();
        }
        let dry_run = ahead && prepared.dry_run()?;
        if ahead {
            prepared.made_ahead();
            let herald = self.channel.as_fd().try_clone_to_owned().and_then(Herald::new);
            prepared.expect(herald.map_err(|error| Fault::internal(&error))?)?;
        }
        self.contents = Contents::Prepared(Box::new(prepared));
        Ok((Answer::Prepared { dry_run }, vec![]))
    }

    fn open(&self, name: &Path, disks: Vec<PathBuf>, files: Vec<OwnedFd>) -> Reply {
        let mut files = files.into_iter().map(File::from);
        let file = files.next().ok_or_else(|| Fault::state("there is no file to read"))?;
        for (path, file) in disks.into_iter().zip(files) {
            given::take(path, file);
        }
        let snapshot = Snapshot::read(file, name, &self.host, Verify::Header)
            .map_err(|error| Fault::of(Kind::Value("snapshot".into()), &error))?;
        files_of(&snapshot)
    }

    fn start(&mut self, start: Start) -> Reply {
        match self.take() {
            Contents::Prepared(prepared) => {
                let machine = prepared.start(options(start))?;
                self.keep(machine)
            }
            other => {
                self.contents = other;
                Err(Fault::state("nothing is prepared in the cell"))
            }
        }
    }

    fn thaw(&mut self, start: Start) -> Reply {
        match self.take() {
            Contents::Frozen(frozen) => {
                let console = Box::new(self.console.clone());
                let machine = frozen.thaw(&self.host, console, options(start))?;
                self.keep(machine)
            }
            other => {
                self.contents = other;
                Err(Fault::state("there is nothing frozen in the cell"))
            }
        }
    }

    fn work(
        &mut self,
        number: u64,
        vcpu: u8,
        command: [u64; tine_abi::command::COMMAND_WORDS],
        limit: Duration,
    ) -> Result<(), Fault> {
        let command = Command::decode(&command)
            .ok_or_else(|| Fault::state("a command that makes no sense"))?;
        let ticket = self.machine()?.submit(vcpu, &command)?;
        let until = Instant::now() + limit;
        self.waiting.push(Waiting { number, ticket, until, limit });
        Ok(())
    }

    /// Forks a process that holds the machine as it is.
    fn freeze(&mut self, files: Vec<OwnedFd>) -> Reply {
        let child = files.into_iter().next();
        let child = child.ok_or_else(|| Fault::state("there is no channel for a child"))?;
        let machine = self.machine()?;
        let host = &self.host;
        let (forked, pause) = machine.freeze_while(|frozen| {
            // SAFETY: the machine's threads wait at its gate, and a cell has no others. The
            // child uses what was frozen, and never comes back here.
            match unsafe { fork::fork() }? {
                Side::Parent => Ok::<_, io::Error>(()),
                Side::Child => frozen::live(frozen, Channel::from(child), host),
            }
        })?;
        forked.map_err(|error| Fault::of(Kind::Room, &error))?;
        Ok((Answer::Frozen { pause }, vec![]))
    }
}

fn options(start: Start) -> StartOptions {
    StartOptions {
        clock: ClockPolicy::CatchUp,
        requested: start.requested.into(),
        identity: Identity { hostname: start.hostname, machine_id: None },
        wait: start.wait,
    }
}

/// Asks a machine that is there.
fn ask(machine: &Machine, request: Request) -> Reply {
    let answer = match request {
        Request::Pause => machine.pause().map(|()| Answer::Done)?,
        Request::Resume => machine.resume().map(|()| Answer::Done)?,
        Request::Reset => Answer::Ladder(machine.reset()?),
        Request::Cancel { vcpu } => machine.cancel(vcpu).map(|()| Answer::Done)?,
        Request::ConsoleInput(bytes) => Answer::Count(machine.console_input(&bytes)? as u64),
        Request::Ladder => Answer::Ladder(machine.ladder()),
        Request::Ledger => Answer::Ledger(machine.ledger()?),
        Request::Counters => Answer::Counters(machine.counters()?),
        Request::DirtyPages => Answer::Count(machine.dirty_pages()?),
        Request::Heartbeat { vcpu } => Answer::Count(machine.heartbeat(vcpu)?),
        Request::Connect { port } => {
            return Ok((Answer::File, vec![machine.connect(port)?.into()]));
        }
        Request::HotSet => {
            let file = machine.hot_set()?.to_file().map_err(|error| Fault::internal(&error))?;
            return Ok((Answer::File, vec![file.into()]));
        }
        Request::Copy => {
            let (snapshot, _) = machine.snapshot()?;
            return files_of(&snapshot);
        }
        _ => return Err(Fault::state("that is no request to a machine")),
    };
    Ok((answer, vec![]))
}

/// A snapshot as an answer.
pub(super) fn files_of(snapshot: &Snapshot) -> Reply {
    let files = snapshot.to_files().map_err(|error| Fault::internal(&error))?;
    let files = files.into_iter().map(OwnedFd::from).collect();
    Ok((Answer::Snapshot(About::of(snapshot)), files))
}
