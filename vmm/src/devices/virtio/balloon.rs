//! Memory that the guest gives back (virtio 1.2, 5.5): pages that it frees are reported, and
//! leave the host; a balloon takes more on request.

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::{Broken, Chain, DeviceId, DeviceState, Rings, VirtioDevice};
use crate::memory::ram::RamAccess;

/// Queues (5.5.2). Linux leaves out those whose feature was not taken, so reporting comes third.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;

/// Feature bits (5.5.3): the balloon gives way before the guest kills, free pages are reported.
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;

/// Size of the pages that a balloon counts in, whatever the guest's are, bytes.
const PAGE_BYTES: u64 = 4096;
/// Most page numbers in one buffer (Linux sends 256).
const MAX_NUMBERS: usize = 1024;

/// What is saved of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    target_pages: u32,
    actual_pages: u32,
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    memory: RamAccess,
    state: BalloonState,
}

impl Balloon {
    /// A device that gives pages of `memory` back.
    pub fn new(memory: RamAccess) -> Self {
        Self::restored(BalloonState::default(), memory)
    }

    /// A device in a saved state.
    pub fn restored(state: BalloonState, memory: RamAccess) -> Self {
        Self { memory, state }
    }

    /// The pages whose numbers are in a buffer of the inflate queue.
    fn inflate(&self, chain: Chain<'_>) {
        for descriptor in chain.clone().readable().take(MAX_NUMBERS) {
            let count = (descriptor.len() as usize / 4).min(MAX_NUMBERS);
            let mut numbers = vec![0; count * 4];
            if chain.memory().read_slice(&mut numbers, descriptor.addr()).is_err() {
                return;
            }
            for number in numbers.as_chunks::<4>().0 {
                self.release(u64::from(u32::from_le_bytes(*number)) * PAGE_BYTES, PAGE_BYTES);
            }
        }
    }

    /// Gives pages back. A driver that names what is no RAM of its own gives nothing.
    fn release(&self, address: u64, bytes: u64) {
        if let Err(error) = self.memory.release(address, bytes) {
            tracing::debug!(%error, address, bytes, "memory was not given back");
        }
    }
}

impl VirtioDevice for Balloon {
    fn id(&self) -> DeviceId {
        DeviceId::Balloon
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 32]
    }

    /// `struct virtio_balloon_config` (5.5.4).
    fn config(&self) -> Vec<u8> {
        let mut config = self.state.target_pages.to_le_bytes().to_vec();
        config.extend(self.state.actual_pages.to_le_bytes());
        config
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // The driver says how large its balloon is.
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            self.state.actual_pages = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {
        self.state.actual_pages = 0;
    }

    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while let Some(chain) = rings.pop(queue)? {
            let head = chain.head_index();
            match queue {
                INFLATE => self.inflate(chain),
                // The guest takes pages back by using them.
                DEFLATE => {}
                REPORTING => chain.for_each(|piece| {
                    let GuestAddress(address) = piece.addr();
                    self.release(address, u64::from(piece.len()));
                }),
                _ => {}
            }
            rings.push(queue, head, 0)?;
        }
        Ok(())
    }

    fn state(&self) -> DeviceState {
        DeviceState::Balloon(self.state)
    }
}
