//! Work for the embedded guest.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tine_abi::command::Status as Outcome;
use tine_abi::layout::PAGE_SIZE;
use tine_vmm::Status;

use super::App;
use super::body::{Body, Id};
use crate::model::{WorkloadAnswer, WorkloadRequest};
use crate::problem::Problem;

/// How long a request waits for the guest.
const LIMIT: Duration = Duration::from_secs(900);

/// Have the guest touch, dirty, read or checksum memory, compute, or print; it times itself.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/workload", params(("id" = String, Path)),
    request_body = WorkloadRequest, responses(
    (status = 200, body = WorkloadAnswer), (status = 400, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 504, body = Problem)))]
pub(super) async fn work(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<WorkloadRequest>,
) -> Result<Json<WorkloadAnswer>, Problem> {
    let answer = app.waiting(move |registry| {
        let sandbox = registry.find(&id)?;
        let machine = &sandbox.vm;
        let command = request.command(machine.ram_bytes())?;
        if machine.status() == Status::Paused {
            return Err(Problem::conflict("the sandbox is paused; resume it first"));
        }
        let reply = machine.work(request.vcpu, &command, LIMIT)?;
        let guest_us = reply.ticks() as f64 * 1000.0 / f64::from(machine.tsc_khz().max(1));
        Ok(WorkloadAnswer {
            op: request.op,
            cancelled: reply.status == Outcome::Cancelled,
            value: format!("{:016x}", reply.value),
            value2: format!("{:016x}", reply.value2),
            bytes: request.op.is_on_memory().then_some(command.selection.region_pages * PAGE_SIZE),
            done: reply.done,
            guest_us,
            ns_each: guest_us * 1000.0 / reply.done.max(1) as f64,
            heartbeat: reply.heartbeat,
        })
    });
    answer.await.map(Json)
}
