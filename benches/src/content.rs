//! What the memory of a guest must hold: known beforehand, not read from it.

use tine_abi::command::{Checksum, Command, Op, dirty_word};
use tine_abi::pattern::Selection;
use tine_cell::Cell;

use crate::BenchError;
use crate::cells;

/// Words of a page.
const WORDS: usize = 512;

/// What a guest answers to a checksum over `pages` that were zeros, and were then written with
/// each of `seeds`, in this order.
pub fn checksum(pages: Selection, seeds: &[u64]) -> u64 {
    let mut checksum = Checksum::new();
    for page in pages.iter() {
        let mut words = [0; WORDS];
        for &seed in seeds {
            let (word, place) = dirty_word(seed, page);
            words[place as usize] = word;
        }
        for four in words.chunks_exact(4) {
            checksum.add([four[0], four[1], four[2], four[3]]);
        }
    }
    checksum.finish()
}

/// Whether the guest of `cell` has in `pages` what it must have after it was written with
/// `seeds`.
pub fn is_intact(cell: &Cell, pages: Selection, seeds: &[u64]) -> Result<bool, BenchError> {
    let told = cells::reply(cell, &Command::new(Op::Checksum, pages))?.value;
    Ok(told == checksum(pages, seeds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_sees_seeds_their_order_and_places() {
        let pages = Selection::sequential(0, 100);
        let sum = |seeds: &[u64]| checksum(pages, seeds);
        assert_ne!(sum(&[]), sum(&[1]));
        assert_ne!(sum(&[1]), sum(&[2]));
        assert_ne!(sum(&[1]), sum(&[1, 2]));
        assert_eq!(sum(&[2, 1, 1]), sum(&[2, 1]));
        assert_ne!(checksum(Selection::sequential(1, 100), &[1]), sum(&[1]));
    }
}
