//! What is in a key: enough to know which write put it there, and that all of it is there.

use tine_abi::command::mix;

/// Size of a value, bytes.
pub const VALUE_BYTES: usize = 1024;
const WORDS: usize = VALUE_BYTES / 8;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of its key.
    pub key: u32,
    /// How often the key was written before.
    pub version: u32,
    /// Number of the write among all of them, from 1 on.
    pub write: u64,
}

impl Record {
    /// Its bytes: what it is, and noise that follows from that, so that it can't be compressed
    /// and no part of it can be another record's. The last word is a checksum of the rest.
    pub fn encode(&self) -> [u8; VALUE_BYTES] {
        let mut bytes = [0; VALUE_BYTES];
        let mut noise = mix(self.write ^ mix(u64::from(self.key)));
        let mut sum = 0;
        for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let value = match index {
                0 => u64::from(self.key) | u64::from(self.version) << 32,
                1 => self.write,
                last if last == WORDS - 1 => sum,
                _ => {
                    noise = mix(noise);
                    noise
                }
            };
            sum = mix(sum ^ value);
            *word = value.to_le_bytes();
        }
        bytes
    }

    /// The record in `bytes`; none if they are not all of one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != WORDS || !rest.is_empty() {
            return None;
        }
        let first = u64::from_le_bytes(words[0]);
        let record = Self {
            key: first as u32,
            version: (first >> 32) as u32,
            write: u64::from_le_bytes(words[1]),
        };
        (record.encode() == bytes).then_some(record)
    }
}

/// The name of key `number`, as `redis-benchmark -r` has it.
pub fn key_name(number: u32) -> String {
    format!("key:{number:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_all_there_or_not_at_all() {
        let record = Record { key: 7, version: 3, write: 1 << 40 };
        let mut bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Some(record));
        assert_eq!(Record::decode(&bytes[..1016]), None);
        for place in [0, 9, 500, VALUE_BYTES - 1] {
            bytes[place] ^= 1;
            assert_eq!(Record::decode(&bytes), None, "byte {place}");
            bytes[place] ^= 1;
        }
        // Half of one and half of the next write of the same key.
        let next = Record { version: 4, write: (1 << 40) + 1, ..record }.encode();
        bytes[512..].copy_from_slice(&next[512..]);
        assert_eq!(Record::decode(&bytes), None);
    }
}
