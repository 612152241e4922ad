//! Commands that the host gives a vCPU, and the replies it gets.

use crate::pattern::{Pattern, Selection};

/// Words of an encoded command.
pub const COMMAND_WORDS: usize = 8;
/// Words of an encoded reply.
pub const REPLY_WORDS: usize = 8;

/// What a vCPU can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read one word of each selected page and write it back unchanged.
    Touch,
    /// Write one word, made of seed and page number, into each selected page.
    Dirty,
    /// Read one word of each selected page; the value is their exclusive or.
    Read,
    /// Hash every byte of the selection's range; the value is the hash.
    Checksum,
    /// Compute for `amount` milliseconds.
    Spin,
    /// Mix `seed` `amount` times; the value is the result.
    Compute,
    /// Make `amount` exits by [`PORT_BEAT`](crate::layout::PORT_BEAT), as fast as it can.
    Beat,
    /// Wait for `amount` interrupts of the local APIC's timer, `seed` of its ticks apart.
    Timer,
    /// Read the paravirtual clock: the value is nanoseconds of monotonic time, the
    /// second value nanoseconds of wall-clock time since the epoch.
    Clock,
    /// Print the heartbeat on the console.
    Say,
    /// Write [`renewed_word`] of version `seed` into each selected page, in their order, then of
    /// the next version, and so on until it is cancelled: `amount` pages a second, and none of
    /// them before it is due. With an `amount` of 0: one version, as fast as it can. The value
    /// is how many TSC ticks a page was late at most, the second value the most ticks
    /// from one page to the next.
    Renew,
    /// Look how far [`Op::Renew`] of version `seed` has come: the value is how many of the selected
    /// pages, from the first on, hold it; the second value how many of the others do not hold
    /// the version before.
    Renewed,
}

impl Op {
    const ALL: [Self; 12] = [
        Self::Touch,
        Self::Dirty,
        Self::Read,
        Self::Checksum,
        Self::Spin,
        Self::Compute,
        Self::Beat,
        Self::Timer,
        Self::Clock,
        Self::Say,
        Self::Renew,
        Self::Renewed,
    ];
}

/// One command for one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// What to do.
    pub op: Op,
    /// To which pages of the data region.
    pub selection: Selection,
    /// Seed of what is written or computed.
    pub seed: u64,
    /// How much: milliseconds, rounds, exits, interrupts, or pages a second, as `op` says.
    pub amount: u64,
}

impl Command {
    /// A command on `selection` with `seed` 0 and `amount` 0.
    pub const fn new(op: Op, selection: Selection) -> Self {
        Self { op, selection, seed: 0, amount: 0 }
    }

    /// The same with another seed.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with another amount.
    #[must_use]
    pub const fn amount(mut self, amount: u64) -> Self {
        self.amount = amount;
        self
    }

    /// The words that go into the mailbox.
    pub fn encode(&self) -> [u64; COMMAND_WORDS] {
        let (pattern, argument) = match self.selection.pattern {
            Pattern::Sequential => (0, 0),
            Pattern::Scattered { seed } => (1, seed),
            Pattern::Stride { pages } => (2, pages),
        };
        [
            self.op as u64,
            self.selection.first_page,
            self.selection.region_pages,
            self.selection.pages,
            pattern,
            argument,
            self.seed,
            self.amount,
        ]
    }

    /// The command that `words` encode; none if they encode no command.
    pub fn decode(words: &[u64; COMMAND_WORDS]) -> Option<Self> {
        let [op, first_page, region_pages, pages, pattern, argument, seed, amount] = *words;
        let op = *Op::ALL.get(usize::try_from(op).ok()?)?;
        let pattern = match pattern {
            0 => Pattern::Sequential,
            1 => Pattern::Scattered { seed: argument },
            2 => Pattern::Stride { pages: argument },
            _ => return None,
        };
        let selection = Selection { first_page, region_pages, pages, pattern };
        Some(Self { op, selection, seed, amount })
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Done,
    /// Ended early because the host asked for it.
    Cancelled,
    /// The guest could not make sense of it, or it lies outside the data region.
    Refused,
}

/// What a vCPU answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What became of the command.
    pub status: Status,
    /// The result, as the [`Op`] says.
    pub value: u64,
    /// The second result, where the [`Op`] has one.
    pub value2: u64,
    /// Pages, rounds, exits or interrupts done.
    pub done: u64,
    /// TSC before the work.
    pub tsc_start: u64,
    /// TSC after the work.
    pub tsc_end: u64,
    /// The heartbeat after the work.
    pub heartbeat: u64,
}

impl Reply {
    /// The words that go into the mailbox.
    pub fn encode(&self) -> [u64; REPLY_WORDS] {
        let status = match self.status {
            Status::Done => 0,
            Status::Cancelled => 1,
            Status::Refused => 2,
        };
        [
            status,
            self.value,
            self.value2,
            self.done,
            self.tsc_start,
            self.tsc_end,
            self.heartbeat,
            0,
        ]
    }

    /// The reply that `words` encode; none if they encode no reply.
    pub fn decode(words: &[u64; REPLY_WORDS]) -> Option<Self> {
        let [status, value, value2, done, tsc_start, tsc_end, heartbeat, _] = *words;
        let status = match status {
            0 => Status::Done,
            1 => Status::Cancelled,
            2 => Status::Refused,
            _ => return None,
        };
        Some(Self { status, value, value2, done, tsc_start, tsc_end, heartbeat })
    }

    /// TSC ticks that the work took, as the guest saw them.
    pub const fn ticks(&self) -> u64 {
        self.tsc_end.wrapping_sub(self.tsc_start)
    }
}

/// The word that [`Op::Dirty`] writes into page `page` of the data region, and its
/// place in the page, in words.
pub const fn dirty_word(seed: u64, page: u64) -> (u64, u64) {
    let word = mix(seed ^ mix(page.wrapping_add(1)));
    (word, word >> 55)
}

/// The first word of page `page` of the data region after [`Op::Renew`] of `version`.
pub const fn renewed_word(version: u64, page: u64) -> u64 {
    mix(version ^ mix(!page))
}

/// One round of mixing: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// [`Op::Checksum`] over 64-bit words: four lanes, so that it runs at memory speed.
#[derive(Clone, Copy, Debug)]
pub struct Checksum {
    lanes: [u64; 4],
}

impl Checksum {
    /// The checksum of nothing.
    pub const fn new() -> Self {
        Self { lanes: [1, 2, 3, 4] }
    }

    /// Adds four words.
    #[inline]
    pub fn add(&mut self, words: [u64; 4]) {
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = (lane.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// The value.
    pub fn finish(&self) -> u64 {
        self.lanes.iter().fold(0, |sum, &lane| mix(sum ^ lane))
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;

    fn commands() -> impl Strategy<Value = Command> {
        let pattern = prop_oneof![
            Just(Pattern::Sequential),
            any::<u64>().prop_map(|seed| Pattern::Scattered { seed }),
            any::<u64>().prop_map(|pages| Pattern::Stride { pages }),
        ];
        (0..Op::ALL.len(), any::<[u64; 5]>(), pattern).prop_map(|(op, words, pattern)| Command {
            op: Op::ALL[op],
            selection: Selection {
                first_page: words[0],
                region_pages: words[1],
                pages: words[2],
                pattern,
            },
            seed: words[3],
            amount: words[4],
        })
    }

    proptest! {
        #[test]
        fn commands_survive_the_mailbox(command in commands()) {
            prop_assert_eq!(Command::decode(&command.encode()), Some(command));
        }

        #[test]
        fn any_words_decode_or_are_refused(words in any::<[u64; COMMAND_WORDS]>()) {
            if let Some(command) = Command::decode(&words) {
                prop_assert_eq!(Command::decode(&command.encode()), Some(command));
            }
        }

        #[test]
        fn a_dirty_word_lies_in_its_page(seed: u64, page: u64) {
            prop_assert!(dirty_word(seed, page).1 < 512);
        }
    }

    #[test]
    fn the_checksum_sees_order() {
        let mut a = Checksum::new();
        a.add([1, 2, 3, 4]);
        a.add([5, 6, 7, 8]);
        let mut b = Checksum::new();
        b.add([5, 6, 7, 8]);
        b.add([1, 2, 3, 4]);
        assert_ne!(a.finish(), b.finish());
    }
}
