//! The verbs on sandboxes that exist: `ps`, `pause`, `resume`, `reset`, `rm`.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::output::{Output, items, number, table, text};
use super::{resolve, size};

/// Options of `tine ps`.
#[derive(Args, Debug)]
pub struct Ps {
    /// Only those with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Option<(String, String)>,
    #[command(flatten)]
    output: Output,
}

impl Ps {
    /// Lists the sandboxes.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let path = match &self.label {
            Some((key, value)) => {
                format!("/v1/sandboxes?label={}", segment(&format!("{key}={value}")))
            }
            None => "/v1/sandboxes".to_owned(),
        };
        let list = client.get(&path)?;
        self.output.print(&list, |list| show(items(list, "/sandboxes").iter()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of the verbs that change one sandbox.
#[derive(Args, Debug)]
pub struct One {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    output: Output,
}

impl One {
    /// Has the daemon do `verb` to the sandbox, and shows what it is then.
    pub fn run(&self, client: &Client, verb: &str) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let answer = client.post(&format!("/v1/sandboxes/{}/{verb}", segment(&id)), None)?;
        self.output.print(&answer, |sandbox| show([sandbox].into_iter()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `tine rm`.
#[derive(Args, Debug)]
pub struct Rm {
    /// Ids of sandboxes, or their beginnings
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// Remove every one
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Remove snapshots, by id or name, instead of sandboxes
    #[arg(long)]
    snapshots: bool,
    #[command(flatten)]
    output: Output,
}

impl Rm {
    /// Removes them one after the other; one that can't be removed does not stop the rest.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let kind = if self.snapshots { "snapshots" } else { "sandboxes" };
        let ids = if self.all {
            let list = client.get(&format!("/v1/{kind}"))?;
            items(&list, &format!("/{kind}")).iter().map(|item| text(item, "/id")).collect()
        } else {
            self.ids.clone()
        };
        let mut removed = Vec::new();
        let mut failed = 0;
        for given in &ids {
            match self.remove(client, kind, given) {
                Ok(id) => removed.push(id),
                Err(error) => {
                    eprintln!("{given}: {error:#}");
                    failed += 1;
                }
            }
        }
        let answer = json!({ "removed": removed });
        if self.output.json || !removed.is_empty() {
            self.output.print(&answer, |_| removed.join("\n"))?;
        }
        ensure!(failed == 0, "{failed} of {} could not be removed", ids.len());
        Ok(ExitCode::SUCCESS)
    }

    fn remove(&self, client: &Client, kind: &str, given: &str) -> Result<String> {
        let id = if self.snapshots {
            resolve::snapshot(client, given)?
        } else {
            resolve::sandbox(client, given)?
        };
        client.delete(&format!("/v1/{kind}/{}", segment(&id)))?;
        Ok(id)
    }
}

/// Prints what became of each clone, in order; an error if one failed.
pub fn report(output: Output, answer: &Value) -> Result<ExitCode> {
    let results = items(answer, "/results");
    let made = || results.iter().filter_map(|result| result.get("sandbox"));
    if output.json || made().next().is_some() {
        output.print(answer, |_| show(made()))?;
    }
    let errors: Vec<&Value> = results.iter().filter_map(|result| result.get("error")).collect();
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for error in &errors {
        eprintln!("{}", super::client::describe(error));
    }
    bail!("{} of {} could not be made", errors.len(), results.len())
}

/// A table of sandboxes.
pub fn show<'a>(sandboxes: impl Iterator<Item = &'a Value>) -> String {
    table(
        ["ID", "STATE", "FROM", "VCPUS", "RAM", "FIRST INSTRUCTION", "LABELS"],
        &[3, 4, 5],
        sandboxes.map(|sandbox| {
            [
                text(sandbox, "/id"),
                text(sandbox, "/state"),
                origin(sandbox),
                text(sandbox, "/vcpus"),
                ram(sandbox),
                first_instruction(sandbox),
                labels(sandbox),
            ]
        }),
    )
}

/// What a sandbox was made from.
pub fn origin(sandbox: &Value) -> String {
    for (pointer, kind) in [("/parent", "fork of"), ("/snapshot", "snapshot"), ("/image", "image")]
    {
        if let Some(name) = sandbox.pointer(pointer).and_then(Value::as_str) {
            return format!("{kind} {}", name.get(..8).filter(|_| kind != "image").unwrap_or(name));
        }
    }
    "-".to_owned()
}

/// Size of a sandbox's RAM.
pub fn ram(sandbox: &Value) -> String {
    number(sandbox, "/memory_mib", |mib| size::bytes((mib as u64) << 20))
}

/// Time from the request that made a sandbox to its first instruction.
pub fn first_instruction(sandbox: &Value) -> String {
    number(sandbox, "/ladder/total", size::micros)
}

fn labels(sandbox: &Value) -> String {
    let labels = sandbox.get("labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

/// `text` of the form KEY=VALUE.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}
