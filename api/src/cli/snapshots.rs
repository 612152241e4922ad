//! `tine snapshot` and `tine snapshots`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::output::{Output, items, number, table, text};
use super::progress::Spinner;
use super::{resolve, size};

/// Options of `tine snapshot`.
#[derive(Args, Debug)]
pub struct Snapshot {
    /// Id of the sandbox, or the beginning of it; it goes on running
    #[arg(value_name = "ID")]
    id: String,
    /// Name to spawn from it by
    #[arg(long)]
    name: Option<String>,
    /// Record the pages that the sandbox has used, to be copied ahead in its clones
    #[arg(long)]
    hot_set: bool,
    /// Write it to a file, too, in the background: it then outlives the daemon
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

impl Snapshot {
    /// Takes one.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let mut body = Map::new();
        if let Some(name) = &self.name {
            body.insert("name".to_owned(), json!(name));
        }
        if self.hot_set {
            body.insert("hot_set".to_owned(), json!(true));
        }
        if self.keep {
            body.insert("keep".to_owned(), json!(true));
        }
        let spinner = Spinner::start("taking the snapshot");
        let path = format!("/v1/sandboxes/{}/snapshot", segment(&id));
        let answer = client.post(&path, Some(Value::Object(body)))?;
        drop(spinner);
        self.output.print(&answer, |snapshot| show(std::slice::from_ref(snapshot)))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `tine snapshots`.
#[derive(Args, Debug)]
pub struct Snapshots {
    #[command(flatten)]
    output: Output,
}

impl Snapshots {
    /// Lists them.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let list = client.get("/v1/snapshots")?;
        self.output.print(&list, |list| show(items(list, "/snapshots")))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(snapshots: &[Value]) -> String {
    table(
        ["ID", "NAME", "OF", "VCPUS", "RAM", "DELTA", "HOT PAGES", "PAUSE", "FILE"],
        &[3, 4, 5, 6, 7],
        snapshots.iter().map(|snapshot| {
            [
                text(snapshot, "/id"),
                text(snapshot, "/name"),
                text(snapshot, "/sandbox"),
                text(snapshot, "/vcpus"),
                number(snapshot, "/memory_mib", |mib| size::bytes((mib as u64) << 20)),
                number(snapshot, "/delta_bytes", |count| size::bytes(count as u64)),
                text(snapshot, "/hot_set_pages"),
                number(snapshot, "/pause_us", size::micros),
                text(snapshot, "/saved"),
            ]
        }),
    )
}
