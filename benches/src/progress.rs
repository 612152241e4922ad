//! How far a section is, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on a terminal's stderr; nothing anywhere else. Gone when dropped.
///
/// It draws only when it is told of progress, between samples: a thread that redraws it
/// would be measured too.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `steps` steps of `section`.
    pub fn start(section: &'static str, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64).with_prefix(section);
        // The template is a constant that parses; the default style is as good otherwise.
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:11} {bar:30} {pos}/{len} {msg} [{elapsed}]")
        {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Says what is being done.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
        self.bar.tick();
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
