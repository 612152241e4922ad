//! The load: one connection that writes key after key, as many a second as it is told to, and
//! knows when each was due and when it was answered.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tine_abi::pattern::{Pages, Selection};

use super::client::{Answer, Client};
use super::cut::Writes;
use super::record::{Record, key_name};
use crate::saves::timeline::Completion;
use crate::stats::microseconds;

/// Most requests that are under way at once.
const BATCH: u64 = 64;
/// How long the writer rests when nothing is due.
const REST: Duration = Duration::from_micros(500);

/// What others may know of the writer while it works, and how they end it.
#[derive(Debug, Default)]
pub struct Signals {
    /// Writes that were sent.
    pub sent: AtomicU64,
    /// Writes that were answered.
    pub answered: AtomicU64,
    /// It is to end.
    pub stop: AtomicBool,
}

/// Writes keys.
pub struct Writer {
    client: Client,
    keys: u32,
    versions: Vec<u32>,
    order: Pages,
    rounds: u64,
    /// All writes until now.
    pub writes: Writes,
}

impl Writer {
    /// Writes every key once.
    pub fn fill(client: Client, keys: u32) -> io::Result<Self> {
        let order = Selection::sequential(0, keys.into()).iter();
        let versions = vec![0; keys as usize];
        let mut writer =
            Self { client, keys, versions, order, rounds: 0, writes: Writes::default() };
        let mut left = u64::from(keys);
        while left > 0 {
            let batch = left.min(BATCH);
            writer.send(batch)?;
            writer.answers(batch, |_| {})?;
            left -= batch;
        }
        Ok(writer)
    }

    /// How many keys there are.
    pub fn keys(&self) -> u32 {
        self.keys
    }

    /// Sends `batch` writes.
    fn send(&mut self, batch: u64) -> io::Result<()> {
        for _ in 0..batch {
            let key = self.next_key();
            let version = self.versions[key as usize];
            self.versions[key as usize] += 1;
            let value = Record { key, version, write: self.writes.add(key) }.encode();
            self.client.push(&[b"SET", key_name(key).as_bytes(), &value]);
        }
        self.client.send()
    }

    /// The next key: none comes again before all others have.
    fn next_key(&mut self) -> u32 {
        loop {
            if let Some(key) = self.order.next() {
                // Below the number of keys, as the selection has no other.
                return key as u32;
            }
            self.rounds += 1;
            let keys = u64::from(self.keys);
            self.order = Selection::scattered(keys, keys, self.rounds).iter();
        }
    }

    /// Takes `batch` answers, and tells of each.
    fn answers(&mut self, batch: u64, mut each: impl FnMut(u64)) -> io::Result<()> {
        for index in 0..batch {
            match self.client.answer()? {
                Answer::Word(word) if word == "OK" => each(index),
                other => return Err(io::Error::other(format!("SET was answered with {other:?}"))),
            }
        }
        Ok(())
    }

    /// Writes `rate` keys a second until it is stopped. A request is late from the time on at
    /// which it was due, however late it was sent: a server that stands still delays all
    /// that were to come meanwhile.
    pub fn run(&mut self, rate: f64, signals: &Signals) -> io::Result<Vec<Completion>> {
        let begun = Instant::now();
        let base = self.writes.count();
        signals.sent.store(base, Ordering::SeqCst);
        signals.answered.store(base, Ordering::SeqCst);
        let mut completions = Vec::new();
        let mut done = 0;
        while !signals.stop.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * rate) as u64;
            let batch = due.saturating_sub(done).min(BATCH);
            if batch == 0 {
                thread::sleep(REST);
                continue;
            }
            // In this order: what counts as sent may not have been seen by the server, but
            // nothing else may have.
            signals.sent.store(base + done + batch, Ordering::SeqCst);
            self.send(batch)?;
            self.answers(batch, |index| {
                let at = Instant::now();
                let was_due = Duration::from_secs_f64((done + index) as f64 / rate);
                let late = at.duration_since(begun).saturating_sub(was_due);
                completions.push(Completion { at, count: 1, us: Some(microseconds(late) as f32) });
                signals.answered.store(base + done + index + 1, Ordering::SeqCst);
            })?;
            done += batch;
        }
        Ok(completions)
    }

    /// Writes as fast as the server takes it, for `time`; writes a second.
    pub fn fastest(&mut self, time: Duration) -> io::Result<f64> {
        let begun = Instant::now();
        let before = self.writes.count();
        while begun.elapsed() < time {
            self.send(BATCH)?;
            self.answers(BATCH, |_| {})?;
        }
        let writes = self.writes.count() - before;
        Ok(writes as f64 / begun.elapsed().as_secs_f64())
    }
}
