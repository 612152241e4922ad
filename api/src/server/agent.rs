//! How handlers reach the agent of a sandbox.

use std::os::unix::net::UnixStream;

use tine_abi::agent::{PORT, Request};
use tine_vmm::Status;

use super::App;
use crate::agent::AgentConnection;
use crate::problem::Problem;

impl App {
    /// A stream to the agent of sandbox `id`. It does not keep the sandbox alive.
    pub(super) async fn connect(&self, id: String) -> Result<UnixStream, Problem> {
        let connected = self.at_once(move |registry| {
            let sandbox = registry.find(&id)?;
            if sandbox.vm.status() == Status::Paused {
                return Err(Problem::conflict("the sandbox is paused; resume it first"));
            }
            Ok(sandbox.vm.connect(PORT)?)
        });
        connected.await
    }

    /// Asks the agent of sandbox `id` for something.
    pub(super) async fn ask(
        &self,
        id: String,
        request: Request,
    ) -> Result<AgentConnection, Problem> {
        let stream = self.connect(id).await?;
        Ok(AgentConnection::open(stream, request).await?)
    }
}
