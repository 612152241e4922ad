//! What is kept on disk of what the daemon holds, so that the next one knows what was lost.
//!
//! One file, `registry.redb`, in the state directory. Its lock keeps a second daemon off. A
//! thread of its own writes, many changes in one commit: no spawn waits for the disk.

mod writer;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use super::Registry;
use writer::{Change, Order};

/// The file in the state directory.
const FILE: &str = "registry.redb";
/// The format of the file. Fields that older records lack need a default, and no new format.
const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The key in [`META`] under which the format is.
const FORMAT_KEY: &str = "format";
const SANDBOXES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sandboxes");
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Memory for pages of the file, bytes: records are few and small.
const CACHE: usize = 4 << 20;
/// Most changes that wait for the disk before those who make them have to.
const WAITING: usize = 4096;

/// What is kept of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxRecord {
    /// Its id.
    pub id: String,
    /// The image it went back to.
    pub image: String,
    /// The sandbox it was forked from.
    pub parent: Option<String>,
    /// The snapshot it was spawned from.
    pub snapshot: Option<String>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest RAM.
    pub memory_mib: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: String,
    /// When it was to be killed.
    pub expires_at: Option<String>,
    /// The process that hosted it, if it had one of its own.
    pub pid: Option<u32>,
}

/// What is kept of a snapshot that was saved to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// The image it goes back to.
    pub image: String,
    /// The sandbox it was taken of.
    pub sandbox: Option<String>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest RAM.
    pub memory_mib: u64,
    /// When it was taken.
    pub created_at: String,
}

/// A sandbox that ended with a daemon that died.
pub type Lost = SandboxRecord;

/// What can go wrong with the records.
#[derive(Debug, Error)]
pub enum RecordsError {
    /// The directory or the file can't be made or opened.
    #[error("{action} {path} failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "another daemon keeps its state in {0}; stop it, or give this one another directory with --state"
    )]
    Locked(PathBuf),
    /// Another version of tine made it.
    #[error(
        "{path} is of format {found}, and this tine knows {FORMAT}; use the version that made it, or another directory with --state"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The database failed.
    #[error("{action} the records in {path} failed")]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<redb::Error>,
    },
    /// A record can't be understood.
    #[error("the record of {id} in {path} is damaged; move the file away to begin anew")]
    Damaged {
        /// Whose.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The thread that writes can't be started.
    #[error("no thread could be started to write records")]
    Thread(#[source] io::Error),
    /// The thread that writes is gone.
    #[error("the thread that writes records is gone")]
    Gone,
}

/// The records.
#[derive(Debug)]
pub struct Records {
    database: Arc<Database>,
    path: PathBuf,
    /// None once it is closed.
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Records {
    /// Those in `directory`, which is made if need be. The sandboxes in them belong to a daemon
    /// that died: they are returned, and their records removed.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Lost>), RecordsError> {
        let path = directory.join(FILE);
        let file = open_file(directory, &path)?;
        let database = Database::builder().set_cache_size(CACHE).create_file(file);
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => RecordsError::Locked(directory.to_path_buf()),
            error => failed("opening", &path)(error.into()),
        })?;
        check_format(&database, &path)?;
        let lost = all(&database, SANDBOXES, &path)?;
        forget_sandboxes(&database).map_err(failed("clearing", &path))?;
        let (orders, receiver) = sync_channel(WAITING);
        let database = Arc::new(database);
        let thread = std::thread::Builder::new().name("records".to_owned());
        let thread = thread
            .spawn({
                let database = Arc::clone(&database);
                move || writer::run(&database, &receiver)
            })
            .map_err(RecordsError::Thread)?;
        Ok((Self { database, path, orders: Some(orders), thread: Some(thread) }, lost))
    }

    /// A sandbox exists.
    pub fn insert(&self, record: &SandboxRecord) {
        self.order(Change::sandbox(&record.id, Some(record)));
    }

    /// Sandbox `id` is gone.
    pub fn remove(&self, id: &str) {
        self.order(Change::sandbox(id, None));
    }

    /// A snapshot was saved.
    pub fn keep_snapshot(&self, record: &SnapshotRecord) {
        self.order(Change::snapshot(&record.id, Some(record)));
    }

    /// Snapshot `id` is gone.
    pub fn forget_snapshot(&self, id: &str) {
        self.order(Change::snapshot(id, None));
    }

    /// The snapshots that were saved, in order of their ids.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>, RecordsError> {
        self.flush()?;
        all(&self.database, SNAPSHOTS, &self.path)
    }

    /// Waits until all that was told is on disk.
    pub fn flush(&self) -> Result<(), RecordsError> {
        let (tell, told) = sync_channel(1);
        self.send(Order::Flush(tell));
        let written = told.recv().map_err(|_| RecordsError::Gone)?;
        written.map_err(|source| {
            let path = self.path.clone();
            RecordsError::Database { action: "writing", path, source }
        })
    }

    fn order(&self, change: Result<Change, serde_json::Error>) {
        match change {
            Ok(change) => self.send(Order::Change(change)),
            Err(error) => tracing::error!(%error, "a record could not be made"),
        }
    }

    fn send(&self, order: Order) {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if !sent {
            tracing::error!("a record is not written: its writer is gone");
        }
    }
}

impl Drop for Records {
    /// Writes what is left.
    fn drop(&mut self) {
        drop(self.orders.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of records died");
        }
    }
}

fn open_file(directory: &Path, path: &Path) -> Result<File, RecordsError> {
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| RecordsError::Io { action, path, source }
    };
    // Labels are nobody else's business.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed("making the state directory", directory))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    file.map_err(failed("opening", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(redb::Error) -> RecordsError {
    let path = path.to_path_buf();
    move |source| RecordsError::Database { action, path, source: Arc::new(source) }
}

/// Refuses a file of another format; gives a new one this.
fn check_format(database: &Database, path: &Path) -> Result<(), RecordsError> {
    let agree = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(FORMAT_KEY)?.map(|format| format.value());
        if let Some(found) = found {
            return Ok(found);
        }
        meta.insert(FORMAT_KEY, FORMAT)?;
        drop(meta);
        transaction.commit()?;
        Ok(FORMAT)
    };
    match agree().map_err(failed("opening", path))? {
        FORMAT => Ok(()),
        found => Err(RecordsError::Format { path: path.to_path_buf(), found }),
    }
}

fn forget_sandboxes(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.delete_table(SANDBOXES)?;
    transaction.commit()?;
    Ok(())
}

/// All records in `table`.
fn all<T: DeserializeOwned>(
    database: &Database,
    table: TableDefinition<'_, &str, &[u8]>,
    path: &Path,
) -> Result<Vec<T>, RecordsError> {
    let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let table = match database.begin_read()?.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let pairs = table.iter()?.map(|pair| {
            let (id, record) = pair?;
            Ok((id.value().to_owned(), record.value().to_vec()))
        });
        pairs.collect()
    };
    let pairs = read().map_err(failed("reading", path))?;
    let records = pairs.into_iter().map(|(id, record)| {
        let damaged = |source| RecordsError::Damaged { id, path: path.to_path_buf(), source };
        serde_json::from_slice(&record).map_err(damaged)
    });
    records.collect()
}

impl Registry {
    /// The same, which keeps `records` of what it has, and files of snapshots, in `state`.
    #[must_use]
    pub fn with_records(mut self, records: Records, state: &Path) -> Self {
        self.records = Some(Arc::new(records));
        self.state = Some(state.to_path_buf());
        self
    }

    /// Tells the records of a sandbox, before anybody can remove it.
    pub(super) fn record(&self, record: impl FnOnce() -> SandboxRecord) {
        if let Some(records) = &self.records {
            records.insert(&record());
        }
    }

    /// Tells the records that sandbox `id` is gone.
    pub(super) fn unrecord(&self, id: &str) {
        if let Some(records) = &self.records {
            records.remove(id);
        }
    }

    /// Waits until the records are on disk.
    pub fn flush(&self) -> Result<(), RecordsError> {
        self.records.as_deref().map_or(Ok(()), Records::flush)
    }
}

#[cfg(test)]
mod tests;
