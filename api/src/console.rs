//! What a guest printed, for those who ask later and those who wait for more.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Bytes of output that are kept at least; twice as many at most.
const KEPT_BYTES: usize = 256 << 10;

/// One sandbox's console output.
#[derive(Clone, Debug)]
pub struct ConsoleBuffer {
    log: Arc<Mutex<Log>>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    /// Bytes that were written and are not kept any more.
    dropped: u64,
}

impl ConsoleBuffer {
    /// A console on which nothing was printed.
    pub fn new() -> Self {
        Self { log: Arc::default(), written: watch::Sender::new(0) }
    }

    /// A reader, which does not keep the console alive.
    pub fn reader(&self) -> ConsoleReader {
        ConsoleReader { log: Arc::clone(&self.log), written: self.written.subscribe(), next: 0 }
    }
}

/// Reads a console from its beginning, as far as that is kept.
#[derive(Debug)]
pub struct ConsoleReader {
    log: Arc<Mutex<Log>>,
    written: watch::Receiver<u64>,
    next: u64,
}

impl ConsoleReader {
    /// What was printed since the last call.
    pub fn read(&mut self) -> Vec<u8> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let end = log.dropped + log.bytes.len() as u64;
        let skip = self.next.saturating_sub(log.dropped).min(log.bytes.len() as u64) as usize;
        self.next = end;
        log.bytes[skip..].to_vec()
    }

    /// Waits for more. Whether there can be any: not when the sandbox is gone.
    pub async fn more(&mut self) -> bool {
        self.written.changed().await.is_ok()
    }
}

impl Default for ConsoleBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl ConsoleBuffer {
    /// Takes what was printed.
    pub fn push(&mut self, data: &[u8]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.bytes.extend_from_slice(data);
        if log.bytes.len() > 2 * KEPT_BYTES {
            let cut = log.bytes.len() - KEPT_BYTES;
            log.bytes.drain(..cut);
            log.dropped += cut as u64;
        }
        self.written.send_modify(|count| *count += data.len() as u64);
    }
}

impl Write for ConsoleBuffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.push(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_output_goes_and_positions_stay() {
        let mut console = ConsoleBuffer::new();
        let line = [b'x'; 1000];
        for _ in 0..1000 {
            console.write_all(&line).unwrap();
        }
        let mut reader = console.reader();
        let kept = reader.read();
        assert!((KEPT_BYTES..=2 * KEPT_BYTES).contains(&kept.len()));
        assert_eq!(reader.read().len(), 0);
        console.write_all(b"more").unwrap();
        assert_eq!(reader.read(), b"more");
    }
}
