//! What the JSON of `tine bench --json` looks like, as a JSON schema (2020-12).

use super::Report;
use crate::BenchError;

/// The schema, made of the types that the report is written from.
pub fn schema() -> Result<String, BenchError> {
    let schema = schemars::schema_for!(Report);
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}
