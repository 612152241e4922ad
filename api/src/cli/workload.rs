//! `tine workload`: gives the embedded guest something to do.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::output::{Output, number, text};
use super::progress::Spinner;
use super::{resolve, size};

/// Options of `tine workload`.
#[derive(Args, Debug)]
pub struct Workload {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// What to do
    #[arg(value_enum)]
    op: Op,
    /// Size of the memory to work on, e.g. 100M [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_bytes)]
    bytes: Option<u64>,
    /// Part of its pages to visit, 0 to 1
    #[arg(long)]
    fraction: Option<f64>,
    /// Seed of what is written, computed or scattered
    #[arg(long)]
    seed: Option<u64>,
    /// Visit every so manieth page
    #[arg(long, value_name = "PAGES", conflicts_with = "scattered")]
    stride: Option<u64>,
    /// Visit the pages all over the memory instead of in order
    #[arg(long)]
    scattered: bool,
    /// How long to spin
    #[arg(long)]
    millis: Option<u64>,
    /// How many rounds to compute
    #[arg(long)]
    rounds: Option<u64>,
    /// Number of the vCPU that does it
    #[arg(long)]
    vcpu: Option<u8>,
    #[command(flatten)]
    output: Output,
}

/// What the guest can do.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    /// Read a word of each page and write it back
    Touch,
    /// Write a word of each page
    Dirty,
    /// Read a word of each page
    Read,
    /// Hash every byte
    Checksum,
    /// Compute for --millis
    Spin,
    /// Compute a fixed answer in --rounds
    Compute,
    /// Read the clocks
    Clock,
    /// Print the heartbeat on the console
    Say,
}

impl Workload {
    /// Has it done, and shows the answer.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let spinner = Spinner::start("the guest is at work");
        let path = format!("/v1/sandboxes/{}/workload", segment(&id));
        let answer = client.post(&path, Some(Value::Object(self.body())))?;
        drop(spinner);
        self.output.print(&answer, show)?;
        Ok(ExitCode::SUCCESS)
    }

    fn body(&self) -> Map<String, Value> {
        let wishes = [
            ("op", Some(json!(self.op))),
            ("bytes", self.bytes.map(Value::from)),
            ("fraction", self.fraction.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
            ("stride", self.stride.map(Value::from)),
            ("scattered", self.scattered.then_some(Value::Bool(true))),
            ("millis", self.millis.map(Value::from)),
            ("rounds", self.rounds.map(Value::from)),
            ("vcpu", self.vcpu.map(Value::from)),
        ];
        let named = wishes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        named.collect()
    }
}

/// What was done and how long it took; the cost of each, and a value, where they mean something.
fn show(answer: &Value) -> String {
    let op = text(answer, "/op");
    let mut line = format!(
        "{op}: {} done in {}",
        text(answer, "/done"),
        number(answer, "/guest_us", size::micros)
    );
    if matches!(op.as_str(), "touch" | "dirty" | "read" | "checksum" | "compute") {
        line += &number(answer, "/ns_each", |ns| format!(", {ns:.1} ns each"));
    }
    if answer.get("cancelled").and_then(Value::as_bool) == Some(true) {
        line += ", then cancelled";
    }
    if matches!(op.as_str(), "read" | "checksum" | "compute" | "clock") {
        line += &format!(", value {}", text(answer, "/value"));
    }
    line + &format!(", heartbeat {}", text(answer, "/heartbeat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_is_shown() {
        let answer = |op| {
            json!({"op": op, "done": 2, "guest_us": 3.0, "ns_each": 1500.0, "value": "0f",
                   "heartbeat": 9, "cancelled": false})
        };
        let shown = "checksum: 2 done in 3 us, 1500.0 ns each, value 0f, heartbeat 9";
        assert_eq!(show(&answer("checksum")), shown);
        assert_eq!(show(&answer("say")), "say: 2 done in 3 us, heartbeat 9");
    }
}
