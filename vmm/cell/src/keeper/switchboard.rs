//! The thread that hears what all cells say, and from the warden which of them have ended.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::cell::Hearer;
use crate::warden::{Report, Warden, how_it_ended};

/// Token of the warden.
const WARDEN: u64 = 0;
/// Why a cell is gone when the warden is.
const WARDEN_GONE: &str = "the process that all cells come from is gone";
/// Events taken at once.
const EVENTS: usize = 64;
/// Ends of processes without a hearer that are remembered.
const STRANGERS: usize = 64;
/// How long the warden may take to tell of an end.
const TOLD_LIMIT: Duration = Duration::from_millis(200);

/// Hears all cells.
#[derive(Debug)]
pub struct Switchboard {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    epoll: std::os::fd::OwnedFd,
    hearers: Mutex<HashMap<u64, Weak<Hearer>>>,
    /// The same by the warden's numbers of their processes, with their tokens.
    by_pid: Mutex<HashMap<u32, (u64, Weak<Hearer>)>>,
    /// How processes ended that had no hearer, by the warden's numbers.
    strangers: Mutex<VecDeque<(u32, String)>>,
    next: AtomicU64,
    /// The warden is gone: nobody is heard any more.
    closed: AtomicBool,
    warden: Arc<Warden>,
}

impl Switchboard {
    /// Starts the thread, which hears `warden`, too.
    pub fn start(warden: Arc<Warden>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, warden.channel(), EventData::new_u64(WARDEN), EventFlags::IN)?;
        let shared = Arc::new(Shared {
            epoll,
            hearers: Mutex::default(),
            by_pid: Mutex::default(),
            strangers: Mutex::default(),
            next: AtomicU64::new(WARDEN + 1),
            closed: AtomicBool::new(false),
            warden,
        });
        let own = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("switchboard".into()).spawn(move || own.serve())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// From now on `hearer` is told what comes through its channel.
    pub(super) fn attach(&self, hearer: &Arc<Hearer>) -> io::Result<()> {
        let shared = &self.shared;
        let token = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.hearers().insert(token, Arc::downgrade(hearer));
        let data = EventData::new_u64(token);
        epoll::add(&shared.epoll, hearer.channel(), data, EventFlags::IN)?;
        shared.by_pid().insert(hearer.inner_pid(), (token, Arc::downgrade(hearer)));
        // What the warden has told before nobody has heard.
        if hearer.is_gone() {
            hearer.ended("it ended as soon as it had started");
        }
        // Either this is seen here, or the hearer there.
        if shared.closed.load(Ordering::SeqCst) {
            hearer.lost(WARDEN_GONE);
        }
        Ok(())
    }
}

impl Switchboard {
    /// How a process ended that nobody heard, by its number where the warden counts; none if it
    /// is not told of within a moment.
    pub(super) fn how_it_ended(&self, inner_pid: u32) -> Option<String> {
        let begun = Instant::now();
        loop {
            let strangers = self.shared.strangers();
            let found = strangers.iter().find(|(pid, _)| *pid == inner_pid);
            if let Some((_, how)) = found {
                return Some(how.clone());
            }
            drop(strangers);
            if begun.elapsed() > TOLD_LIMIT {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        // The thread ends with the warden.
        self.shared.warden.end();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the switchboard's thread panicked");
        }
    }
}

impl Shared {
    fn hearers(&self) -> MutexGuard<'_, HashMap<u64, Weak<Hearer>>> {
        self.hearers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_pid(&self) -> MutexGuard<'_, HashMap<u32, (u64, Weak<Hearer>)>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<(u32, String)>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let waited =
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the switchboard can't wait any more");
                    self.close();
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WARDEN => {
                        if !self.hear_warden() {
                            return;
                        }
                    }
                    token => self.hear_cell(token),
                }
            }
        }
    }

    fn hear_cell(&self, token: u64) {
        let hearer = self.hearers().get(&token).and_then(Weak::upgrade);
        let goes_on = match &hearer {
            Some(hearer) => hearer.hear(),
            None => false,
        };
        if !goes_on {
            self.hearers().remove(&token);
            if let Some(hearer) = hearer
                && let Err(error) = epoll::delete(&self.epoll, hearer.channel().as_fd())
            {
                tracing::warn!(%error, "a cell can't be left");
            }
        }
    }

    /// Whether there is more to hear.
    fn hear_warden(&self) -> bool {
        loop {
            match self.warden.report() {
                Ok(None) => return true,
                Ok(Some(Report::Ended(pid, status))) => self.tell_end(pid, &how_it_ended(status)),
                Ok(Some(Report::NoCell(reason))) => {
                    tracing::error!(reason, "a cell could not be made");
                }
                Ok(Some(Report::Ready(_))) => {}
                Err(error) => {
                    if !self.warden.is_ending() {
                        tracing::error!(%error, "the warden is gone, and all cells with it");
                    }
                    self.close();
                    return false;
                }
            }
        }
    }

    fn tell_end(&self, inner_pid: u32, how: &str) {
        let Some((token, hearer)) = self.by_pid().remove(&inner_pid) else {
            let mut strangers = self.strangers();
            strangers.truncate(STRANGERS - 1);
            strangers.push_front((inner_pid, how.to_owned()));
            return;
        };
        match hearer.upgrade() {
            Some(hearer) => hearer.ended(how),
            // Nobody holds it, and its channel is closed: nothing else comes of it.
            None => drop(self.hearers().remove(&token)),
        }
    }

    /// Nothing is heard from now on: no cell outlives the warden.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let hearers = std::mem::take(&mut *self.hearers());
        for hearer in hearers.values().filter_map(Weak::upgrade) {
            hearer.lost(WARDEN_GONE);
        }
    }
}
