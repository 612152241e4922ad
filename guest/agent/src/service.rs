//! Takes connections, and answers the request that each brings.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tine_abi::agent::{AgentMessage, Failure, HostMessage, Request, VERSION};

use crate::children::Children;
use crate::connection::Connection;
use crate::listener::Listener;
use crate::{adopt, entries, exec, files, power};

/// Most connections at a time: more are closed at once.
const CONNECTIONS: usize = 256;
/// Pause when there is no descriptor, memory or thread for one more connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves whoever connects, for ever.
pub fn serve(listener: &Listener, children: &Arc<Children>) -> ! {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let taken = listener.accept().and_then(|connection| match connection {
            Some(connection) => start(connection, children, &open),
            None => Ok(()),
        });
        if taken.is_err() {
            thread::sleep(PAUSE);
        }
    }
}

/// Answers in a thread of its own.
fn start(
    connection: Connection,
    children: &Arc<Children>,
    open: &Arc<AtomicUsize>,
) -> io::Result<()> {
    let slot = Slot::take(open);
    if slot.0.load(Ordering::Relaxed) > CONNECTIONS {
        return Ok(());
    }
    let children = Arc::clone(children);
    thread::Builder::new()
        .name("connection".into())
        .stack_size(256 << 10)
        .spawn(move || {
            let _slot = slot;
            converse(connection, &children);
        })
        .map(drop)
}

/// One of the connections that may be open.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The whole of one connection. What is no message ends it without an answer.
fn converse(mut connection: Connection, children: &Arc<Children>) {
    let Ok(Some(message)) = connection.receive() else { return };
    let answer = match message {
        HostMessage::Open { version: VERSION, request } => {
            answer(request, &mut connection, children)
        }
        HostMessage::Open { .. } => Err(Failure::Version(VERSION)),
        _ => Err(Failure::Invalid("the first message must be Open".into())),
    };
    // When the host has gone, so has whom this is for.
    let _nobody_waits = connection.send(&answer.unwrap_or_else(AgentMessage::Failed));
}

/// Does what is asked for, and gives the last message of the connection.
fn answer(
    request: Request,
    connection: &mut Connection,
    children: &Arc<Children>,
) -> Result<AgentMessage, Failure> {
    let done = |()| AgentMessage::Done;
    match request {
        Request::Ping => Ok(AgentMessage::Done),
        Request::Exec(exec) => exec::run(&exec, connection, children).map(AgentMessage::Exited),
        Request::Adopt(identity) => adopt::adopt(&identity).map(done),
        Request::Read { path, offset, length } => {
            files::read(connection, &path, offset, length).map(|()| AgentMessage::End)
        }
        Request::Write { path, mode, owner, parents } => {
            files::write(connection, &path, mode, owner.as_deref(), parents).map(done)
        }
        Request::Stat { path } => {
            entries::stat(&path).map(|entry| AgentMessage::Entries(vec![entry]))
        }
        Request::List { path } => entries::list(connection, &path).map(|()| AgentMessage::End),
        Request::MakeDirectory { path } => files::make_directory(&path).map(done),
        Request::Remove { path, recursive } => files::remove(&path, recursive).map(done),
        Request::Rename { from, to } => files::rename(&from, &to).map(done),
        Request::Sync => {
            nix::unistd::sync();
            Ok(AgentMessage::Done)
        }
        Request::PowerOff => Err(power::off(Some(connection))),
    }
}
