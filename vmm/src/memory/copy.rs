//! Copies of many pages from one mapping into another, on as many cores as pay.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::mapping::{Mapping, POPULATE_WRITE};
use super::pagemap::{self, Want};
use super::uffd::Uffd;
use super::{ImageKind, MemoryError, PAGE_SIZE, Run, Runs};

/// Pages below which a second thread costs more than it saves.
const PAGES_A_THREAD: u64 = 256;
/// Pages of memory that are looked through at once: 32 MiB, so that both cores have work to
/// the end.
const PAGES_A_PART: u64 = 8192;
/// Pages that one call populates: a longer one would hold the address space's lock for
/// milliseconds.
pub(super) const PAGES_A_CALL: u64 = 256;

/// Copies the pages that `source` has of its own to the same places of `target`, a private
/// mapping of as many bytes that no guest uses yet, made of `pages`. Two cores look and
/// copy, while the caller does `meanwhile` first. Returns which pages they were, and what
/// that came to.
pub fn own_pages<T>(
    source: &Mapping,
    target: &Mapping,
    pages: ImageKind,
    meanwhile: impl FnOnce() -> T,
) -> (Result<Runs, MemoryError>, T) {
    let uffd = uffd_for(target, pages);
    let all = (source.bytes() / PAGE_SIZE) as u64;
    let next = AtomicU64::new(0);
    // Each takes the next part of memory that nobody has looked at, until none is left.
    let look_and_copy = || -> Result<Vec<Runs>, MemoryError> {
        let mut found = Vec::new();
        loop {
            let first = next.fetch_add(PAGES_A_PART, Ordering::Relaxed);
            if first >= all {
                return Ok(found);
            }
            let part = Run { first, pages: PAGES_A_PART.min(all - first) };
            let runs = pagemap::find_in(source, part, Want::Private)?;
            for job in in_place(&runs) {
                copy_run(source, target, uffd.as_ref(), &job)?;
            }
            found.push(runs);
        }
    };
    thread::scope(|scope| {
        // Where no thread can be had, the caller does it all.
        let helper = thread::Builder::new().spawn_scoped(scope, look_and_copy).ok();
        let value = meanwhile();
        let mut found = look_and_copy();
        if let Some(helper) = helper {
            let others = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found = found.and_then(|mut own| {
                own.extend(others?);
                Ok(own)
            });
        }
        let runs = found.map(|mut parts| {
            parts.sort_unstable_by_key(Runs::end);
            parts.iter().flat_map(Runs::iter).collect()
        });
        (runs, value)
    })
}

/// Copies the pages `runs` of `source` to the same places of `target`, which is as in
/// [`own_pages`].
pub fn same_places(
    source: &Mapping,
    target: &Mapping,
    runs: &Runs,
    pages: ImageKind,
) -> Result<(), MemoryError> {
    copy(source, target, &in_place(runs).collect::<Vec<_>>(), pages)
}

/// Copies the runs of `parts` into `target`, made of `pages`, from the pages of `source`
/// that come with them.
pub fn unpack(
    source: &Mapping,
    target: &Mapping,
    parts: &[(u64, Run)],
    pages: ImageKind,
) -> Result<(), MemoryError> {
    let jobs: Vec<Job> = parts.iter().map(|&(from, run)| Job { from, run }).collect();
    copy(source, target, &jobs, pages)
}

/// Copies the pages `runs` of `source` to `target`, one after the other from its first.
/// `target` is a writable shared mapping of a file, or populated memory.
pub fn pack(source: &Mapping, target: &Mapping, runs: &Runs) {
    let mut place = 0;
    let jobs: Vec<Job> = runs
        .pieces(PAGES_A_CALL)
        .map(|run| {
            let job = Job { from: run.first, run: Run { first: place, pages: run.pages } };
            place += run.pages;
            job
        })
        .collect();
    in_parallel(&jobs, |job| {
        page_run(source, job.from, target, job.run.first, job.run.pages);
        Ok(())
    })
    .unwrap_or_else(|_: std::convert::Infallible| unreachable!());
}

/// Overwrites the pages `runs` of `target`, which no guest uses or whose guest is parked,
/// with those of `source`.
pub fn overwrite(source: &Mapping, target: &Mapping, runs: &Runs) {
    for run in runs.iter() {
        page_run(source, run.first, target, run.first, run.pages);
    }
}

/// Copies `pages` pages, from page `from` of `source` to page `to` of `target`, of which
/// nobody else writes those.
///
/// # Panics
/// When they lie outside.
pub fn page_run(source: &Mapping, from: u64, target: &Mapping, to: u64, pages: u64) {
    let end = |first: u64| (first + pages) as usize * PAGE_SIZE;
    assert!(end(from) <= source.bytes() && end(to) <= target.bytes(), "copy outside");
    // SAFETY: both ranges lie inside their mappings, as asserted, which never overlap
    // and are never lent out. The callers see to it that no guest writes them meanwhile.
    unsafe {
        std::ptr::copy_nonoverlapping(
            source.address().add(from as usize * PAGE_SIZE),
            target.address().add(to as usize * PAGE_SIZE),
            pages as usize * PAGE_SIZE,
        )
    }
}

/// `run.pages` pages, from page `from` of the source to page `run.first` of the target.
#[derive(Clone, Copy)]
struct Job {
    from: u64,
    run: Run,
}

fn copy(
    source: &Mapping,
    target: &Mapping,
    jobs: &[Job],
    pages: ImageKind,
) -> Result<(), MemoryError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let uffd = uffd_for(target, pages);
    in_parallel(jobs, |job| copy_run(source, target, uffd.as_ref(), job))
}

/// Pages `runs` that keep their places, in pieces.
fn in_place(runs: &Runs) -> impl Iterator<Item = Job> + '_ {
    runs.pieces(PAGES_A_CALL).map(|run| Job { from: run.first, run })
}

/// A userfaultfd for `target`, where there can be one.
fn uffd_for(target: &Mapping, pages: ImageKind) -> Option<Uffd> {
    match pages {
        // Reserved huge pages could only be copied whole.
        ImageKind::HugeTlb => None,
        ImageKind::Small | ImageKind::TransparentHuge => Uffd::register(target).ok(),
    }
}

fn copy_run(
    source: &Mapping,
    target: &Mapping,
    uffd: Option<&Uffd>,
    job: &Job,
) -> Result<(), MemoryError> {
    let bytes = job.run.pages as usize * PAGE_SIZE;
    let (start, place) = (job.from as usize * PAGE_SIZE, job.run.first as usize * PAGE_SIZE);
    assert!(start + bytes <= source.bytes() && place + bytes <= target.bytes(), "copy outside");
    // SAFETY: both ranges lie inside their mappings, as asserted.
    let (from, to) = unsafe { (source.address().add(start), target.address().add(place)) };
    let mut copied = 0;
    if let Some(uffd) = uffd {
        while copied < bytes {
            // SAFETY: both ranges are checked, the target is registered, and no guest
            // uses it yet.
            let done = unsafe { uffd.copy(to.add(copied), from.add(copied), bytes - copied) };
            copied += done.map_err(|source| failed("UFFDIO_COPY", job, source))?;
            if copied < bytes {
                // The page is there already, private and writable: overwrite it.
                // SAFETY: as above, and a page that exists causes no missing fault.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.add(copied), to.add(copied), PAGE_SIZE)
                };
                copied += PAGE_SIZE;
            }
        }
        return Ok(());
    }
    target.advise(place, bytes, POPULATE_WRITE)?;
    page_run(source, job.from, target, job.run.first, job.run.pages);
    Ok(())
}

fn failed(method: &'static str, job: &Job, source: io::Error) -> MemoryError {
    MemoryError::Copy { method, pages: job.run.pages, source }
}

/// Does `jobs` on one thread for every [`PAGES_A_THREAD`] pages, the caller's first.
fn in_parallel<E: Send>(
    jobs: &[Job],
    work: impl Fn(&Job) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let total: u64 = jobs.iter().map(|job| job.run.pages).sum();
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let threads = (total / PAGES_A_THREAD).clamp(1, cores);
    let share = total.div_ceil(threads).max(1);
    let mut parts: Vec<&[Job]> = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (index, job) in jobs.iter().enumerate() {
        sum += job.run.pages;
        if sum >= share {
            parts.push(&jobs[start..=index]);
            (start, sum) = (index + 1, 0);
        }
    }
    parts.push(&jobs[start..]);
    let do_part = |part: &[Job]| part.iter().try_for_each(&work);
    let Some((own, others)) = parts.split_first() else { return Ok(()) };
    thread::scope(|scope| {
        let helpers: Vec<_> = others
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| (*part, thread::Builder::new().spawn_scoped(scope, || do_part(part))))
            .collect();
        let mut result = do_part(own);
        for (part, helper) in helpers {
            // Where no thread can be had, the caller does that part too.
            let outcome = match helper {
                Ok(thread) => match thread.join() {
                    Ok(outcome) => outcome,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                Err(_) => do_part(part),
            };
            result = result.and(outcome);
        }
        result
    })
}
