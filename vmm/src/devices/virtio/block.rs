//! A disk (virtio 1.2, 5.2), served on the device thread: files are in the page cache or as
//! good, and a request is bounded.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use virtio_queue::{Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::{Broken, Chain, DeviceId, DeviceState, Rings, VirtioDevice};
use crate::devices::disk::{BLOCK_BYTES, Disk, DiskError, SECTOR_BYTES};

/// The one queue.
const REQUESTS: usize = 0;
const QUEUE_SIZE: u16 = 256;

/// Feature bits (5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Kinds of requests (5.2.6).
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// What a request came to (5.2.6).
mod status {
    pub const OK: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const UNSUPPORTED: u8 = 2;
}

/// Most data of one request, bytes: Linux sends 1.25 MiB at most.
const MAX_REQUEST: usize = 8 << 20;
/// Most data segments of a request, without header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most bytes of one discard or clear.
const MAX_CLEAR: u64 = 64 << 20;
/// Size of a segment of a discard: first sector, number of sectors, flags.
const SEGMENT_BYTES: usize = 16;

/// What is saved of the device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockState {
    disk: Disk,
}

impl BlockState {
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    /// Holds the data of a request between guest and file.
    buffer: Vec<u8>,
}

impl Block {
    /// A device for `disk`.
    pub fn new(disk: Disk) -> Self {
        Self { disk, buffer: Vec::new() }
    }

    /// A device in a saved state.
    pub fn restored(state: &BlockState) -> Self {
        Self::new(state.disk.fork())
    }

    /// Serves the request in `chain`. Returns how many bytes were written to it.
    fn serve_one(&mut self, chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<u32, Broken> {
        let broken = |what: &str| Broken::new(REQUESTS, what);
        let mut reader = chain.clone().reader(memory).map_err(|_| broken("no readable chain"))?;
        let mut writer = chain.writer(memory).map_err(|_| broken("no writable chain"))?;
        let mut header = [0; 16];
        reader.read_exact(&mut header).map_err(|_| broken("a request without a header"))?;
        let room = writer.available_bytes().checked_sub(1);
        let room = room.ok_or_else(|| broken("a request without room for its status"))?;
        let mut end = writer.split_at(room).map_err(|_| broken("no place for the status"))?;
        let (kind, sector) = request(&header);
        let done = match sector.checked_mul(SECTOR_BYTES) {
            Some(at) => self.perform(kind, at, &mut reader, &mut writer, room),
            None => Err(Refusal::Invalid),
        };
        let status = match done {
            Ok(()) => status::OK,
            Err(Refusal::Unsupported) => status::UNSUPPORTED,
            Err(refusal) => {
                tracing::debug!(?refusal, kind, sector, "a disk request failed");
                status::ERROR
            }
        };
        end.write_all(&[status]).map_err(|_| broken("the status can't be written"))?;
        // The status is the last byte: all before it counts as written.
        Ok(u32::try_from(room + 1).unwrap_or(u32::MAX))
    }

    fn perform(
        &mut self,
        kind: u32,
        at: u64,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
        room: usize,
    ) -> Result<(), Refusal> {
        match kind {
            kind::IN => {
                self.sectors(room)?;
                self.disk.read(at, &mut self.buffer)?;
                writer.write_all(&self.buffer)?;
            }
            kind::OUT => {
                self.sectors(reader.available_bytes())?;
                reader.read_exact(&mut self.buffer)?;
                self.disk.write(at, &self.buffer)?;
            }
            // What was written lies in memory, as safe as the guest's own.
            kind::FLUSH => {}
            kind::GET_ID => {
                let serial = self.disk.serial();
                writer.write_all(&serial[..serial.len().min(room)])?;
            }
            kind::DISCARD | kind::WRITE_ZEROES if !self.disk.is_read_only() => {
                let mut segment = [0; SEGMENT_BYTES];
                if reader.available_bytes() > SEGMENT_BYTES {
                    return Err(Refusal::Invalid);
                }
                reader.read_exact(&mut segment)?;
                let (at, bytes) = cleared(&segment).ok_or(Refusal::Invalid)?;
                self.disk.zero(at, bytes)?;
            }
            _ => return Err(Refusal::Unsupported),
        }
        Ok(())
    }

    /// Makes the buffer as large as a request of `bytes`, if there may be such.
    fn sectors(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > MAX_REQUEST || !bytes.is_multiple_of(SECTOR_BYTES as usize) {
            return Err(Refusal::Invalid);
        }
        self.buffer.resize(bytes, 0);
        Ok(())
    }
}

/// Kind and sector in a request's header: the kind, a reserved word, the sector.
fn request(header: &[u8; 16]) -> (u32, u64) {
    let [kind, sector] = words(header);
    (kind as u32, sector)
}

/// First byte and number of bytes in a segment of a discard: first sector, number of sectors, flags.
fn cleared(segment: &[u8; SEGMENT_BYTES]) -> Option<(u64, u64)> {
    let [sector, sectors] = words(segment);
    let bytes = u64::from(sectors as u32) * SECTOR_BYTES;
    Some((sector.checked_mul(SECTOR_BYTES)?, bytes)).filter(|_| bytes <= MAX_CLEAR)
}

fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(*bytes);
    [number as u64, (number >> 64) as u64]
}

/// Why a request is not served.
#[derive(Debug)]
enum Refusal {
    Unsupported,
    Invalid,
    Disk(#[expect(dead_code, reason = "told by Debug")] DiskError),
    Memory(#[expect(dead_code, reason = "told by Debug")] io::Error),
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn features(&self) -> u64 {
        let writable = match self.disk.is_read_only() {
            true => feature::READ_ONLY,
            false => feature::DISCARD | feature::WRITE_ZEROES,
        };
        feature::SEG_MAX | feature::BLOCK_SIZE | feature::FLUSH | writable
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config` (5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, value: u32| {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        let sectors = self.disk.bytes() / SECTOR_BYTES;
        put(0, sectors as u32);
        put(4, (sectors >> 32) as u32);
        put(12, MAX_SEGMENTS);
        put(20, SECTOR_BYTES as u32);
        // Discards and clears: most sectors, most segments, alignment.
        let most = (MAX_CLEAR / SECTOR_BYTES) as u32;
        put(36, most);
        put(40, 1);
        put(44, BLOCK_BYTES as u32 / SECTOR_BYTES as u32);
        put(48, most);
        put(52, 1);
        config
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, _: usize, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while let Some(chain) = rings.pop(REQUESTS)? {
            let head = chain.head_index();
            let written = self.serve_one(chain, rings.memory())?;
            rings.push(REQUESTS, head, written)?;
        }
        Ok(())
    }

    fn state(&self) -> DeviceState {
        DeviceState::Block(BlockState { disk: self.disk.fork() })
    }
}
