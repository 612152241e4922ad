//! Ids as people abbreviate them.

use anyhow::{Result, bail};
use serde_json::Value;

use super::client::Client;
use super::output::items;

/// Length of a full id.
const ID_LENGTH: usize = 20;

/// The full id of the one sandbox whose id begins with `prefix`.
pub fn sandbox(client: &Client, prefix: &str) -> Result<String> {
    if prefix.len() == ID_LENGTH {
        return Ok(prefix.to_owned());
    }
    let list = client.get("/v1/sandboxes")?;
    unique("sandbox", "tine ps", prefix, ids(&list, "/sandboxes"))
}

/// The full id of the one snapshot that is called `name`, or whose id begins with it.
pub fn snapshot(client: &Client, name: &str) -> Result<String> {
    if name.len() == ID_LENGTH {
        return Ok(name.to_owned());
    }
    let list = client.get("/v1/snapshots")?;
    let named = items(&list, "/snapshots")
        .iter()
        .find(|snapshot| snapshot.get("name").and_then(Value::as_str) == Some(name));
    if let Some(id) = named.and_then(|snapshot| snapshot.get("id")).and_then(Value::as_str) {
        return Ok(id.to_owned());
    }
    unique("snapshot", "tine snapshots", name, ids(&list, "/snapshots"))
}

fn ids<'a>(list: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    items(list, pointer).iter().filter_map(|item| item.get("id")?.as_str())
}

fn unique<'a>(
    what: &str,
    listing: &str,
    prefix: &str,
    ids: impl Iterator<Item = &'a str>,
) -> Result<String> {
    let found: Vec<&str> = ids.filter(|id| id.starts_with(prefix)).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => {
            bail!("no {what} is called \"{prefix}\" or has an id that begins so; see `{listing}`")
        }
        several => bail!(
            "\"{prefix}\" may mean {} {what} ids, among them {} and {}; write more of it",
            several.len(),
            several[0],
            several[1]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_must_fit_one_id() {
        let ids = ["abcd", "abef", "xyzw"];
        let find = |prefix| unique("sandbox", "tine ps", prefix, ids.into_iter());
        assert_eq!(find("x").unwrap(), "xyzw");
        assert_eq!(find("abe").unwrap(), "abef");
        assert!(find("ab").unwrap_err().to_string().contains("2 sandbox ids"));
        assert!(find("q").unwrap_err().to_string().contains("tine ps"));
    }
}
