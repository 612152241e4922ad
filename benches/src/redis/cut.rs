//! Whether what was saved is the data of one instant.
//!
//! One connection made all writes, one after the other, so the server has seen them in their
//! order. The newest write in what was saved tells the instant: every key must hold the last
//! write to it up to that one, and no other.

use std::ops::RangeInclusive;

use super::record::Record;

/// All writes since the server was filled, in their order: the first is number 1.
#[derive(Clone, Debug, Default)]
pub struct Writes(Vec<u32>);

/// Why what was saved is not the data of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Keys that were looked at.
    pub checked: u64,
    /// Keys that are not as they were at that instant.
    pub mismatches: u64,
    /// The first of them, or what else is wrong.
    pub first: String,
}

impl Writes {
    /// A write to `key`; returns its number.
    pub fn add(&mut self, key: u32) -> u64 {
        self.0.push(key);
        self.0.len() as u64
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// How many keys the writes `from` (not counted) to `to` have written.
    pub fn distinct(&self, from: u64, to: u64) -> u64 {
        let mut keys = self.0[from as usize..to as usize].to_vec();
        keys.sort_unstable();
        keys.dedup();
        keys.len() as u64
    }

    /// Checks `saved`, the record of each of the keys in their order (none where it is missing
    /// or damaged), of a fork that happened after a number of writes `between`. Returns after
    /// how many it was.
    pub fn check(
        &self,
        saved: &[Option<Record>],
        between: RangeInclusive<u64>,
    ) -> Result<u64, Torn> {
        let checked = saved.len() as u64;
        let instant = saved.iter().flatten().map(|record| record.write).max().unwrap_or_default();
        if !between.contains(&instant) || instant > self.count() {
            let first = format!(
                "the newest saved write is {instant}, and the fork came between {} and {}",
                between.start(),
                between.end()
            );
            return Err(Torn { checked, mismatches: checked, first });
        }
        let mut expected: Vec<Record> =
            (0..saved.len() as u32).map(|key| Record { key, version: 0, write: 0 }).collect();
        for (index, &key) in self.0[..instant as usize].iter().enumerate() {
            let record = &mut expected[key as usize];
            // The first write of a key has version 0.
            record.version += u32::from(record.write != 0);
            record.write = index as u64 + 1;
        }
        let wrong: Vec<usize> =
            (0..saved.len()).filter(|&key| saved[key] != Some(expected[key])).collect();
        match wrong.first() {
            None => Ok(instant),
            Some(&key) => Err(Torn {
                checked,
                mismatches: wrong.len() as u64,
                first: format!(
                    "key {key} holds {:?}, and held {:?} after write {instant}",
                    saved[key], expected[key]
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four keys, filled and then written: 2, 0, 2, 3.
    fn known() -> Writes {
        let mut writes = Writes::default();
        for key in [0, 1, 2, 3, 2, 0, 2, 3] {
            writes.add(key);
        }
        writes
    }

    fn saved(records: [(u32, u64); 4]) -> Vec<Option<Record>> {
        let records = (0..).zip(records);
        records.map(|(key, (version, write))| Some(Record { key, version, write })).collect()
    }

    #[test]
    fn one_instant_is_found() {
        let writes = known();
        let after_six = saved([(1, 6), (0, 2), (1, 5), (0, 4)]);
        assert_eq!(writes.check(&after_six, 4..=8), Ok(6));
        let at_the_end = saved([(1, 6), (0, 2), (2, 7), (1, 8)]);
        assert_eq!(writes.check(&at_the_end, 8..=8), Ok(8));
        assert_eq!(writes.distinct(4, 8), 3);
    }

    #[test]
    fn two_instants_are_not_one() {
        let writes = known();
        // Write 7 without write 6 before it.
        let torn = saved([(0, 1), (0, 2), (2, 7), (0, 4)]);
        let error = writes.check(&torn, 4..=8).unwrap_err();
        assert_eq!((error.checked, error.mismatches), (4, 1));
        assert!(error.first.starts_with("key 0"), "{}", error.first);
        // A key that is gone, and a version that does not belong to its write.
        let mut gone = saved([(1, 6), (0, 2), (1, 5), (0, 4)]);
        gone[1] = None;
        assert_eq!(writes.check(&gone, 4..=8).unwrap_err().mismatches, 1);
        let version = saved([(2, 6), (0, 2), (1, 5), (0, 4)]);
        assert_eq!(writes.check(&version, 4..=8).unwrap_err().mismatches, 1);
    }

    #[test]
    fn an_instant_outside_of_the_fork_is_none() {
        let writes = known();
        let after_six = saved([(1, 6), (0, 2), (1, 5), (0, 4)]);
        assert!(writes.check(&after_six, 7..=8).is_err());
        assert!(writes.check(&[None, None], 1..=8).is_err());
    }
}
