//! `tine memory`: the ledger of one sandbox.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::client::{Client, segment};
use super::output::{Output, table};
use super::{resolve, size};

/// Options of `tine memory`.
#[derive(Args, Debug)]
pub struct Memory {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    output: Output,
}

impl Memory {
    /// Shows it.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let ledger = client.get(&format!("/v1/sandboxes/{}/memory", segment(&id)))?;
        self.output.print(&ledger, show)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Every figure of the account, by its own name: what a later daemon adds is shown too.
fn show(ledger: &Value) -> String {
    let mut rows = Vec::new();
    collect(ledger, "", &mut rows);
    table(["WHAT", "AMOUNT"], &[1], rows)
}

fn collect(value: &Value, prefix: &str, rows: &mut Vec<[String; 2]>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{}", key.replace('_', " "));
        match value {
            Value::Object(_) => collect(value, &format!("{name}: "), rows),
            Value::Number(number) => {
                let (name, amount) = match (name.strip_suffix(" bytes"), number.as_u64()) {
                    (Some(stem), Some(count)) => (stem.to_owned(), size::bytes(count)),
                    _ => (name, number.to_string()),
                };
                rows.push([name, amount]);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_shown_as_sizes_and_counts_as_numbers() {
        let ledger = json!({"ram_bytes": 1 << 20, "kvm": {"exits": 7}, "id": "x"});
        let mut rows = Vec::new();
        collect(&ledger, "", &mut rows);
        rows.sort();
        assert_eq!(rows, [["kvm: exits", "7"], ["ram", "1 MiB"]]);
    }
}
