//! The images' snapshots: each boots once in each shape, and is then cloned.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tine_images::Store;

use super::WORKLOAD;
use crate::engine::{Engine, Held};
use crate::problem::Problem;
use crate::template::{Shape, TemplateError};

/// Most shapes that are kept. Each holds a descriptor and some memory, and clients choose
/// the shapes; the one asked for longest ago goes. Its clones keep what they share.
const KEPT: usize = 32;

/// What was asked for: an image in a shape.
type Wish = (String, Shape);

/// A template's place: empty until the image has booted in that shape.
type Place = Arc<Mutex<Option<Held>>>;

/// The templates.
#[derive(Debug, Default)]
pub(super) struct Templates(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Each with the number of the request that asked for it last.
    by_wish: HashMap<Wish, (u64, Place)>,
    requests: u64,
}

impl Places {
    /// The place for `wish`, and what had to go for it.
    fn place(&mut self, wish: Wish) -> (Place, Option<Place>) {
        self.requests += 1;
        let mut gone = None;
        if !self.by_wish.contains_key(&wish) && self.by_wish.len() >= KEPT {
            let oldest = self.by_wish.iter().min_by_key(|(_, (asked, _))| *asked);
            let oldest = oldest.map(|(wish, _)| wish.clone());
            gone = oldest.and_then(|wish| self.by_wish.remove(&wish)).map(|(_, place)| place);
        }
        let (asked, place) = self.by_wish.entry(wish).or_default();
        *asked = self.requests;
        (Arc::clone(place), gone)
    }

    /// Gives up `place` if it still is the one for `wish`.
    fn forget(&mut self, wish: &Wish, place: &Place) {
        if self.by_wish.get(wish).is_some_and(|(_, own)| Arc::ptr_eq(own, place)) {
            self.by_wish.remove(wish);
        }
    }
}

impl Templates {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot of `image` in `shape`, if it is there already.
    pub(super) fn there(&self, image: &str, shape: Shape) -> Option<Held> {
        let places = self.places();
        let (_, place) = places.by_wish.get(&(image.to_owned(), shape))?;
        // Whoever boots it holds the place.
        let template = place.try_lock().ok()?;
        template.clone()
    }

    /// The snapshot of `image`, in `store` unless it is the built-in one, in `shape`; it boots
    /// for the first who asks, and the others wait.
    pub(super) fn get(
        &self,
        engine: &Engine,
        store: Option<&Path>,
        image: &str,
        shape: Shape,
    ) -> Result<Held, Problem> {
        let wish = (image.to_owned(), shape);
        let (place, gone) = self.places().place(wish.clone());
        // Its memory goes when nobody else is kept waiting for that.
        drop(gone);
        let mut template = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*template {
            return Ok(snapshot.clone());
        }
        let begun = Instant::now();
        let made = match image {
            WORKLOAD => engine.boot_workload(shape).map_err(Problem::from),
            _ => open_or_boot(engine, store, image, shape),
        };
        let snapshot = made.inspect_err(|_| self.places().forget(&wish, &place))?;
        let Shape { vcpus, memory_mib } = shape;
        let us = begun.elapsed().as_micros() as u64;
        tracing::info!(image, vcpus, memory_mib, us, "the image is there");
        *template = Some(snapshot.clone());
        Ok(snapshot)
    }
}

fn open_or_boot(
    engine: &Engine,
    store: Option<&Path>,
    image: &str,
    shape: Shape,
) -> Result<Held, Problem> {
    let store = store.ok_or_else(|| Problem::missing("image", image).at("image"))?;
    let store = Store::open(store).map_err(TemplateError::from)?;
    let (snapshot, boot) = engine.template(&store, image, shape)?;
    if let Some(boot) = boot {
        tracing::info!(image, us = boot.as_micros() as u64, "the image was booted, and kept");
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(vcpus: u8, memory_mib: u64) -> Wish {
        (WORKLOAD.to_owned(), Shape { vcpus, memory_mib })
    }

    #[test]
    fn the_shape_asked_for_longest_ago_goes() {
        let mut places = Places::default();
        let first = places.place(wish(1, 0)).0;
        for mib in 1..KEPT as u64 {
            assert!(places.place(wish(1, mib)).1.is_none());
        }
        assert!(Arc::ptr_eq(&first, &places.place(wish(1, 0)).0), "asked for again");
        assert!(places.place(wish(2, 0)).1.is_some(), "one goes");
        assert_eq!(places.by_wish.len(), KEPT);
        let kept = |wish: &Wish| places.by_wish.contains_key(wish);
        assert!(kept(&wish(1, 0)) && !kept(&wish(1, 1)));
        let other = places.place(wish(2, 0)).0;
        places.forget(&wish(1, 0), &other);
        assert!(places.by_wish.contains_key(&wish(1, 0)), "not another's place");
        places.forget(&wish(1, 0), &first);
        assert!(!places.by_wish.contains_key(&wish(1, 0)));
    }
}
