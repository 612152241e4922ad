//! What is printed: a table for people, JSON for programs.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;
use thiserror::Error;

/// The choice between the two.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON if that was asked for, else what `text` makes of it.
    pub fn print(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<()> {
        if self.json { line(&serde_json::to_string_pretty(value)?) } else { line(&text(value)) }
    }
}

/// Prints one line, or several.
pub fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Prints `bytes`.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => bail!(ReaderLeft),
        result => result.context("stdout can't be written"),
    }
}

/// Nobody reads the output any more, as in `tine ps | head -1`.
#[derive(Clone, Copy, Debug, Error)]
#[error("nobody reads the output any more")]
pub struct ReaderLeft;

/// A table with `header`; columns named in `numbers` are set flush right.
pub fn table<const N: usize>(
    header: [&str; N],
    numbers: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// The string at `pointer` in `value`, or a dash.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// The number at `pointer` in `value`, as `show` writes it, or a dash.
pub fn number(value: &Value, pointer: &str, show: impl FnOnce(f64) -> String) -> String {
    value.pointer(pointer).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), show)
}

/// The elements at `pointer` in `value`; none if there is no array.
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
