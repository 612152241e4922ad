//! What the daemon counts, for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tine_cell::Origin;
use tine_cell::keeper::Fill;
use tine_vmm::Ladder;

use crate::model::Memory;

/// Which way sandboxes were made.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Made {
    by: &'static str,
}

/// Which way sandboxes were made, and how they got their memory.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Way {
    by: &'static str,
    memory: &'static str,
}

/// Where the cell of a clone came from.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct From {
    from: &'static str,
}

/// What a cell that waits has in it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Times, apart by what would make them differ.
type Times = Family<Way, Histogram, fn() -> Histogram>;

/// The daemon's counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    live: Gauge,
    snapshots: Gauge,
    operations: Gauge,
    made: Family<Made, Counter>,
    cells: Family<From, Counter>,
    ready: Family<Kind, Gauge>,
    drained: Gauge,
    failed: Family<Made, Counter>,
    killed: Counter,
    expired: Counter,
    first_instruction: Times,
    guest_entry: Times,
    parent_pause: Histogram,
    /// Of requests that wait for their turn.
    pub queue: QueueMetrics,
}

/// What is counted of requests that wait for their turn.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    /// How many wait.
    pub length: Gauge,
    /// Those that were refused.
    pub refused: Counter,
    /// How long those waited that had a turn.
    pub wait: Histogram,
}

fn seconds() -> Histogram {
    // 50 microseconds to 1.6 seconds.
    Histogram::new(exponential_buckets(50e-6, 2.0, 16))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tine"),
            live: Gauge::default(),
            snapshots: Gauge::default(),
            operations: Gauge::default(),
            made: Family::default(),
            cells: Family::default(),
            ready: Family::default(),
            drained: Gauge::default(),
            failed: Family::default(),
            killed: Counter::default(),
            expired: Counter::default(),
            first_instruction: Times::new_with_constructor(seconds),
            guest_entry: Times::new_with_constructor(seconds),
            parent_pause: seconds(),
            queue: QueueMetrics {
                length: Gauge::default(),
                refused: Counter::default(),
                // 50 microseconds to 13 seconds: nobody waits longer.
                wait: Histogram::new(exponential_buckets(50e-6, 2.0, 19)),
            },
        };
        let registry = &mut metrics.registry;
        registry.register("sandboxes", "Sandboxes that exist", metrics.live.clone());
        registry.register("snapshots", "Snapshots that are kept", metrics.snapshots.clone());
        registry.register(
            "operations",
            "Requests that threads are at work on, guests at work included",
            metrics.operations.clone(),
        );
        registry.register("sandboxes_made", "Sandboxes made", metrics.made.clone());
        registry.register(
            "cells_used",
            "Cells of clones, by where they came from: dormant is a hit",
            metrics.cells.clone(),
        );
        registry.register("cells_ready", "Cells made ahead", metrics.ready.clone());
        registry.register(
            "cells_drained",
            "Cells made ahead that were given up because memory was short",
            metrics.drained.clone(),
        );
        registry.register(
            "sandboxes_failed",
            "Sandboxes that could not be made",
            metrics.failed.clone(),
        );
        registry.register(
            "sandboxes_killed",
            "Sandboxes killed on request",
            metrics.killed.clone(),
        );
        registry.register(
            "sandboxes_expired",
            "Sandboxes killed at their timeout",
            metrics.expired.clone(),
        );
        registry.register(
            "first_instruction_seconds",
            "From the request to the first guest instruction",
            metrics.first_instruction.clone(),
        );
        registry.register(
            "guest_entry_seconds",
            "From entering KVM to the first guest instruction, the last step of that",
            metrics.guest_entry.clone(),
        );
        registry.register(
            "parent_pause_seconds",
            "How long a parent stood still for a fork or a snapshot",
            metrics.parent_pause.clone(),
        );
        let QueueMetrics { length, refused, wait } = metrics.queue.clone();
        registry.register("queue_length", "Requests that wait for their turn", length);
        registry.register(
            "queue_refused",
            "Requests refused because too many waited, or they waited too long",
            refused,
        );
        registry.register("queue_wait_seconds", "How long requests waited for their turn", wait);
        metrics
    }

    /// A sandbox was made `by` spawn or fork.
    pub fn made(&self, by: &'static str, memory: Memory, ladder: &Ladder) {
        self.made.get_or_create(&Made { by }).inc();
        let way = Way { by, memory: memory.name() };
        if let Some(total) = ladder.total {
            self.first_instruction.get_or_create(&way).observe(total.as_secs_f64());
        }
        if let Some(entry) = ladder.first_instruction {
            self.guest_entry.get_or_create(&way).observe(entry.as_secs_f64());
        }
    }

    /// A clone has a cell that came from `origin`.
    pub fn cell(&self, origin: Origin) {
        self.cells.get_or_create(&From { from: origin.name() }).inc();
    }

    /// So many cells are ready.
    pub fn fill(&self, fill: Fill) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.ready.get_or_create(&Kind { kind: "blank" }).set(count(fill.blank));
        self.ready.get_or_create(&Kind { kind: "dormant" }).set(count(fill.dormant));
        self.drained.set(i64::try_from(fill.drained).unwrap_or(i64::MAX));
    }

    /// `count` sandboxes could not be made.
    pub fn failed(&self, by: &'static str, count: u32) {
        self.failed.get_or_create(&Made { by }).inc_by(u64::from(count));
    }

    /// A parent stood still for `pause`.
    pub fn paused(&self, pause: Duration) {
        self.parent_pause.observe(pause.as_secs_f64());
    }

    /// A sandbox was killed on request.
    pub fn killed(&self) {
        self.killed.inc();
    }

    /// A sandbox was killed at its timeout.
    pub fn expired(&self) {
        self.expired.inc();
    }

    /// An operation begins; it ends when the result is dropped.
    pub fn operation(&self) -> Operation<'_> {
        self.operations.inc();
        Operation(&self.operations)
    }

    /// Everything in the text format of OpenMetrics.
    pub fn text(&self, sandboxes: usize, snapshots: usize) -> Result<String, std::fmt::Error> {
        self.live.set(i64::try_from(sandboxes).unwrap_or(i64::MAX));
        self.snapshots.set(i64::try_from(snapshots).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// An operation under way.
#[derive(Debug)]
pub struct Operation<'a>(&'a Gauge);

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
