//! How far the run is, and how long it will take yet: a bar on a terminal, a line for each
//! section anywhere else.
//!
//! It draws only when it is told of progress, between samples: a thread that redraws it
//! would be measured too.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::BenchError;
use crate::interrupt::Interrupt;

/// Ticks of the bar for a second of the plan.
const TICKS: f64 = 1000.0;

/// The bar of a run. Gone when dropped.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    interrupt: Interrupt,
    begun: Instant,
    /// Of the plan, seconds: all of it, what is done, and the section at hand.
    all: f64,
    done: Cell<f64>,
    section: Cell<f64>,
    /// Of the section at hand: steps done, and all of them.
    step: Cell<(usize, usize)>,
    name: RefCell<String>,
}

impl Progress {
    /// For a run that is planned to take `seconds`.
    pub fn start(seconds: f64, interrupt: Interrupt) -> Self {
        let bar = ProgressBar::new((seconds * TICKS) as u64);
        // The template is a constant that parses; the default style is as good otherwise.
        if let Ok(style) = ProgressStyle::with_template("{prefix:16} {bar:30} {percent:>3} % {msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            terminal: std::io::stderr().is_terminal(),
            interrupt,
            begun: Instant::now(),
            all: seconds,
            done: Cell::new(0.0),
            section: Cell::new(0.0),
            step: Cell::new((0, 1)),
            name: RefCell::default(),
        }
    }

    /// A section begins that is planned to take `seconds`.
    pub fn begin(&self, section: &str, seconds: f64) {
        self.section.set(seconds);
        self.step.set((0, 1));
        section.clone_into(&mut self.name.borrow_mut());
        self.bar.set_prefix(section.to_owned());
        if self.terminal {
            self.draw("");
        } else {
            eprintln!("{section}: {}", self.left());
        }
    }

    /// The section at hand has so many steps.
    pub fn steps(&self, steps: usize) {
        self.step.set((0, steps.max(1)));
    }

    /// Says what is being done.
    pub fn say(&self, what: impl AsRef<str>) {
        self.draw(what.as_ref());
    }

    /// One step is done. An error if someone has asked for the end meanwhile.
    pub fn step(&self) -> Result<(), BenchError> {
        let (step, steps) = self.step.get();
        self.step.set(((step + 1).min(steps), steps));
        self.draw("");
        self.interrupt.check()
    }

    /// The section at hand is done.
    pub fn end(&self) {
        self.done.set(self.done.get() + self.section.take());
        self.step.set((0, 1));
    }

    fn draw(&self, what: &str) {
        let what = if what.is_empty() { String::new() } else { format!("  {what}") };
        self.bar.set_position((self.position() * TICKS) as u64);
        self.bar.set_message(format!("{}{what}", self.left()));
        self.bar.tick();
    }

    /// What is done, seconds of the plan.
    fn position(&self) -> f64 {
        let (step, steps) = self.step.get();
        self.done.get() + self.section.get() * step as f64 / steps as f64
    }

    fn left(&self) -> String {
        let seconds = seconds_left(self.begun.elapsed(), self.position(), self.all);
        match seconds {
            seconds if seconds < 90.0 => format!("{seconds:.0} s left"),
            seconds => format!("{:.0} min left", seconds / 60.0),
        }
    }
}

/// What is left of a plan of `all` seconds when `done` of them took `elapsed`: at the plan's
/// pace until there is enough to know this host's.
fn seconds_left(elapsed: Duration, done: f64, all: f64) -> f64 {
    const KNOWN: f64 = 5.0;
    let pace = (elapsed.as_secs_f64() + KNOWN) / (done + KNOWN);
    (all - done).max(0.0) * pace
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_learns_the_pace_of_the_host() {
        assert_eq!(seconds_left(Duration::ZERO, 0.0, 60.0), 60.0);
        // Twice as slow as planned.
        let left = seconds_left(Duration::from_secs(200), 100.0, 160.0);
        assert!((left - 117.0).abs() < 1.0, "{left}");
        assert_eq!(seconds_left(Duration::from_secs(9), 70.0, 60.0), 0.0);
    }

    #[test]
    fn steps_move_the_bar_and_an_interrupt_ends_them() {
        let progress = Progress::start(10.0, Interrupt::default());
        progress.begin("spawn", 4.0);
        progress.steps(2);
        progress.step().unwrap();
        assert_eq!(progress.position(), 2.0);
        progress.end();
        assert_eq!(progress.position(), 4.0);
    }
}
