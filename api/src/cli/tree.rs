//! `tine tree`: who was forked from whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::client::{Client, segment};
use super::output::{self, Output, items};
use super::progress::Spinner;
use super::{sandboxes, size};

/// Options of `tine tree`.
#[derive(Args, Debug)]
pub struct Tree {
    #[command(flatten)]
    output: Output,
}

impl Tree {
    /// Draws the family tree.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let list = client.get("/v1/sandboxes")?;
        self.output.print(&list, |list| {
            let _spinner = Spinner::start("reading the ledgers");
            draw(items(list, "/sandboxes"), |id| private(client, id))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Memory that a sandbox has to itself; a dash if it is gone meanwhile.
fn private(client: &Client, id: &str) -> String {
    let ledger = client.get(&format!("/v1/sandboxes/{}/memory", segment(id)));
    ledger.map_or_else(
        |_| "-".to_owned(),
        |ledger| output::number(&ledger, "/private_bytes", |count| size::bytes(count as u64)),
    )
}

/// The tree, a line for each sandbox, with what `memory` says of it. One whose parent is
/// gone stands at the root.
fn draw(sandboxes: &[Value], memory: impl Fn(&str) -> String) -> String {
    let known: BTreeSet<&str> = sandboxes.iter().filter_map(id).collect();
    let mut families: BTreeMap<Option<&str>, Vec<&Value>> = BTreeMap::new();
    for sandbox in sandboxes {
        let parent = parent(sandbox).filter(|parent| known.contains(parent));
        families.entry(parent).or_default().push(sandbox);
    }
    let mut lines = Vec::new();
    // Depth first, by a stack: forks of forks may go deep.
    let mut left: Vec<(&Value, String, String)> = Vec::new();
    for root in families.get(&None).into_iter().flatten().rev() {
        left.push((root, String::new(), String::new()));
    }
    while let Some((sandbox, branch, below)) = left.pop() {
        lines.push(format!("{branch}{}", line(sandbox, &memory)));
        let children = families.get(&id(sandbox)).map_or(&[][..], Vec::as_slice);
        for (index, child) in children.iter().enumerate().rev() {
            let last = index + 1 == children.len();
            let (fork, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            left.push((child, format!("{below}{fork}"), format!("{below}{under}")));
        }
    }
    if lines.is_empty() { "no sandboxes".to_owned() } else { lines.join("\n") }
}

fn id(sandbox: &Value) -> Option<&str> {
    sandbox.get("id").and_then(Value::as_str)
}

fn parent(sandbox: &Value) -> Option<&str> {
    sandbox.get("parent").and_then(Value::as_str)
}

fn line(sandbox: &Value, memory: impl Fn(&str) -> String) -> String {
    let mut words = vec![
        output::text(sandbox, "/id"),
        output::text(sandbox, "/state"),
        format!(
            "{} of {} its own",
            memory(id(sandbox).unwrap_or_default()),
            sandboxes::ram(sandbox)
        ),
        format!("first instruction {}", sandboxes::first_instruction(sandbox)),
    ];
    if parent(sandbox).is_none() {
        words.push(format!("from {}", sandboxes::origin(sandbox)));
    }
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_are_drawn_with_their_branches() {
        let of = |id: &str, parent: Option<&str>| json!({"id": id, "parent": parent});
        let list = [
            of("a", None),
            of("b", Some("a")),
            of("c", Some("b")),
            of("d", Some("a")),
            of("e", Some("gone")),
        ];
        let text = draw(&list, |_| "4 KiB".to_owned());
        let heads: Vec<&str> =
            text.lines().map(|line| line.split("  -").next().unwrap_or_default()).collect();
        assert_eq!(heads, ["a", "├─ b", "│  └─ c", "└─ d", "e"]);
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(draw(&[], |_| String::new()), "no sandboxes");
    }
}
