//! The thread that writes records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use redb::{Database, Durability, TableDefinition};
use serde::Serialize;

use super::{SANDBOXES, SNAPSHOTS, SandboxRecord, SnapshotRecord};

/// Most orders that go into one commit.
const BATCH: usize = 1024;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Which table a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Sandbox,
    Snapshot,
}

impl Kind {
    fn table(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Sandbox => SANDBOXES,
            Self::Snapshot => SNAPSHOTS,
        }
    }
}

/// A record that is new, or gone.
#[derive(Debug)]
pub(super) struct Change {
    kind: Kind,
    id: String,
    record: Option<Vec<u8>>,
}

impl Change {
    pub fn sandbox(id: &str, record: Option<&SandboxRecord>) -> Result<Self, serde_json::Error> {
        Self::of(Kind::Sandbox, id, record)
    }

    pub fn snapshot(id: &str, record: Option<&SnapshotRecord>) -> Result<Self, serde_json::Error> {
        Self::of(Kind::Snapshot, id, record)
    }

    fn of(
        kind: Kind,
        id: &str,
        record: Option<&impl Serialize>,
    ) -> Result<Self, serde_json::Error> {
        let record = record.map(serde_json::to_vec).transpose()?;
        Ok(Self { kind, id: id.to_owned(), record })
    }
}

/// How it went.
pub(super) type Written = Result<(), Arc<redb::Error>>;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    Change(Change),
    /// To say when all before it is written.
    Flush(SyncSender<Written>),
    /// To end as if the process had died.
    #[cfg(test)]
    Die,
}

/// What is to be written. Of several changes of one record, the last counts.
type Pending = BTreeMap<(Kind, String), Option<Vec<u8>>>;

/// Writes what it is told, until nobody can tell it any more.
pub(super) fn run(database: &Database, orders: &Receiver<Order>) {
    let mut pending = Pending::new();
    loop {
        let first = if pending.is_empty() {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(RETRY)
        };
        let first = match first {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            // What can't be written now never will be.
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut waiting = Vec::new();
        for order in first.into_iter().chain(orders.try_iter().take(BATCH)) {
            match order {
                Order::Change(Change { kind, id, record }) => {
                    pending.insert((kind, id), record);
                }
                Order::Flush(tell) => waiting.push(tell),
                #[cfg(test)]
                Order::Die => return,
            }
        }
        let written = write(database, &pending).map_err(Arc::new);
        match &written {
            Ok(()) => pending.clear(),
            Err(error) => tracing::error!(%error, "records can't be written; trying again"),
        }
        for tell in waiting {
            // Whoever has given up waiting needs no answer.
            let _gone = tell.send(written.clone());
        }
    }
}

fn write(database: &Database, pending: &Pending) -> Result<(), redb::Error> {
    if pending.is_empty() {
        return Ok(());
    }
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    for kind in [Kind::Sandbox, Kind::Snapshot] {
        let mut table = transaction.open_table(kind.table())?;
        for ((_, id), record) in pending.iter().filter(|((other, _), _)| *other == kind) {
            match record {
                Some(record) => drop(table.insert(id.as_str(), record.as_slice())?),
                None => drop(table.remove(id.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
