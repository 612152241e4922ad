//! The template that all tests fork from, and commands in guests.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tine::template::{Shape, get};
use tine_abi::agent::{AgentMessage, Exec, Exit, HostMessage, Request};
use tine_images::Store;
use tine_vmm::{Agent, KvmHost, Machine, Snapshot, SpawnOptions};

/// Longest that anything in a guest may take: it may be emulated, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// This host's KVM.
pub fn host() -> &'static Arc<KvmHost> {
    static HOST: OnceLock<Arc<KvmHost>> = OnceLock::new();
    HOST.get_or_init(|| Arc::new(KvmHost::open().unwrap()))
}

/// The image store.
pub fn store() -> Store {
    Store::open(Store::default_path().unwrap()).unwrap()
}

/// The snapshot of image `base` with `vcpus`: it boots once.
pub fn template(vcpus: u8) -> Snapshot {
    let shape = Shape { vcpus, memory_mib: 256 };
    get(host(), &store(), "base", shape, Box::new(std::io::stderr())).unwrap().snapshot
}

/// A clone of the template with one vCPU.
pub fn guest() -> Machine {
    spawn(&template(1))
}

/// A clone of `snapshot`.
pub fn spawn(snapshot: &Snapshot) -> Machine {
    Machine::spawn(host(), snapshot, SpawnOptions::new()).unwrap()
}

/// A child of `parent`.
pub fn fork(parent: &Machine) -> Machine {
    fork_many(parent, 1).remove(0)
}

/// Children of `parent`.
pub fn fork_many(parent: &Machine, count: usize) -> Vec<Machine> {
    let options = (0..count).map(|_| SpawnOptions::new()).collect();
    parent.fork(options).unwrap().into_iter().map(Result::unwrap).collect()
}

/// What a command came to: its output, errors included, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub out: String,
    pub exit: Exit,
}

/// Starts `script` in the shell of `machine`; its standard input stays open.
pub fn start(machine: &Machine, script: &str) -> Agent {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let exec = Exec { argv, stdin: true, ..Exec::default() };
    let mut agent = machine.agent(Request::Exec(exec)).unwrap();
    agent.set_limit(Some(PATIENCE)).unwrap();
    assert!(matches!(agent.receive().unwrap(), Some(AgentMessage::Started { .. })));
    agent
}

/// Waits for the end of a command.
pub fn finish(mut agent: Agent) -> Outcome {
    // A command that has ended hears of no end of its input.
    let _ended = agent.send(&HostMessage::End);
    let mut out = Vec::new();
    loop {
        match agent.receive().unwrap() {
            Some(AgentMessage::Stdout(bytes) | AgentMessage::Stderr(bytes)) => out.extend(bytes),
            Some(AgentMessage::Exited(exit)) => {
                return Outcome { out: String::from_utf8(out).unwrap(), exit };
            }
            other => panic!("{other:?} after {out:?}"),
        }
    }
}

/// Runs `script` in the shell of `machine`, which must succeed. Returns its output.
pub fn sh(machine: &Machine, script: &str) -> String {
    let outcome = finish(start(machine, script));
    assert_eq!(outcome.exit, Exit::Code(0), "{script}: {outcome:?}");
    outcome.out.trim_end().to_owned()
}

/// Waits until `script` succeeds in `machine`.
pub fn wait_until(machine: &Machine, script: &str) {
    let begun = Instant::now();
    while finish(start(machine, script)).exit != Exit::Code(0) {
        assert!(begun.elapsed() < PATIENCE, "{script} never succeeds");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts `script` in `machine` so that it goes on when nobody listens to it.
pub fn background(machine: &Machine, script: &str) {
    sh(machine, &format!("( {script} ) < /dev/null > /dev/null 2>&1 &"));
}
