//! A save while the writer is at work, and the proof that the file is the data of one instant.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::client::{Answer, Client};
use super::cut::Torn;
use super::failed;
use super::record::{Record, key_name};
use super::server::Server;
use super::writer::{Signals, Writer};
use crate::BenchError;
use crate::interrupt::Interrupt;
use crate::measure::Measures;
use crate::meminfo::MemInfo;
use crate::saves::timeline::{Completion, Span, Work, bins};
use crate::saves::{MemoryPoint, SaveRow, StopAtEnd, memory, per_gib};
use crate::stats::Summary;

/// Most latencies that are kept of one series: evenly taken from all.
const KEPT: usize = 500;
/// Keys that are asked for at once.
const READ_BATCH: usize = 128;

/// A save during which keys were written.
pub struct Saved {
    span: Span,
    fork_us: u64,
    /// Writes before the writer began, and what it did from then on.
    writes_before: u64,
    completions: Vec<Completion>,
    /// The fork came after so many writes at least, and at most.
    between: (u64, u64),
    memory: Vec<MemoryPoint>,
    copied_bytes: u64,
    page_table_bytes: Option<u64>,
    file_bytes: u64,
}

impl Saved {
    /// Has `server` save itself while `writer` makes so many writes a second, from so long
    /// before the save until so long after it.
    pub fn make(
        server: &Server,
        control: &mut Client,
        writer: &mut Writer,
        (rate, around): (f64, Duration),
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        const DIED: &str = "a thread of the measurement";
        let (signals, over) = (Signals::default(), AtomicBool::new(false));
        let writes_before = writer.writes.count();
        thread::scope(|scope| {
            // However this ends, nobody is waited for who does not end.
            let stop = StopAtEnd(&signals.stop);
            let unwatched = StopAtEnd(&over);
            let load = scope.spawn(|| writer.run(rate, &signals));
            thread::sleep(around);
            let pss_before = memory::pss(server.pid())?;
            let least = signals.answered.load(Ordering::SeqCst);
            let saving = server.begin_save(control)?;
            let most = signals.sent.load(Ordering::SeqCst);
            // A child that has ended already has none.
            let page_table_bytes = memory::page_tables(saving.child).ok();
            let pids = (server.pid(), saving.child);
            let watch = memory::watch(scope, pids, pss_before, saving.begun, &over);
            let ended = server.wait_child(&saving, || interrupt.check())?;
            drop(unwatched);
            server.end_save(control, true)?;
            thread::sleep(around);
            drop(stop);
            let died = |_| failed(DIED)(io::Error::other("it panicked"));
            let completions = load.join().map_err(died)?.map_err(failed("writing to Redis"))?;
            let copied = control.info_number("persistence", "rdb_last_cow_size");
            let file = fs::metadata(server.dump()).map_err(failed("looking for the saved file"))?;
            Ok(Self {
                span: Span { begun: saving.begun, ended },
                fork_us: saving.fork_us,
                writes_before,
                completions,
                between: (least, most),
                memory: watch.join().map_err(died)?,
                copied_bytes: copied.map_err(failed("asking Redis"))?,
                page_table_bytes,
                file_bytes: file.len(),
            })
        })
    }

    /// Sees to it that the file has every key as it was at one instant: that of the fork. The
    /// file is gone afterwards.
    pub fn check(
        &self,
        server: &Server,
        writer: &Writer,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let second = Server::load(&server.dump())?;
        let mut client = second.client()?;
        let numbers: Vec<u32> = (0..writer.keys()).collect();
        let mut records = Vec::with_capacity(numbers.len());
        for batch in numbers.chunks(READ_BATCH) {
            interrupt.check()?;
            records.extend(read(&mut client, batch).map_err(failed("reading what was saved"))?);
        }
        let (least, most) = self.between;
        writer.writes.check(&records, least..=most).map(drop).map_err(|torn| {
            let Torn { checked, mismatches, first } = torn;
            BenchError::Torn { things: "keys", checked, mismatches, first }
        })
    }

    /// The figures, of a file that was checked.
    pub fn row(&self, server: &Server, writer: &Writer, asked: f64) -> Result<SaveRow, BenchError> {
        let Work { before, during, after } = Work::of(&self.completions, self.span);
        let since = |at| self.completions.partition_point(|done| done.at < at) as u64;
        let (first, last) = (since(self.span.begun), since(self.span.ended));
        let base = self.writes_before;
        let written = writer.writes.distinct(base + first, base + last);
        let (calm, busy) = (Summary::of(self.latencies(false)), Summary::of(self.latencies(true)));
        let data_bytes = MemInfo::of(server.pid())?.need("VmRSS")?;
        let pause_us = self.fork_us as f64;
        let known = |us: f64| us.is_finite().then_some(us);
        Ok(SaveRow {
            subject: "redis".to_owned(),
            data_bytes,
            things: writer.keys().into(),
            asked,
            written: written as f64 / f64::from(writer.keys()),
            writes: last - first,
            pause_us,
            pause_us_per_gib: per_gib(pause_us, data_bytes),
            gap_before_us: before.gap_us,
            gap_during_us: during.gap_us,
            save_seconds: self.span.seconds(),
            file_bytes: self.file_bytes,
            extra_bytes: self.memory.iter().map(|point| point.extra_bytes).reduce(f64::max),
            copied_bytes: Some(self.copied_bytes),
            page_table_bytes: self.page_table_bytes,
            before_per_second: before.per_second,
            during_per_second: during.per_second,
            after_per_second: after.per_second,
            latency_before_p50_us: known(calm.p50),
            latency_before_p99_us: known(calm.p99),
            latency_during_p50_us: known(busy.p50),
            latency_during_p99_us: known(busy.p99),
            checked: writer.keys().into(),
            timeline: bins(&self.completions, self.span),
            memory: self.memory.clone(),
        })
    }

    /// Times of requests that were answered during the save, or before it.
    fn latencies(&self, during: bool) -> Vec<f64> {
        let wanted = |done: &&Completion| match during {
            true => self.span.holds(done.at),
            false => done.at < self.span.begun,
        };
        let us = self.completions.iter().filter(wanted).filter_map(|done| done.us);
        us.map(f64::from).collect()
    }

    /// Keeps some of the times of requests as measures whose names begin with `id`.
    pub fn keep(&self, id: &str, measures: &Measures) {
        for (name, during) in [("request_before", false), ("request_during", true)] {
            let all = self.latencies(during);
            let some: Vec<f64> = all.iter().step_by(all.len() / KEPT + 1).copied().collect();
            measures.time(format!("{id}/{name}"), &some);
        }
    }
}

/// What `keys` hold: none where there is no whole record.
fn read(client: &mut Client, keys: &[u32]) -> io::Result<Vec<Option<Record>>> {
    for &key in keys {
        client.push(&[b"GET", key_name(key).as_bytes()]);
    }
    client.send()?;
    let record = |_: &u32| match client.answer()? {
        Answer::Bytes(Some(bytes)) => Ok(Record::decode(&bytes)),
        _ => Ok(None),
    };
    keys.iter().map(record).collect()
}
