//! Programs that the host has run.

mod program;
mod relay;
mod terminal;

use std::sync::Arc;

use tine_abi::agent::{AgentMessage, Exec, Exit, Failure};

use crate::children::Children;
use crate::connection::{Connection, broken};
use program::Program;
use relay::Relay;

/// Runs a program to its end, and everything between it and the host. However this returns,
/// the program has ended or is killed.
pub fn run(
    exec: &Exec,
    connection: &mut Connection,
    children: &Arc<Children>,
) -> Result<Exit, Failure> {
    let program = Program::start(exec, children)?;
    connection.send(&AgentMessage::Started { pid: program.child.pid() })?;
    connection.set_blocking(false).map_err(broken)?;
    let exit = Relay::new(program, exec, connection).run();
    connection.set_blocking(true).map_err(broken)?;
    exit
}
