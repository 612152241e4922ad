//! The queues of one device, and the guest memory that they lie in.

use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

/// Buffers that the driver has put into a queue in one piece.
pub type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// The driver broke the rules: the device stands still until the driver resets it.
#[derive(Debug, Error)]
#[error("the driver broke queue {queue}: {reason}")]
pub struct Broken {
    /// The queue.
    pub queue: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Broken {
    /// What is wrong with `queue`.
    pub fn new(queue: usize, reason: impl std::fmt::Display) -> Self {
        Self { queue, reason: reason.to_string() }
    }
}

/// The queues of one device while it serves.
pub struct Rings<'a> {
    memory: &'a GuestMemoryMmap,
    queues: &'a mut [Queue],
    used: bool,
    left: usize,
    unfinished: Vec<usize>,
}

/// Chains that a device serves before others have their turn, and the machine may be
/// parked: a driver that fills a queue as fast as it is emptied must not hold it forever.
const TURN: usize = 256;

impl<'a> Rings<'a> {
    /// One turn on `queues` in `memory`.
    pub fn new(memory: &'a GuestMemoryMmap, queues: &'a mut [Queue]) -> Self {
        Self { memory, queues, used: false, left: TURN, unfinished: Vec::new() }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &'a GuestMemoryMmap {
        self.memory
    }

    /// The next chain of `queue`; none when it is empty, not set up, or the turn is over.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain<'a>>, Broken> {
        let ring = &mut self.queues[queue];
        if !ring.ready() {
            return Ok(None);
        }
        if self.left == 0 {
            if !self.unfinished.contains(&queue) {
                self.unfinished.push(queue);
            }
            return Ok(None);
        }
        self.left -= 1;
        let broken = |error: virtio_queue::Error| Broken::new(queue, error);
        let chain = ring.iter(self.memory).map_err(broken)?.next();
        if chain.is_none() {
            // The driver may stop to notify only what it knows is being looked at.
            let more = ring.enable_notification(self.memory).map_err(broken)?;
            if more {
                return self.pop(queue);
            }
        }
        Ok(chain)
    }

    /// Puts the chain taken last from `queue` back: it is popped again.
    pub fn put_back(&mut self, queue: usize) {
        self.queues[queue].go_to_previous_position();
    }

    /// How many chains the driver has ever put into `queue`, modulo 2^16. It will notify of
    /// the next one, whether those before are popped or not.
    pub fn added(&mut self, queue: usize) -> Result<u16, Broken> {
        let ring = &mut self.queues[queue];
        let broken = |error: virtio_queue::Error| Broken::new(queue, error);
        let popped = ring.next_avail();
        let added = ring.avail_idx(self.memory, Ordering::Acquire).map_err(broken)?.0;
        // The driver is asked to notify of what comes after the position of the device.
        ring.set_next_avail(added);
        let more = ring.enable_notification(self.memory);
        ring.set_next_avail(popped);
        if more.map_err(broken)? {
            return Ok(ring.avail_idx(self.memory, Ordering::Acquire).map_err(broken)?.0);
        }
        Ok(added)
    }

    /// Gives the chain that begins at `head` back to the driver, with `written` bytes in it.
    pub fn push(&mut self, queue: usize, head: u16, written: u32) -> Result<(), Broken> {
        let ring = &mut self.queues[queue];
        let broken = |error: virtio_queue::Error| Broken::new(queue, error);
        ring.add_used(self.memory, head, written).map_err(broken)?;
        self.used |= ring.needs_notification(self.memory).map_err(broken)?;
        Ok(())
    }

    /// Whether the driver is to be interrupted for what was given back.
    pub fn interrupts(&self) -> bool {
        self.used
    }

    /// The queues in which something was left when the turn was over.
    pub fn unfinished(self) -> Vec<usize> {
        self.unfinished
    }
}
