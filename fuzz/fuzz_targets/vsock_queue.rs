//! What a guest's memory and its queues of vsock hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tine_vmm::devices::virtio::vsock::Vsock;
use tine_vmm::devices::virtio::{Rings, VirtioDevice};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest memory, bytes: the rings of the three queues, and as much again.
const MEMORY: usize = 6 * RING as usize;
/// Room for the rings of one queue, bytes: a descriptor table, and what follows it.
const RING: u32 = 0x1000;

fn queue(base: u32, size: u16) -> Queue {
    let mut queue = Queue::new(size).expect("a power of two");
    queue.set_desc_table_address(Some(base), None);
    queue.set_avail_ring_address(Some(base + RING / 2), None);
    queue.set_used_ring_address(Some(base + RING / 4 * 3), None);
    queue.set_event_idx(true);
    queue.set_ready(true);
    queue
}

fuzz_target!(|bytes: &[u8]| {
    let (mut device, host) = Vsock::new(None).expect("descriptors for a device");
    let streams = host.listen(7);
    let call = host.connect(7);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("guest memory");
    let front = &bytes[..bytes.len().min(MEMORY)];
    memory.write_slice(front, GuestAddress(0)).expect("it fits");
    device.activate(device.features());
    let mut queues: Vec<Queue> = (0..3).map(|at| queue(at * RING, 32)).collect();
    for served in [1, 0, 2, 1] {
        let mut rings = Rings::new(&memory, &mut queues);
        if device.serve(served, &mut rings).and_then(|()| device.serve_host(&mut rings)).is_err() {
            break;
        }
    }
    let mut rings = Rings::new(&memory, &mut queues);
    let _ = device.resume(&mut rings);
    drop((streams, call));
});
