//! Hears the beacon: when it called first, and how often since.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an ear has heard.
#[derive(Debug, Default)]
struct Heard {
    first: Option<Instant>,
    calls: u64,
    /// Nothing more will come.
    ended: bool,
}

/// Hears one guest; a clone of the value is the same ear.
#[derive(Clone, Debug, Default)]
pub struct Ear(Arc<(Mutex<Heard>, Condvar)>);

impl Ear {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` came now. What is no call, a VMM's own messages, is not heard.
    pub fn hear(&self, bytes: &[u8]) {
        let now = Instant::now();
        let calls = bytes.iter().filter(|&&byte| byte == tine_beacon::CALL[0]).count() as u64;
        if calls > 0 {
            let mut heard = self.heard();
            heard.first.get_or_insert(now);
            heard.calls += calls;
            self.0.1.notify_all();
        }
    }

    /// Hears all that `source` has to say, until it ends.
    pub fn hear_all(&self, mut source: impl Read) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match source.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.hear(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end is gone: there is nothing more to hear.
                Err(_) => break,
            }
        }
        self.heard().ended = true;
        self.0.1.notify_all();
    }

    /// How often it has called.
    pub fn calls(&self) -> u64 {
        self.heard().calls
    }

    /// When it called first; none if it does not within `limit`.
    pub fn first(&self, limit: Duration) -> Option<Instant> {
        self.wait(limit, |heard| heard.first.is_some()).first
    }

    /// Whether it has called more than `calls` times, within `limit`.
    pub fn more_than(&self, calls: u64, limit: Duration) -> bool {
        self.wait(limit, |heard| heard.calls > calls).calls > calls
    }

    fn wait(&self, limit: Duration, done: impl Fn(&Heard) -> bool) -> MutexGuard<'_, Heard> {
        let on = |heard: &mut Heard| !done(heard) && !heard.ended;
        let waited = self.0.1.wait_timeout_while(self.heard(), limit, on);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// As the sink of a machine's console.
impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hear(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_are_heard_and_the_first_keeps_its_time() {
        let ear = Ear::default();
        ear.hear(b"2026-01-01 [main] Running!\n");
        assert_eq!(ear.first(Duration::ZERO), None);
        let begun = Instant::now();
        ear.hear(&[tine_beacon::CALL, tine_beacon::CALL].concat());
        std::thread::sleep(Duration::from_millis(20));
        ear.hear(&tine_beacon::CALL);
        let first = ear.first(Duration::ZERO).unwrap();
        assert!(first >= begun && first.elapsed() >= Duration::from_millis(20));
        assert_eq!(ear.calls(), 3);
        assert!(ear.more_than(2, Duration::ZERO) && !ear.more_than(3, Duration::ZERO));
    }

    #[test]
    fn nobody_waits_for_a_guest_that_is_gone() {
        let ear = Ear::default();
        ear.hear_all(&b"no call\n"[..]);
        let begun = Instant::now();
        assert_eq!(ear.first(Duration::from_secs(60)), None);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
