//! Packets: the header that each begins with (virtio 1.2, 5.10.6).

/// Size of a header, bytes.
pub const SIZE: usize = 44;

/// The guest's address. Each machine has an address space of its own, so all have the same.
pub const GUEST_CID: u64 = 3;
/// The host's address.
pub const HOST_CID: u64 = 2;

/// Type of a stream socket (5.10.6); the other one, seqpacket, is not offered.
pub const STREAM: u16 = 1;

/// Operations (5.10.6).
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts one.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends one.
    pub const RST: u16 = 3;
    /// Will not send, or not receive, any more.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const RW: u16 = 5;
    /// Tells how much room there is.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks how much room there is.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`] (5.10.6.6).
pub mod shutdown {
    /// The sender of the packet receives no more.
    pub const RECEIVE: u32 = 1;
    /// The sender of the packet sends no more.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// What a packet begins with; all fields are little-endian in memory, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    /// Type of the socket.
    pub kind: u16,
    /// Operation.
    pub op: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// Size of the sender's buffer for this connection, bytes.
    pub buf_alloc: u32,
    /// Bytes that have ever left that buffer, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet of a stream from the host to the guest.
    pub fn to_guest(ports: Ports, op: u16) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: GUEST_CID,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            op,
            ..Self::default()
        }
    }

    /// The refusal of this packet, wherever it was addressed.
    pub fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }

    /// Reads it from memory's layout.
    pub fn decode(bytes: &[u8; SIZE]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// Writes it in memory's layout.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..][..field.len()].copy_from_slice(field);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| bytes[at + byte])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_is_read_as_it_was_written(low in any::<[u8; 32]>(), high in any::<[u8; 12]>()) {
            let mut bytes = [0; SIZE];
            bytes[..32].copy_from_slice(&low);
            bytes[32..].copy_from_slice(&high);
            prop_assert_eq!(Header::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn a_header_lies_in_memory_as_the_specification_has_it() {
        let mut header = Header::to_guest(Ports { host: 0x1122_3344, guest: 5 }, op::RW);
        header.len = 7;
        header.fwd_cnt = 9;
        let bytes = header.encode();
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..28], [0x44, 0x33, 0x22, 0x11, 5, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(bytes[40..], [9, 0, 0, 0]);
    }
}
