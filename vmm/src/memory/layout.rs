//! Where RAM lies in guest-physical memory.

use serde::{Deserialize, Serialize};

use super::PAGE_SIZE;

/// End of the RAM below 4 GiB of a PC: what follows belongs to devices.
pub const LOW_RAM_END: u64 = 3 << 30;
/// Where the rest of a PC's RAM goes on.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// One piece of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// First guest-physical address.
    pub guest_address: u64,
    /// Size, bytes.
    pub bytes: u64,
}

/// The pieces of a guest's RAM, which are one behind the other in its memory image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamLayout {
    regions: Vec<Region>,
}

impl RamLayout {
    /// All of it from `guest_address` on.
    pub fn flat(guest_address: u64, bytes: u64) -> Self {
        Self { regions: vec![Region { guest_address, bytes }] }
    }

    /// As a PC has it: from zero, around the hole below 4 GiB.
    pub fn pc(bytes: u64) -> Self {
        let low = bytes.min(LOW_RAM_END);
        let mut regions = vec![Region { guest_address: 0, bytes: low }];
        if bytes > low {
            regions.push(Region { guest_address: HIGH_RAM_START, bytes: bytes - low });
        }
        Self { regions }
    }

    /// The pieces.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Size of all of them, bytes.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes).sum()
    }

    /// Where `bytes` from `guest_address` are in the memory image, if they lie in one piece.
    pub fn offset(&self, guest_address: u64, bytes: u64) -> Option<u64> {
        let mut before = 0;
        for region in &self.regions {
            let into = guest_address.checked_sub(region.guest_address);
            if let Some(into) = into.filter(|into| *into < region.bytes) {
                return (bytes <= region.bytes - into).then_some(before + into);
            }
            before += region.bytes;
        }
        None
    }

    /// What is wrong with it, when it was read from somewhere.
    pub fn check(&self, ram_bytes: u64) -> Result<(), &'static str> {
        let page = PAGE_SIZE as u64;
        let (mut end, mut sum) = (0u64, 0u64);
        for region in &self.regions {
            if region.bytes == 0 || !(region.guest_address | region.bytes).is_multiple_of(page) {
                return Err("a piece of RAM is no whole number of pages");
            }
            if region.guest_address < end {
                return Err("pieces of RAM overlap");
            }
            let next = region.guest_address.checked_add(region.bytes);
            end = next.filter(|end| *end <= 1 << 52).ok_or("a piece of RAM is out of reach")?;
            sum = sum.saturating_add(region.bytes);
        }
        match sum == ram_bytes && self.regions.len() <= 2 {
            true => Ok(()),
            false => Err("the pieces of RAM are not all of it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pc_has_a_hole_below_four_gigabytes() {
        assert_eq!(RamLayout::pc(1 << 30).regions().len(), 1);
        let large = RamLayout::pc(5 << 30);
        assert_eq!(large.bytes(), 5 << 30);
        assert_eq!(large.offset(LOW_RAM_END - 4096, 4096), Some(LOW_RAM_END - 4096));
        assert_eq!(large.offset(LOW_RAM_END - 4096, 8192), None);
        assert_eq!(large.offset(LOW_RAM_END, 1), None);
        assert_eq!(large.offset(HIGH_RAM_START, 4096), Some(LOW_RAM_END));
        assert_eq!(large.offset(u64::MAX, 1), None);
        assert_eq!(large.check(5 << 30), Ok(()));
    }

    #[test]
    fn layouts_that_can_not_be_are_refused() {
        let region = |guest_address, bytes| Region { guest_address, bytes };
        let check = |regions: Vec<Region>, bytes| RamLayout { regions }.check(bytes);
        assert!(check(vec![], 0).is_ok());
        assert!(check(vec![region(0, 4096)], 8192).is_err());
        assert!(check(vec![region(0, 4095)], 4095).is_err());
        assert!(check(vec![region(0, 8192), region(4096, 4096)], 12288).is_err());
        assert!(check(vec![region(u64::MAX - 4095, 4096)], 4096).is_err());
    }
}
