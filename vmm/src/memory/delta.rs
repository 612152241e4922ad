//! The pages by which a machine that ran on differs from the image below it.
//!
//! They lie one after the other in a sealed memfd. A clone maps long runs of them, and
//! shares them with its siblings; short ones, which would each cost a mapping, are
//! copied in.

use std::fs::File;

use super::copy;
use super::image::{memory_file, seal};
use super::mapping::{Mapping, POPULATE_WRITE, Reserve};
use super::{ImageKind, MemoryError, PAGE_SIZE, Run, Runs};

/// A run is mapped rather than copied from this length on: a mapping costs about as much
/// as copying a few pages, and each counts against `vm.max_map_count`.
const SHARED_PAGES: u64 = 16;
/// Most runs of one delta that are mapped; with a thousand clones, far below the limit of
/// 65,530 mappings would be too few, so long runs beyond this are copied too.
const SHARED_RUNS: usize = 256;

/// Pages over an image.
#[derive(Debug)]
pub struct Delta {
    file: File,
    runs: Runs,
    /// The same pages, in order, mapped for reading.
    view: Mapping,
    /// What the image below is made of.
    below: ImageKind,
}

/// Room for a delta, made and populated before the machine is stopped.
pub struct DeltaBuffer {
    file: File,
    mapping: Mapping,
    below: ImageKind,
}

impl DeltaBuffer {
    /// Room for `pages` over an image made of `below`, at least one, ready to be written.
    pub fn new(pages: u64, below: ImageKind) -> Result<Self, MemoryError> {
        let bytes = pages.max(1) * PAGE_SIZE as u64;
        let file = memory_file("tine-delta", bytes, 0)?;
        let mapping = Mapping::shared(&file, bytes as usize)?;
        mapping.advise(0, bytes as usize, POPULATE_WRITE)?;
        Ok(Self { file, mapping, below })
    }

    /// Copies the pages `runs` of `ram` behind each other. Grows when there is too little
    /// room.
    pub fn fill(&mut self, ram: &Mapping, runs: &Runs) -> Result<(), MemoryError> {
        let bytes = runs.pages().max(1) * PAGE_SIZE as u64;
        if bytes > self.mapping.bytes() as u64 {
            self.file.set_len(bytes).map_err(|source| MemoryError::File {
                operation: "ftruncate",
                bytes,
                source,
            })?;
            self.mapping = Mapping::shared(&self.file, bytes as usize)?;
        }
        copy::pack(ram, &self.mapping, runs);
        Ok(())
    }

    /// The delta of `runs`, which must be the pages filled, in order.
    pub fn finish(self, runs: Runs) -> Result<Delta, MemoryError> {
        let Self { file, mapping, below } = self;
        drop(mapping);
        let bytes = runs.pages().max(1) * PAGE_SIZE as u64;
        file.set_len(bytes).map_err(|source| MemoryError::File {
            operation: "ftruncate",
            bytes,
            source,
        })?;
        seal(&file, bytes)?;
        let view = Mapping::read_only(&file, 0, bytes as usize)?;
        Ok(Delta { file, runs, view, below })
    }

    /// The delta of the pages `dirty`, which must be those filled, and of the pages of
    /// `below` that are not among them: one layer made of two.
    pub fn finish_over(self, dirty: &Runs, below: &Delta) -> Result<Delta, MemoryError> {
        let kept = below.runs.minus(dirty);
        let mut parts = Vec::with_capacity(dirty.len() + kept.len());
        let mut at = 0;
        for run in dirty.iter() {
            parts.push((&self.mapping, at, run));
            at += run.pages;
        }
        let mut layers = below.parts().peekable();
        for run in kept.iter() {
            while layers.next_if(|(_, layer, _)| layer.end() <= run.first).is_some() {}
            if let Some((at, layer, _)) = layers.peek() {
                parts.push((&below.view, at + (run.first - layer.first), run));
            }
        }
        parts.sort_unstable_by_key(|(_, _, run)| run.first);
        let runs: Runs = parts.iter().map(|(_, _, run)| *run).collect();
        let merged = Self::new(runs.pages(), below.below)?;
        let mut place = 0;
        for (source, from, run) in parts {
            copy::page_run(source, from, &merged.mapping, place, run.pages);
            place += run.pages;
        }
        merged.finish(runs)
    }
}

impl Delta {
    /// The delta that another process holds as `file`: the pages `runs` of an image of
    /// `image_bytes`, made of `below`, one after the other.
    pub(super) fn from_file(
        file: File,
        runs: Runs,
        image_bytes: usize,
        below: ImageKind,
    ) -> Result<Self, MemoryError> {
        let bytes = runs.pages().max(1) * PAGE_SIZE as u64;
        let there = file.metadata().map_err(|source| MemoryError::File {
            operation: "fstat",
            bytes,
            source,
        })?;
        if there.len() != bytes || runs.end() > (image_bytes / PAGE_SIZE) as u64 {
            return Err(MemoryError::Size { bytes: there.len(), unit: PAGE_SIZE });
        }
        let view = Mapping::read_only(&file, 0, bytes as usize)?;
        Ok(Self { file, runs, view, below })
    }

    /// The file that holds the pages.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Which pages it holds.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.runs.pages() as usize * PAGE_SIZE
    }

    /// Each run with the page of the delta's file where it begins, and whether clones map it.
    fn parts(&self) -> impl Iterator<Item = (u64, Run, bool)> + '_ {
        // Small pages can't be mapped in the middle of reserved huge ones.
        let sharable = self.below != ImageKind::HugeTlb;
        let mut at = 0;
        let mut shared = 0;
        self.runs.iter().map(move |run| {
            let is_shared = sharable && run.pages >= SHARED_PAGES && shared < SHARED_RUNS;
            shared += usize::from(is_shared);
            let part = (at, run, is_shared);
            at += run.pages;
            part
        })
    }

    /// Maps the long runs over `clone`.
    pub(super) fn lay_shared(&self, clone: &Mapping) -> Result<(), MemoryError> {
        for (at, run, _) in self.parts().filter(|part| part.2) {
            let place = run.first as usize * PAGE_SIZE;
            let bytes = run.pages as usize * PAGE_SIZE;
            clone.overlay(place, bytes, &self.file, at * PAGE_SIZE as u64, Reserve::Nothing)?;
        }
        Ok(())
    }

    /// Copies the short runs into `clone`, which no guest uses.
    pub(super) fn lay_copies(&self, clone: &Mapping) -> Result<(), MemoryError> {
        let parts: Vec<(u64, Run)> =
            self.parts().filter(|part| !part.2).map(|(at, run, _)| (at, run)).collect();
        copy::unpack(&self.view, clone, &parts, self.below)
    }

    /// Copies everything into `target`, over whatever is there.
    pub(super) fn lay_all(&self, target: &Mapping) {
        for (at, run, _) in self.parts() {
            copy::page_run(&self.view, at, target, run.first, run.pages);
        }
    }
}
