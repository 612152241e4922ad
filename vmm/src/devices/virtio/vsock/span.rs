//! The guest memory of one chain.

use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, GuestMemory, GuestMemoryMmap, Permissions, VolatileMemoryError, VolatileSlice,
};

use crate::devices::virtio::Chain;

/// Descriptors that are looked at in one chain. A packet of 64 KiB takes at most 47 of Linux:
/// one for the header, and as many as a socket buffer has fragments (17 to 45).
const MOST_PIECES: usize = 128;

/// Guest memory in pieces, in the order of their chain. A driver may cut a packet into as
/// many as it likes (virtio 1.2, 2.7.4), and Linux does since 6.17.
#[derive(Debug, Default)]
pub struct Span<'a> {
    pieces: Vec<VolatileSlice<'a>>,
}

impl<'a> Span<'a> {
    /// What the device may read of `chain`.
    pub fn readable(chain: Chain<'a>, memory: &'a GuestMemoryMmap) -> Result<Self, String> {
        let pieces = chain.readable().map(|piece| (piece.addr(), piece.len()));
        Self::gather(pieces, memory, Permissions::Read)
    }

    /// What the device may write of `chain`.
    pub fn writable(chain: Chain<'a>, memory: &'a GuestMemoryMmap) -> Result<Self, String> {
        let pieces = chain.writable().map(|piece| (piece.addr(), piece.len()));
        Self::gather(pieces, memory, Permissions::Write)
    }

    fn gather(
        descriptors: impl Iterator<Item = (vm_memory::GuestAddress, u32)>,
        memory: &'a GuestMemoryMmap,
        access: Permissions,
    ) -> Result<Self, String> {
        let mut pieces = Vec::new();
        for (count, (address, length)) in descriptors.enumerate() {
            if count == MOST_PIECES {
                return Err(format!("a chain of more than {MOST_PIECES} descriptors"));
            }
            let outside = |error| format!("{length} bytes at {:#x}: {error}", address.0);
            let slices = memory.get_slices(address, length as usize, access).map_err(outside)?;
            for slice in slices {
                let slice: VolatileSlice<'a, BS<'a, ()>> = slice.map_err(outside)?;
                if !slice.is_empty() {
                    pieces.push(slice);
                }
            }
        }
        Ok(Self { pieces })
    }

    /// Its size, bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(VolatileSlice::len).sum()
    }

    /// Its pieces; none is empty.
    pub fn pieces(&self) -> &[VolatileSlice<'a>] {
        &self.pieces
    }

    /// The first `middle` bytes and the others; none when there are fewer.
    pub fn split_at(self, middle: usize) -> Option<(Self, Self)> {
        let (mut front, mut back) = (Self::default(), Self::default());
        let mut wanted = middle;
        for piece in self.pieces {
            let (head, tail) = piece.split_at(wanted.min(piece.len())).ok()?;
            wanted -= head.len();
            front.pieces.extend((!head.is_empty()).then_some(head));
            back.pieces.extend((!tail.is_empty()).then_some(tail));
        }
        (wanted == 0).then_some((front, back))
    }

    /// Copies the first bytes into `bytes`, which must not be longer.
    pub fn read(&self, mut bytes: &mut [u8]) -> Result<(), VolatileMemoryError> {
        for piece in &self.pieces {
            let (now, later) = bytes.split_at_mut(piece.len().min(bytes.len()));
            piece.read_slice(now, 0)?;
            bytes = later;
        }
        debug_assert!(bytes.is_empty());
        Ok(())
    }

    /// Copies `bytes`, which must not be longer, to its beginning.
    pub fn write(&self, mut bytes: &[u8]) -> Result<(), VolatileMemoryError> {
        for piece in &self.pieces {
            let (now, later) = bytes.split_at(piece.len().min(bytes.len()));
            piece.write_slice(now, 0)?;
            bytes = later;
        }
        debug_assert!(bytes.is_empty());
        Ok(())
    }
}
