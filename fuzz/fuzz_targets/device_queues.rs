//! What a guest's memory and its queues of block, entropy and balloon hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tine_vmm::devices::disk::Disk;
use tine_vmm::devices::virtio::balloon::Balloon;
use tine_vmm::devices::virtio::block::Block;
use tine_vmm::devices::virtio::entropy::Entropy;
use tine_vmm::devices::virtio::{Rings, VirtioDevice};
use tine_vmm::memory::{GuestRam, ImageKind, MemoryImage, RamLayout};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory, bytes: the rings of three queues, and as much again.
const MEMORY: usize = 6 * RING as usize;
/// Room for the rings of one queue, bytes.
const RING: u32 = 0x1000;

fn queue(base: u32, size: u16) -> Queue {
    let mut queue = Queue::new(size).expect("a power of two");
    queue.set_desc_table_address(Some(base), None);
    queue.set_avail_ring_address(Some(base + RING / 2), None);
    queue.set_used_ring_address(Some(base + RING / 4 * 3), None);
    queue.set_ready(true);
    queue
}

fuzz_target!(|bytes: &[u8]| {
    let image = MemoryImage::create(MEMORY as u64, ImageKind::Small).expect("an image");
    let ram = GuestRam::boot(image, RamLayout::flat(0, MEMORY as u64)).expect("guest memory");
    let memory = ram.memory();
    let devices: [Box<dyn VirtioDevice>; 3] = [
        Box::new(Block::new(Disk::overlay(None, 1 << 20).expect("a disk"))),
        Box::new(Entropy),
        Box::new(Balloon::new(ram.access())),
    ];
    let front = &bytes[..bytes.len().min(MEMORY)];
    for mut device in devices {
        memory.write_slice(front, GuestAddress(0)).expect("it fits");
        device.activate(device.features());
        let mut queues: Vec<Queue> = (0..3).map(|at| queue(at * RING, 32)).collect();
        for served in 0..device.queue_sizes().len() {
            let mut rings = Rings::new(memory, &mut queues);
            if device.serve(served, &mut rings).is_err() {
                break;
            }
        }
    }
});
