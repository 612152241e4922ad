//! The verbs that make sandboxes: `spawn` and `fork`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::output::Output;
use super::progress::Spinner;
use super::{resolve, sandboxes};

/// What both verbs ask of the sandboxes they make.
#[derive(Args, Debug)]
struct Wishes {
    /// How many to make
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Copy all memory up front instead of sharing it copy-on-write
    #[arg(long)]
    eager: bool,
    /// Label to give each; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = sandboxes::parse_label)]
    label: Vec<(String, String)>,
    /// Seconds after which each is killed
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Most memory of the host that each may take, MiB; one that takes more is killed
    #[arg(long, value_name = "MIB")]
    limit_memory: Option<u64>,
    /// Most processor time that each may take, in processors, e.g. 0.5
    #[arg(long, value_name = "N")]
    limit_cpus: Option<f64>,
}

impl Wishes {
    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("count".to_owned(), json!(self.count));
        if self.eager {
            body.insert("memory".to_owned(), json!("eager"));
        }
        if !self.label.is_empty() {
            let labels: BTreeMap<_, _> = self.label.iter().cloned().collect();
            body.insert("labels".to_owned(), json!(labels));
        }
        if let Some(seconds) = self.timeout {
            body.insert("timeout_s".to_owned(), json!(seconds));
        }
        if self.limit_memory.is_some() || self.limit_cpus.is_some() {
            let limits = json!({"memory_mib": self.limit_memory, "cpus": self.limit_cpus});
            body.insert("limits".to_owned(), limits);
        }
        body
    }
}

/// Options of `tine spawn`.
#[derive(Args, Debug)]
pub struct Spawn {
    /// Image to boot [default: workload]
    #[arg(long, conflicts_with = "snapshot")]
    image: Option<String>,
    /// Snapshot to spawn from, by id or name
    #[arg(long)]
    snapshot: Option<String>,
    /// Guest memory, MiB
    #[arg(long, value_name = "MIB", conflicts_with = "snapshot")]
    memory: Option<u64>,
    /// Number of vCPUs
    #[arg(long, conflicts_with = "snapshot")]
    vcpus: Option<u8>,
    /// Do not copy ahead the pages that earlier clones were seen to use
    #[arg(long)]
    no_hot_set: bool,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    output: Output,
}

impl Spawn {
    /// Spawns.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let mut body = self.wishes.body();
        match &self.snapshot {
            Some(name) => {
                body.insert("snapshot".to_owned(), json!(resolve::snapshot(client, name)?));
            }
            None => {
                let image = self.image.as_deref().unwrap_or("workload");
                body.insert("image".to_owned(), json!(image));
            }
        }
        if let Some(mib) = self.memory {
            body.insert("memory_mib".to_owned(), json!(mib));
        }
        if let Some(vcpus) = self.vcpus {
            body.insert("vcpus".to_owned(), json!(vcpus));
        }
        if self.no_hot_set {
            body.insert("hot_set".to_owned(), json!(false));
        }
        let spinner = Spinner::start(format!("spawning {}", self.wishes.count));
        let answer = client.post("/v1/sandboxes", Some(Value::Object(body)))?;
        drop(spinner);
        sandboxes::report(self.output, &answer)
    }
}

/// Options of `tine fork`.
#[derive(Args, Debug)]
pub struct Fork {
    /// Id of the sandbox to fork, or the beginning of it; it goes on running
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    output: Output,
}

impl Fork {
    /// Forks.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let body = Value::Object(self.wishes.body());
        let spinner = Spinner::start(format!("forking {}", self.wishes.count));
        let answer = client.post(&format!("/v1/sandboxes/{}/fork", segment(&id)), Some(body))?;
        drop(spinner);
        sandboxes::report(self.output, &answer)
    }
}
