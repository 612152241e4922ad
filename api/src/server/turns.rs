//! Whose turn it is: a bounded number of operations at once, a bounded queue for the others,
//! and keys that are served in turn, so that many requests for one thing keep nobody from
//! another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::metrics::QueueMetrics;
use crate::problem::Problem;

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a turn takes, as long as none has ended, seconds.
const FIRST_GUESS: f64 = 0.1;
/// What a new turn weighs in the moving average.
const WEIGHT: f64 = 0.125;
/// Longest that a client is told to stay away, seconds.
const MAX_RETRY_AFTER: u64 = 60;

/// The turns that there are, and who waits for one.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Turns at once.
    most: usize,
    /// Most that wait.
    queue: usize,
    metrics: QueueMetrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Turns that nobody has. None, as long as somebody waits.
    free: usize,
    /// Who waits, by key; no lane is empty.
    lanes: HashMap<String, VecDeque<Waiter>>,
    /// The keys of the lanes, the next to be served first.
    ring: VecDeque<String>,
    waiting: usize,
    tickets: u64,
    /// Moving average of how long a turn takes, seconds.
    mean: f64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    tell: oneshot::Sender<Verdict>,
}

/// What becomes of one who waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has a turn.
    Turn,
    /// Its place went to another key, which had fewer.
    Displaced,
}

enum Entered {
    Turn(Turn),
    Place(Place),
    Full,
}

impl Turns {
    /// `most` at once, while `queue` wait.
    pub fn new(most: usize, queue: usize, metrics: QueueMetrics) -> Self {
        let (lanes, ring) = Default::default();
        let state = State { free: most, lanes, ring, waiting: 0, tickets: 0, mean: FIRST_GUESS };
        Self(Arc::new(Shared { most, queue, metrics, state: Mutex::new(state) }))
    }

    /// Waits for a turn. The waiting may be given up; the place is then another's.
    pub async fn take(&self, key: &str) -> Result<Turn, Problem> {
        let begun = Instant::now();
        let turn = match self.enter(key) {
            Entered::Turn(turn) => turn,
            Entered::Full => return Err(self.refuse("the queue is full")),
            Entered::Place(mut place) => match timeout(PATIENCE, &mut place.told).await {
                Ok(Ok(Verdict::Turn)) => place.into_turn(),
                Ok(_) => return Err(self.refuse("the queue is full of requests for the same")),
                Err(_) => {
                    drop(place);
                    let detail = format!("its turn did not come in {} s", PATIENCE.as_secs());
                    return Err(self.refuse(&detail));
                }
            },
        };
        self.0.metrics.wait.observe(begun.elapsed().as_secs_f64());
        Ok(turn)
    }

    fn enter(&self, key: &str) -> Entered {
        let mut state = self.0.state();
        if state.free > 0 {
            state.free -= 1;
            return Entered::Turn(Turn { of: Arc::clone(&self.0), begun: Instant::now() });
        }
        if state.waiting >= self.0.queue && !state.make_room(key) {
            return Entered::Full;
        }
        let (tell, told) = oneshot::channel();
        state.tickets += 1;
        let ticket = state.tickets;
        state.push(key, Waiter { ticket, tell });
        self.0.count(&state);
        Entered::Place(Place { of: Arc::clone(&self.0), key: key.to_owned(), ticket, told })
    }

    fn refuse(&self, why: &str) -> Problem {
        self.0.metrics.refused.inc();
        let (waiting, mean) = {
            let state = self.0.state();
            (state.waiting, state.mean)
        };
        let seconds = (mean * (waiting + 1) as f64 / self.0.most as f64).ceil() as u64;
        let seconds = seconds.clamp(1, MAX_RETRY_AFTER);
        let detail = format!("too much is going on: {why}; try again in {seconds} s");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        self.metrics.length.set(i64::try_from(state.waiting).unwrap_or(i64::MAX));
    }

    /// Hands a turn that has ended to the next.
    fn release(&self, state: &mut State) {
        match state.pop() {
            // Whoever gave up has taken itself out first, or gives the turn back when it does.
            Some(next) => drop(next.tell.send(Verdict::Turn)),
            None => state.free += 1,
        }
        self.count(state);
    }
}

impl State {
    fn push(&mut self, key: &str, waiter: Waiter) {
        self.waiting += 1;
        match self.lanes.get_mut(key) {
            Some(lane) => lane.push_back(waiter),
            None => {
                self.lanes.insert(key.to_owned(), VecDeque::from([waiter]));
                self.ring.push_back(key.to_owned());
            }
        }
    }

    /// Whose turn it is: the first of the next lane, which then is the last.
    fn pop(&mut self) -> Option<Waiter> {
        let key = self.ring.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let waiter = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&key);
        } else {
            self.ring.push_back(key);
        }
        self.waiting -= usize::from(waiter.is_some());
        waiter
    }

    /// Takes the waiter with `ticket` out of the lane of `key`, if it still waits.
    fn take_out(&mut self, key: &str, ticket: u64) -> Option<Waiter> {
        let lane = self.lanes.get_mut(key)?;
        let at = lane.iter().position(|waiter| waiter.ticket == ticket)?;
        let waiter = lane.remove(at);
        if lane.is_empty() {
            self.lanes.remove(key);
            self.ring.retain(|other| other != key);
        }
        self.waiting -= 1;
        waiter
    }

    /// Has the last of the longest lane give its place to `key`, unless that has as many.
    fn make_room(&mut self, key: &str) -> bool {
        let own = self.lanes.get(key).map_or(0, VecDeque::len);
        let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.len());
        let last = longest
            .filter(|(_, lane)| lane.len() > own + 1)
            .and_then(|(longest, lane)| Some((longest.clone(), lane.back()?.ticket)));
        let displaced = last.and_then(|(longest, ticket)| self.take_out(&longest, ticket));
        displaced.map(|waiter| waiter.tell.send(Verdict::Displaced)).is_some()
    }
}

/// A place in the queue; given up when dropped.
struct Place {
    of: Arc<Shared>,
    key: String,
    ticket: u64,
    told: oneshot::Receiver<Verdict>,
}

impl Place {
    /// The turn that it was told to have.
    fn into_turn(self) -> Turn {
        Turn { of: Arc::clone(&self.of), begun: Instant::now() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.state();
        if state.take_out(&self.key, self.ticket).is_some() {
            self.of.count(&state);
        } else if let Ok(Verdict::Turn) = self.told.try_recv() {
            // Its turn came, and it had gone. Verdicts are told under the lock: none is missed.
            self.of.release(&mut state);
        }
    }
}

/// A turn; the next begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    of: Arc<Shared>,
    begun: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let took = self.begun.elapsed().as_secs_f64();
        let mut state = self.of.state();
        state.mean += WEIGHT * (took - state.mean);
        self.of.release(&mut state);
    }
}

#[cfg(test)]
mod tests;
