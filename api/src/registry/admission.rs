//! Whether there is room for more, asked before anything is made.
//!
//! Guest RAM is charged against [`Limits::ram_bytes`]. A sandbox with an eager copy has all of its
//! RAM from the start, and is charged all of it. A copy-on-write clone has what it wrote; it is
//! charged all of it as well, divided by [`Limits::overcommit`], the operator's word on how much
//! of it clones write.

use std::ops::{Add, AddAssign, SubAssign};

use tine_cell::meminfo;

use super::{Contents, Limits, Registry, stopping};
use crate::model::Memory;
use crate::problem::Problem;

/// What sandboxes take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// How many they are.
    pub sandboxes: usize,
    /// What they are charged, bytes.
    pub charge: u64,
}

impl Add for Room {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sandboxes: self.sandboxes + other.sandboxes,
            charge: self.charge.saturating_add(other.charge),
        }
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Room {
    fn sub_assign(&mut self, other: Self) {
        self.sandboxes -= other.sandboxes;
        self.charge -= other.charge;
    }
}

impl Limits {
    /// What a sandbox with `bytes` of RAM is charged.
    fn charge(&self, bytes: u64, memory: Memory) -> u64 {
        match memory {
            Memory::Eager => bytes,
            // Less than everything would be charged more than there can be.
            Memory::Cow => (bytes as f64 / self.overcommit.max(1.0)).ceil() as u64,
        }
    }

    /// What `count` sandboxes with `bytes` of RAM each take.
    fn room(&self, count: usize, bytes: u64, memory: Memory) -> Room {
        let charge = self.charge(bytes, memory).saturating_mul(count as u64);
        Room { sandboxes: count, charge }
    }

    /// Whether there is room for `more` beside what is `there`.
    fn admit(&self, there: Room, more: Room) -> Result<(), Problem> {
        let sum = there + more;
        if sum.sandboxes > self.sandboxes {
            return Err(Problem::unavailable(format!(
                "{} more sandboxes would be more than the {} allowed: {} exist; remove some",
                more.sandboxes, self.sandboxes, there.sandboxes
            )));
        }
        if sum.charge > self.ram_bytes {
            let counted = match self.overcommit > 1.0 {
                true => format!(", clones' shared RAM divided by {}", self.overcommit),
                false => String::new(),
            };
            return Err(Problem::unavailable(format!(
                "{} MiB more guest RAM would be more than the {} MiB allowed: {} are in use{counted}",
                more.charge >> 20,
                self.ram_bytes >> 20,
                there.charge >> 20
            )));
        }
        Ok(())
    }
}

/// Room that was promised to sandboxes being made; given back when dropped.
pub(super) struct Promise<'a> {
    registry: &'a Registry,
    room: Room,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.registry.contents().promised -= self.room;
    }
}

impl Registry {
    /// Promises room to `count` sandboxes with `bytes` of RAM each.
    pub(super) fn promise(
        &self,
        count: u32,
        bytes: u64,
        memory: Memory,
    ) -> Result<Promise<'_>, Problem> {
        let room = self.limits.room(count as usize, bytes, memory);
        let mut contents = self.contents();
        if contents.closed {
            return Err(stopping());
        }
        self.limits.admit(self.taken(&contents) + contents.promised, room)?;
        if memory == Memory::Eager {
            // What is copied is there at once, whatever was admitted on the word of a ratio.
            fits(bytes.saturating_mul(u64::from(count)))?;
        }
        contents.promised += room;
        Ok(Promise { registry: self, room })
    }

    /// What the sandboxes take that exist.
    fn taken(&self, contents: &Contents) -> Room {
        let each =
            contents.sandboxes.values().map(|one| self.limits.room(1, one.ram_bytes, one.memory));
        each.fold(Room::default(), Add::add)
    }
}

/// Whether the host has `bytes` of memory now.
fn fits(bytes: u64) -> Result<(), Problem> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|error| Problem::internal(format!("/proc/meminfo can't be read: {error}")))?;
    match meminfo::field(&text, "MemAvailable") {
        Some(available) if bytes > available => Err(Problem::unavailable(format!(
            "an eager copy of {} MiB does not fit into the {} MiB that the host has available",
            bytes >> 20,
            available >> 20
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(overcommit: f64) -> Limits {
        Limits { sandboxes: 10, ram_bytes: 1 << 30, overcommit, ..Limits::for_host(1 << 30) }
    }

    #[test]
    fn without_overcommitment_every_clone_counts_in_full() {
        let limits = limits(1.0);
        for memory in [Memory::Cow, Memory::Eager] {
            let room = limits.room(4, 256 << 20, memory);
            assert_eq!(room, Room { sandboxes: 4, charge: 1 << 30 });
            assert!(limits.admit(Room::default(), room).is_ok());
            let problem = limits.admit(room, limits.room(1, 1 << 20, memory)).unwrap_err();
            assert_eq!(problem.status, 503);
            let detail =
                "1 MiB more guest RAM would be more than the 1024 MiB allowed: 1024 are in use";
            assert_eq!(problem.detail, detail);
        }
    }

    #[test]
    fn overcommitment_is_for_clones_that_share() {
        let limits = limits(4.0);
        assert_eq!(limits.charge(256 << 20, Memory::Cow), 64 << 20);
        assert_eq!(limits.charge(256 << 20, Memory::Eager), 256 << 20);
        let shared = limits.room(8, 512 << 20, Memory::Cow);
        assert!(limits.admit(Room::default(), shared).is_ok(), "4 times the limit");
        let problem = limits.admit(shared, limits.room(1, 1 << 20, Memory::Cow)).unwrap_err();
        assert!(problem.detail.contains("divided by 4"), "{}", problem.detail);
    }

    #[test]
    fn a_large_number_is_no_small_one() {
        for overcommit in [1.0, 0.0, -3.0, f64::NAN, 1e9] {
            let limits = limits(overcommit);
            assert!(limits.charge(1 << 20, Memory::Cow) > 0);
            assert!(limits.charge(1 << 20, Memory::Cow) <= 1 << 20);
            let room = limits.room(usize::MAX >> 1, u64::MAX, Memory::Eager);
            assert!(limits.admit(Room::default(), room).is_err());
        }
        let problem =
            limits(1.0).admit(Room { sandboxes: 9, charge: 0 }, Room { sandboxes: 2, charge: 0 });
        assert!(problem.unwrap_err().detail.contains("10 allowed: 9 exist"));
    }
}
