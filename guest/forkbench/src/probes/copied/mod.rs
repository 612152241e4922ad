//! What `fork` copies and what it shares: each thing by a test, in bytes and in microseconds.

mod calls;
mod fate;
mod objects;

use super::Out;
use crate::failure::Failure;
use crate::rows::{CopiedRow, Fate, Row};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many calls of each kind are timed.
    pub rounds: usize,
    /// How many children live at once, to see what each takes.
    pub children: usize,
}

/// One thing that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Process,
    Memory,
    Mappings,
    Tables,
    Descriptors,
    Handlers,
    Credentials,
    Limits,
    Mask,
    Environment,
    Frames,
    Files,
    Directory,
}

impl Thing {
    const ALL: [Self; 13] = [
        Self::Process,
        Self::Memory,
        Self::Mappings,
        Self::Tables,
        Self::Descriptors,
        Self::Handlers,
        Self::Credentials,
        Self::Limits,
        Self::Mask,
        Self::Environment,
        Self::Frames,
        Self::Files,
        Self::Directory,
    ];

    /// Its name in rows.
    const fn name(self) -> &'static str {
        match self {
            Self::Process => "process control block",
            Self::Memory => "memory descriptor and list of mappings",
            Self::Mappings => "1,000 more mappings",
            Self::Tables => "page tables of 64 MiB",
            Self::Descriptors => "descriptor table, 1,000 more descriptors",
            Self::Handlers => "signal handlers",
            Self::Credentials => "credentials",
            Self::Limits => "resource limits",
            Self::Mask => "file mode mask",
            Self::Environment => "environment",
            Self::Frames => "page frames, each page that is written",
            Self::Files => "open files, 1,000 of them",
            Self::Directory => "working directory",
        }
    }

    /// What is said of it.
    const fn claimed(self) -> Fate {
        match self {
            Self::Frames | Self::Files | Self::Directory => Fate::Shared,
            _ => Fate::Copied,
        }
    }
}

/// Measures.
///
/// # Errors
///
/// When a child fails.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let objects = objects::Objects::count(options.children)?;
    for thing in Thing::ALL {
        let (found, test) = fate::test(thing)?;
        let bytes = objects.of(thing)?;
        let calls = calls::time(thing, options.rounds)?;
        out(Row::Copied(CopiedRow {
            what: thing.name().into(),
            claimed: thing.claimed(),
            found,
            test: test.into(),
            bytes: bytes.bytes,
            bytes_how: bytes.how,
            with_us: calls.with_us,
            without_us: calls.without_us,
            us_how: calls.how.into(),
        }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_frames_and_open_files_are_copied() {
        let mut rows = Vec::new();
        run(&Options { rounds: 5, children: 20 }, &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows.len(), Thing::ALL.len());
        for row in rows {
            let Row::Copied(row) = row else { panic!("{row:?}") };
            // The text has it that the working directory is shared as well. It is not.
            let shared = row.what.starts_with("page frames") || row.what.starts_with("open files");
            assert_eq!(row.found == Fate::Shared, shared, "{row:?}");
            assert_eq!(row.claimed != row.found, row.what == "working directory", "{row:?}");
            assert!(row.bytes.is_none_or(f64::is_finite) && !row.bytes_how.is_empty(), "{row:?}");
        }
    }
}
