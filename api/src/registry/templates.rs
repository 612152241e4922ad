//! The image's snapshots: it boots once in each shape, and is then cloned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tine_vmm::{KvmHost, Machine, MachineConfig, Snapshot};

use crate::problem::Problem;

/// Most shapes that are kept. Each holds a descriptor and some memory, and clients choose
/// the shapes; the one asked for longest ago goes. Its clones keep what they share.
const KEPT: usize = 32;

/// vCPUs and MiB of RAM.
type Shape = (u8, u64);

/// A template's place: empty until the image has booted in that shape.
type Place = Arc<Mutex<Option<Snapshot>>>;

/// The templates.
#[derive(Debug, Default)]
pub(super) struct Templates(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Each with the number of the request that asked for it last.
    by_shape: HashMap<Shape, (u64, Place)>,
    requests: u64,
}

impl Places {
    /// The place for `shape`, and what had to go for it.
    fn place(&mut self, shape: Shape) -> (Place, Option<Place>) {
        self.requests += 1;
        let mut gone = None;
        if !self.by_shape.contains_key(&shape) && self.by_shape.len() >= KEPT {
            let oldest = self.by_shape.iter().min_by_key(|(_, (asked, _))| *asked);
            let oldest = oldest.map(|(shape, _)| *shape);
            gone = oldest.and_then(|shape| self.by_shape.remove(&shape)).map(|(_, place)| place);
        }
        let (asked, place) = self.by_shape.entry(shape).or_default();
        *asked = self.requests;
        (Arc::clone(place), gone)
    }

    /// Gives up `place` if it still is the one for `shape`.
    fn forget(&mut self, shape: Shape, place: &Place) {
        if self.by_shape.get(&shape).is_some_and(|(_, own)| Arc::ptr_eq(own, place)) {
            self.by_shape.remove(&shape);
        }
    }
}

impl Templates {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot of the image with `vcpus` and `mib` of RAM; it boots for the first who
    /// asks, and the others wait.
    pub(super) fn get(
        &self,
        host: &Arc<KvmHost>,
        vcpus: u8,
        mib: u64,
    ) -> Result<Snapshot, Problem> {
        let shape = (vcpus, mib);
        let (place, gone) = self.places().place(shape);
        // Its memory goes when nobody else is kept waiting for that.
        drop(gone);
        let mut template = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*template {
            return Ok(snapshot.clone());
        }
        let config = MachineConfig { ram_bytes: mib << 20, vcpus, ..MachineConfig::default() };
        let begun = Instant::now();
        let booted = Machine::boot(host, &config, Box::new(std::io::sink()))
            .and_then(|machine| machine.snapshot());
        let (snapshot, _) = booted.inspect_err(|_| self.places().forget(shape, &place))?;
        tracing::info!(vcpus, mib, boot_us = begun.elapsed().as_micros() as u64, "image booted");
        *template = Some(snapshot.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_asked_for_longest_ago_goes() {
        let mut places = Places::default();
        let first = places.place((1, 0)).0;
        for mib in 1..KEPT as u64 {
            assert!(places.place((1, mib)).1.is_none());
        }
        assert!(Arc::ptr_eq(&first, &places.place((1, 0)).0), "asked for again");
        assert!(places.place((2, 0)).1.is_some(), "one goes");
        assert_eq!(places.by_shape.len(), KEPT);
        assert!(places.by_shape.contains_key(&(1, 0)) && !places.by_shape.contains_key(&(1, 1)));
        let other = places.place((2, 0)).0;
        places.forget((1, 0), &other);
        assert!(places.by_shape.contains_key(&(1, 0)), "not another's place");
        places.forget((1, 0), &first);
        assert!(!places.by_shape.contains_key(&(1, 0)));
    }
}
