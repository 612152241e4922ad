//! Block, entropy and balloon behind a driver that may do anything.

use std::io::Write;

use proptest::prelude::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::balloon::Balloon;
use super::block::Block;
use super::entropy::Entropy;
use super::{Broken, Rings, VirtioDevice};
use crate::devices::disk::Disk;
use crate::memory::{GuestRam, ImageKind, MemoryImage, RamLayout};

const RAM: usize = 256 << 10;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const WRITE: u16 = 2;
const NEXT: u16 = 1;
const SIZE: u16 = 16;

fn ram() -> GuestRam {
    let image = MemoryImage::create(RAM as u64, ImageKind::Small).unwrap();
    GuestRam::boot(image, RamLayout::flat(0, RAM as u64)).unwrap()
}

/// The first queue of a device, as a driver has set it up.
fn queue(next: u16) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_desc_table_address(Some(DESCRIPTORS as u32), None);
    queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
    queue.set_used_ring_address(Some(USED as u32), None);
    queue.set_next_avail(next);
    queue.set_ready(true);
    queue
}

/// Gives `device` one chain of buffers: address, length, whether the device writes there.
/// Returns how many bytes it says it wrote.
fn ask(
    device: &mut dyn VirtioDevice,
    memory: &GuestMemoryMmap,
    buffers: &[(u64, u32, bool)],
) -> Result<u32, Broken> {
    for (index, &(address, bytes, writable)) in buffers.iter().enumerate() {
        let last = index + 1 == buffers.len();
        let flags = (u16::from(writable) * WRITE) | (u16::from(!last) * NEXT);
        let next = index as u16 + 1;
        let descriptor = RawDescriptor::from(Descriptor::new(address, bytes, flags, next));
        memory.write_obj(descriptor, GuestAddress(DESCRIPTORS + 16 * index as u64)).unwrap();
    }
    // Flags, index, and the first descriptor of the chain; then an empty used ring.
    memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(AVAILABLE)).unwrap();
    memory.write_slice(&[0; 12], GuestAddress(USED)).unwrap();
    let mut queues = [queue(0)];
    let mut rings = Rings::new(memory, &mut queues);
    device.serve(0, &mut rings)?;
    assert_eq!(memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 1, "it was given back");
    Ok(memory.read_obj(GuestAddress(USED + 8)).unwrap())
}

const HEADER: (u64, u32, bool) = (0x8000, 16, false);
const STATUS: (u64, u32, bool) = (0x8100, 1, true);

/// One request to a disk. Returns its status.
fn request(
    device: &mut Block,
    memory: &GuestMemoryMmap,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, bool)],
) -> u8 {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    memory.write_slice(&header, GuestAddress(HEADER.0)).unwrap();
    memory.write_obj(0xffu8, GuestAddress(STATUS.0)).unwrap();
    let chain: Vec<_> = [&[HEADER], data, &[STATUS]].concat();
    ask(device, memory, &chain).unwrap();
    memory.read_obj(GuestAddress(STATUS.0)).unwrap()
}

#[test]
fn a_disk_reads_writes_and_tells_its_limits() {
    const IN: u32 = 0;
    const OUT: u32 = 1;
    const FLUSH: u32 = 4;
    const GET_ID: u32 = 8;
    const WRITE_ZEROES: u32 = 13;
    let ram = ram();
    let memory = ram.memory();
    let mut device = Block::new(Disk::overlay(None, 1 << 20).unwrap());
    let data: Vec<u8> = (0..1024u32).map(|byte| byte as u8 ^ 0x5a).collect();
    memory.write_slice(&data, GuestAddress(0x9000)).unwrap();
    // Written in two pieces, read in one.
    let pieces = [(0x9000, 512, false), (0x9200, 512, false)];
    assert_eq!(request(&mut device, memory, OUT, 7, &pieces), 0);
    assert_eq!(request(&mut device, memory, IN, 7, &[(0xa000, 1024, true)]), 0);
    let mut back = vec![0; 1024];
    memory.read_slice(&mut back, GuestAddress(0xa000)).unwrap();
    assert_eq!(back, data);
    assert_eq!(request(&mut device, memory, FLUSH, 0, &[]), 0);
    assert_eq!(request(&mut device, memory, GET_ID, 0, &[(0xb000, 20, true)]), 0);
    let mut segment = 7u64.to_le_bytes().to_vec();
    segment.extend(1u32.to_le_bytes());
    segment.extend([0; 4]);
    memory.write_slice(&segment, GuestAddress(0xc000)).unwrap();
    assert_eq!(request(&mut device, memory, WRITE_ZEROES, 0, &[(0xc000, 16, false)]), 0);
    assert_eq!(request(&mut device, memory, IN, 7, &[(0xa000, 1024, true)]), 0);
    memory.read_slice(&mut back, GuestAddress(0xa000)).unwrap();
    assert!(back[..512].iter().all(|byte| *byte == 0) && back[512..] == data[512..]);
    // Past the end, no whole sectors, far past the end, and what nobody knows.
    assert_eq!(request(&mut device, memory, IN, 2047, &[(0xa000, 1024, true)]), 1);
    assert_eq!(request(&mut device, memory, IN, 0, &[(0xa000, 100, true)]), 1);
    assert_eq!(request(&mut device, memory, OUT, u64::MAX, &[(0xa000, 512, false)]), 1);
    assert_eq!(request(&mut device, memory, 99, 0, &[]), 2);
    // Chains without header or status break the device, not the machine.
    assert!(ask(&mut device, memory, &[(0x8000, 8, false), STATUS]).is_err());
    assert!(ask(&mut device, memory, &[HEADER]).is_err());
    assert!(ask(&mut device, memory, &[(1 << 40, 16, false), STATUS]).is_err());
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut base = tempfile::NamedTempFile::new().unwrap();
    base.write_all(&[7; 4096]).unwrap();
    let ram = ram();
    let mut device = Block::new(Disk::read_only(base.path()).unwrap());
    assert_eq!(request(&mut device, ram.memory(), 1, 0, &[(0x9000, 512, false)]), 1);
    assert_eq!(request(&mut device, ram.memory(), 0, 0, &[(0xa000, 512, true)]), 0);
    assert_eq!(std::fs::read(base.path()).unwrap(), [7; 4096]);
}

#[test]
fn random_numbers_differ_and_are_bounded() {
    let ram = ram();
    let memory = ram.memory();
    let read = |at| memory.read_obj::<[u8; 32]>(GuestAddress(at)).unwrap();
    assert_eq!(ask(&mut Entropy, memory, &[(0x9000, 32, true)]).unwrap(), 32);
    let first = read(0x9000);
    assert_eq!(ask(&mut Entropy, memory, &[(0x9000, 32, true)]).unwrap(), 32);
    assert_ne!(read(0x9000), first);
    assert_eq!(ask(&mut Entropy, memory, &[(0x9000, 100_000, true)]).unwrap(), 4096);
}

#[test]
fn an_inflated_balloon_gives_its_pages_back() {
    let ram = ram();
    let memory = ram.memory();
    memory.write_slice(&[7; 8192], GuestAddress(0x2_0000)).unwrap();
    let mut device = Balloon::new(ram.access());
    // Page 0x20, and one that is no RAM.
    memory.write_slice(&0x20u32.to_le_bytes(), GuestAddress(0x9000)).unwrap();
    memory.write_slice(&u32::MAX.to_le_bytes(), GuestAddress(0x9004)).unwrap();
    ask(&mut device, memory, &[(0x9000, 8, false)]).unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x2_0000)).unwrap(), 0);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x2_1000)).unwrap(), 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_ring_is_fatal(
        rings in prop::collection::vec(any::<u8>(), 0x4000),
        chains in prop::collection::vec((0u64..RAM as u64 * 2, 0u32..0x1_0000, 0u16..8, any::<u16>()), 16),
        count in 0u16..40,
        next: u16,
    ) {
        let ram = ram();
        let memory = ram.memory();
        memory.write_slice(&rings, GuestAddress(DESCRIPTORS)).unwrap();
        // Descriptors that are likelier to be followed than random ones.
        for (index, (address, bytes, flags, next)) in chains.into_iter().enumerate() {
            let descriptor = RawDescriptor::from(Descriptor::new(address, bytes, flags, next % 20));
            memory.write_obj(descriptor, GuestAddress(DESCRIPTORS + 16 * index as u64)).unwrap();
        }
        memory.write_obj(next.wrapping_add(count), GuestAddress(AVAILABLE + 2)).unwrap();
        let disk = Disk::overlay(None, 1 << 20).unwrap();
        let devices: [Box<dyn VirtioDevice>; 3] = [
            Box::new(Block::new(disk)),
            Box::new(Entropy),
            Box::new(Balloon::new(ram.access())),
        ];
        for mut device in devices {
            let mut queues = [queue(next), queue(next), queue(next)];
            for number in 0..device.queue_sizes().len() {
                let mut rings = Rings::new(memory, &mut queues);
                // Served or broken: either is an end.
                let _end = device.serve(number, &mut rings);
            }
        }
    }
}
