//! What the daemon counts, for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tine_vmm::Ladder;

/// Which way sandboxes were made.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Made {
    by: &'static str,
}

/// The daemon's counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    live: Gauge,
    snapshots: Gauge,
    operations: Gauge,
    made: Family<Made, Counter>,
    failed: Family<Made, Counter>,
    killed: Counter,
    expired: Counter,
    first_instruction: Histogram,
    parent_pause: Histogram,
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
            failed: Family::default(),
            killed: Counter::default(),
            expired: Counter::default(),
            first_instruction: seconds(),
            parent_pause: seconds(),
        };
        let registry = &mut metrics.registry;
        registry.register("sandboxes", "Sandboxes that exist", metrics.live.clone());
        registry.register("snapshots", "Snapshots that are kept", metrics.snapshots.clone());
        registry.register(
            "operations",
            "Operations on machines under way",
            metrics.operations.clone(),
        );
        registry.register("sandboxes_made", "Sandboxes made", metrics.made.clone());
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
            "parent_pause_seconds",
            "How long a parent stood still for a fork or a snapshot",
            metrics.parent_pause.clone(),
        );
        metrics
    }

    /// A sandbox was made `by` spawn or fork.
    pub fn made(&self, by: &'static str, ladder: &Ladder) {
        self.made.get_or_create(&Made { by }).inc();
        if let Some(total) = ladder.total {
            self.first_instruction.observe(total.as_secs_f64());
        }
    }

    /// A sandbox could not be made.
    pub fn failed(&self, by: &'static str) {
        self.failed.get_or_create(&Made { by }).inc();
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
