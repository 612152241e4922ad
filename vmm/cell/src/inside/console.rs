//! What the guest prints, on its way to the keeper: by the line, or when no more comes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::channel::{Channel, ChannelError};
use crate::protocol::{CONSOLE_BYTES, Said};

/// How long a line that is not finished waits for its rest.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    since: Option<Instant>,
}

/// The console of the machine in a cell; a clone of the value is the same console.
#[derive(Clone, Debug)]
pub(super) struct Console {
    channel: Arc<Channel>,
    /// Rung when there is something to flush later.
    bell: Arc<EventFd>,
    line: Arc<Mutex<Line>>,
}

impl Console {
    pub(super) fn new(channel: Arc<Channel>, bell: EventFd) -> Self {
        Self { channel, bell: Arc::new(bell), line: Arc::default() }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When what there is must be sent, if there is anything.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.line().since.map(|since| since + PATIENCE)
    }

    /// Sends what has waited long enough.
    pub(super) fn flush(&self) -> Result<(), ChannelError> {
        let mut line = self.line();
        match line.since {
            Some(since) if since.elapsed() >= PATIENCE => self.send(&mut line),
            _ => Ok(()),
        }
    }

    fn send(&self, line: &mut Line) -> Result<(), ChannelError> {
        line.since = None;
        for piece in std::mem::take(&mut line.bytes).chunks(CONSOLE_BYTES) {
            self.channel.send(&Said::Console(piece.to_vec()), &[])?;
        }
        Ok(())
    }
}

impl Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut line = self.line();
        line.bytes.extend_from_slice(data);
        if data.contains(&b'\n') || line.bytes.len() >= CONSOLE_BYTES {
            self.send(&mut line).map_err(io::Error::other)?;
        } else if line.since.is_none() {
            line.since = Some(Instant::now());
            self.bell.write(1)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
