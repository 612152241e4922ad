//! A disk in a snapshot file: the name of its base, and what was written over it. Nothing of a
//! record is believed when it is read.

use std::path::PathBuf;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::overlay::Overlay;
use super::{BLOCK_BYTES, Base, Disk, DiskError, check_size};

/// Most bytes of written blocks in a snapshot file.
const MAX_WRITTEN: u64 = 48 << 20;

#[derive(Serialize, Deserialize)]
struct Record {
    base: Option<BaseRecord>,
    bytes: u64,
    writable: bool,
    blocks: Vec<Block>,
}

/// The base: another file of the same name is refused.
#[derive(Serialize, Deserialize)]
struct BaseRecord {
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
}

#[derive(Serialize, Deserialize)]
struct Block {
    number: u64,
    #[serde(with = "serde_bytes")]
    data: Vec<u8>,
}

impl Disk {
    fn record(&self) -> Result<Record, DiskError> {
        let mut blocks = Vec::new();
        if let Some(overlay) = &self.overlay {
            let written = overlay.blocks() as u64 * BLOCK_BYTES as u64;
            if written > MAX_WRITTEN {
                return Err(DiskError::TooMuch(written));
            }
            for number in overlay.numbers() {
                let mut data = vec![0; BLOCK_BYTES];
                overlay.read(number, 0, &mut data)?;
                blocks.push(Block { number, data });
            }
        }
        let base = self.base.as_ref().map(|base| BaseRecord {
            path: base.path.clone(),
            bytes: base.bytes,
            modified_ns: base.modified_ns,
        });
        Ok(Record { base, bytes: self.bytes, writable: !self.is_read_only(), blocks })
    }

    fn from_record(record: Record) -> Result<Self, DiskError> {
        let bytes = check_size(record.bytes)?;
        let base = record.base.map(BaseRecord::open).transpose()?;
        let mut disk = Self { base, overlay: None, bytes };
        if record.writable {
            let mut overlay = Overlay::default();
            for Block { number, data } in record.blocks {
                let fits = number < bytes.div_ceil(BLOCK_BYTES as u64);
                match <&[u8; BLOCK_BYTES]>::try_from(data.as_slice()) {
                    Ok(data) if fits => overlay.write(number, data)?,
                    _ => {
                        let at = number.saturating_mul(BLOCK_BYTES as u64);
                        let action = "restored";
                        let length = data.len() as u64;
                        return Err(DiskError::Outside { action, at, bytes: length, size: bytes });
                    }
                }
            }
            disk.overlay = Some(overlay);
        }
        Ok(disk)
    }
}

impl BaseRecord {
    fn open(self) -> Result<Base, DiskError> {
        let base = Base::open(&self.path)?;
        if (base.bytes, base.modified_ns) != (self.bytes, self.modified_ns) {
            let reason = "it has changed since the snapshot was taken".into();
            return Err(DiskError::Base { path: self.path, reason });
        }
        Ok(base)
    }
}

/// An error and its causes: formats keep a text only.
fn text(error: DiskError) -> String {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl Serialize for Disk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.record().map_err(|error| S::Error::custom(text(error)))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Disk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Record::deserialize(deserializer)?;
        Self::from_record(record).map_err(|error| D::Error::custom(text(error)))
    }
}
