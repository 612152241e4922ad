//! Flow control of one connection: neither side sends what the other has no room for
//! (virtio 1.2, 5.10.6.3).

use std::num::Wrapping;

use super::packet::Header;

/// What the device holds at most of what a guest sent on one connection, bytes.
pub const BUFFER: u32 = 256 << 10;

/// Counts of bytes, all modulo 2^32 as the specification has them.
#[derive(Debug, Default)]
pub struct Credit {
    sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_buffer: u32,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
}

impl Credit {
    /// The guest tells of its buffer, as each of its packets does.
    pub fn hear(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes that the guest has room for. None when it lies about what it forwarded.
    pub fn room(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// `bytes` were sent to the guest.
    pub fn send(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// The guest sent `bytes`. False, and not counted, when there is no room for them.
    pub fn receive(&mut self, bytes: u32) -> bool {
        let fits = bytes <= BUFFER - self.held();
        if fits {
            self.received += bytes;
        }
        fits
    }

    /// Bytes received that are not yet forwarded; never more than [`BUFFER`].
    pub fn held(&self) -> u32 {
        (self.received - self.forwarded).0
    }

    /// `bytes` of those held went on to the host.
    pub fn forward(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.held());
        self.forwarded += bytes;
    }

    /// Tells the guest, in `header`, of the room there is.
    pub fn tell(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.forwarded.0;
        self.told = self.forwarded;
    }

    /// Whether the guest thinks that half of the buffer is full, and it isn't so.
    pub fn stale(&self) -> bool {
        self.told != self.forwarded && (self.received - self.told).0 >= BUFFER / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        GuestSends(u32),
        HostTakes(u32),
        Tell,
        HostSends(u32),
        GuestTakes(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2 * BUFFER).prop_map(Step::GuestSends),
            (0..BUFFER).prop_map(Step::HostTakes),
            Just(Step::Tell),
            (0..100_000_u32).prop_map(Step::HostSends),
            (0..100_000_u32).prop_map(Step::GuestTakes),
        ]
    }

    proptest! {
        /// Against a peer that keeps its own account, in numbers that do not wrap.
        #[test]
        fn no_side_has_more_than_its_buffer_in_flight(
            steps in prop::collection::vec(step(), 1..200),
            start in any::<u32>(),
        ) {
            const GUEST_BUFFER: u32 = 70_000;
            let wrap = Wrapping(start);
            let mut credit = Credit {
                sent: wrap, guest_forwarded: wrap, guest_buffer: GUEST_BUFFER,
                received: wrap, forwarded: wrap, told: wrap,
            };
            let (mut sent, mut taken, mut received, mut forwarded) = (0_u64, 0_u64, 0_u64, 0_u64);
            let mut seen = 0_u64;
            for step in steps {
                match step {
                    Step::GuestSends(bytes) => {
                        let fits = received + u64::from(bytes) - forwarded <= u64::from(BUFFER);
                        prop_assert_eq!(credit.receive(bytes), fits);
                        received += if fits { u64::from(bytes) } else { 0 };
                    }
                    Step::HostTakes(bytes) => {
                        let bytes = bytes.min(credit.held());
                        credit.forward(bytes);
                        forwarded += u64::from(bytes);
                    }
                    Step::Tell => {
                        let mut header = Header::default();
                        credit.tell(&mut header);
                        seen = forwarded;
                        prop_assert_eq!(Wrapping(header.fwd_cnt) - wrap, Wrapping(seen as u32));
                        prop_assert!(!credit.stale());
                    }
                    Step::HostSends(bytes) => {
                        let bytes = bytes.min(credit.room());
                        credit.send(bytes);
                        sent += u64::from(bytes);
                    }
                    Step::GuestTakes(bytes) => {
                        taken += u64::from(bytes).min(sent - taken);
                        let fwd_cnt = (wrap + Wrapping(taken as u32)).0;
                        let buf_alloc = GUEST_BUFFER;
                        credit.hear(&Header { buf_alloc, fwd_cnt, ..Header::default() });
                        prop_assert_eq!(u64::from(credit.room()), u64::from(GUEST_BUFFER) - (sent - taken));
                    }
                }
                prop_assert!(sent - taken <= u64::from(GUEST_BUFFER));
                prop_assert!(received - forwarded <= u64::from(BUFFER));
                prop_assert_eq!(u64::from(credit.held()), received - forwarded);
                // A guest that may send nothing any more, though it could, is told so.
                if received - seen == u64::from(BUFFER) && seen != forwarded {
                    prop_assert!(credit.stale());
                }
            }
        }

        #[test]
        fn a_guest_that_lies_gets_nothing_beyond_its_buffer(
            buf_alloc in any::<u32>(), fwd_cnt in any::<u32>(), sent in any::<u32>(),
        ) {
            let mut credit = Credit::default();
            credit.send(sent);
            credit.hear(&Header { buf_alloc, fwd_cnt, ..Header::default() });
            prop_assert!(credit.room() <= buf_alloc);
        }
    }
}
