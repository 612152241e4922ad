//! Identity-mapping page tables (Intel SDM volume 3, 5.5).
//!
//! Accessed and dirty bits are set from the start: a guest never writes its page tables
//! then, and KVM with shadow paging maps eight neighbours at each fault.

use tine_abi::layout::{LOCAL_APIC, PAGE_SIZE, PAGE_TABLES, RAM_BASE};
use vm_memory::GuestMemoryMmap;

use super::{BootError, put_words};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const PAGE: u64 = TABLE | DIRTY;

/// Writes tables that map `ram_bytes` of RAM and the local APIC for ring 3. Returns the
/// address of the PML4, for CR3.
pub fn map_everything(memory: &GuestMemoryMmap, ram_bytes: u64) -> Result<u64, BootError> {
    let mut tables = Tables { memory, next: PAGE_TABLES };
    let pml4 = tables.table(&[])?;
    let pages = ram_bytes / PAGE_SIZE;
    let mut directories = Vec::new();
    for gib in 0..pages.div_ceil(512 * 512) {
        let mut directory = Vec::new();
        for block in gib * 512..((gib + 1) * 512).min(pages.div_ceil(512)) {
            let entries: Vec<u64> = (block * 512..((block + 1) * 512).min(pages))
                .map(|page| (RAM_BASE + page * PAGE_SIZE) | PAGE)
                .collect();
            directory.push(tables.table(&entries)? | TABLE);
        }
        directories.push(tables.table(&directory)? | TABLE);
    }
    let apic_page = LOCAL_APIC | PAGE | UNCACHED | WRITE_THROUGH;
    let apic_table = tables.table(&at(index(LOCAL_APIC, 12), apic_page))?;
    let apic_directory = tables.table(&at(index(LOCAL_APIC, 21), apic_table | TABLE))?;

    let mut pointers = at(index(LOCAL_APIC, 30), apic_directory | TABLE);
    pointers.resize(index(RAM_BASE, 30), 0);
    pointers.extend(directories);
    let pointers = tables.table(&pointers)?;
    tables.write(pml4, &[pointers | TABLE])?;
    Ok(pml4)
}

/// The index of `address` in the table whose entries cover `1 << shift` bytes.
const fn index(address: u64, shift: u32) -> usize {
    (address >> shift & 511) as usize
}

fn at(index: usize, entry: u64) -> Vec<u64> {
    let mut entries = vec![0; index];
    entries.push(entry);
    entries
}

struct Tables<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Tables<'_> {
    /// Makes a table of `entries`, the rest zero, and returns its address.
    fn table(&mut self, entries: &[u64]) -> Result<u64, BootError> {
        let address = self.next;
        self.next += PAGE_SIZE;
        self.write(address, entries)?;
        Ok(address)
    }

    fn write(&self, address: u64, entries: &[u64]) -> Result<(), BootError> {
        put_words(self.memory, "a page table", address, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tine_abi::layout::{MIN_RAM, page_table_bytes};
    use vm_memory::{Bytes, GuestAddress};

    /// Walks the tables as a processor would; none where nothing is mapped.
    fn walk(memory: &GuestMemoryMmap, cr3: u64, address: u64) -> Option<u64> {
        let mut table = cr3;
        for shift in [39, 30, 21, 12] {
            let entry: u64 =
                memory.read_obj(GuestAddress(table + index(address, shift) as u64 * 8)).unwrap();
            if entry & PRESENT == 0 {
                return None;
            }
            assert_eq!(entry & (USER | WRITABLE | ACCESSED), USER | WRITABLE | ACCESSED);
            table = entry & 0x000f_ffff_ffff_f000;
        }
        Some(table | address & (PAGE_SIZE - 1))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_byte_of_ram_maps_to_itself_and_nothing_else_does(
            mib in (MIN_RAM >> 20)..1100, offset: u64, outside: u64,
        ) {
            let ram = mib << 20;
            let memory =
                GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(RAM_BASE), ram as usize)]).unwrap();
            let cr3 = map_everything(&memory, ram).unwrap();
            let inside = RAM_BASE + offset % ram;
            prop_assert_eq!(walk(&memory, cr3, inside), Some(inside));
            prop_assert_eq!(walk(&memory, cr3, LOCAL_APIC + 0xf0), Some(LOCAL_APIC + 0xf0));
            prop_assert_eq!(walk(&memory, cr3, RAM_BASE + ram), None);
            prop_assert_eq!(walk(&memory, cr3, outside % LOCAL_APIC), None);
            let end = PAGE_TABLES + page_table_bytes(ram);
            prop_assert_eq!(memory.read_obj::<u64>(GuestAddress(end)).unwrap(), 0);
        }
    }
}
