//! How many page tables a region needs: by arithmetic, and as the kernel counts them.

use super::{Out, not_measured, region};
use crate::child::Partner;
use crate::counters::page_tables;
use crate::failure::Failure;
use crate::region::Region;
use crate::rows::{Backing, Density, Row, TablesRow};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the region, bytes.
    pub size: u64,
    /// What it is made of.
    pub backing: Backing,
    /// How much of it is filled.
    pub density: Density,
}

/// Bits of an address that a table of each level maps: PTE, PMD, PUD.
const LEVELS: [u32; 3] = [21, 30, 39];

/// Measures.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let before_bytes = page_tables("self")?;
    let child_before_bytes = child_page_tables()?;
    match region(options.size, 1.0, options.backing, options.density)? {
        Ok(region) => out(Row::Tables(TablesRow {
            after_bytes: page_tables("self")?,
            child_after_bytes: child_page_tables()?,
            ..arithmetic(&region, before_bytes, child_before_bytes)
        })),
        Err(why) => out(not_measured(
            format!("page tables of {} MiB, {}", options.size >> 20, options.backing.name()),
            why,
        )),
    }
}

fn arithmetic(region: &Region, before_bytes: u64, child_before_bytes: u64) -> TablesRow {
    let (address, bytes) = (region.address() as u64, region.bytes() as u64);
    let [pte, pmd, pud] = LEVELS.map(|bits| tables(address, bytes, bits));
    TablesRow {
        backing: region.backing(),
        density: region.density(),
        size_bytes: bytes,
        address,
        // A huge page needs no table of the last level. The kernel keeps one for each transparent
        // huge page all the same, to split it without fail; it keeps none for hugetlb.
        pte_pages: if region.backing() == Backing::Hugetlb { 0 } else { pte },
        pmd_pages: pmd,
        pud_pages: pud,
        before_bytes,
        after_bytes: 0,
        child_before_bytes,
        child_after_bytes: 0,
    }
}

/// How many tables that map 2^`bits` bytes each cover `bytes` at `address`.
fn tables(address: u64, bytes: u64, bits: u32) -> u64 {
    match bytes {
        0 => 0,
        _ => ((address + bytes - 1) >> bits) - (address >> bits) + 1,
    }
}

fn child_page_tables() -> Result<u64, Failure> {
    Partner::fork(|line| line.tell(&page_tables("self")?))?.answer("look at its page tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_gibibyte_has_512_tables_of_the_last_level() {
        assert_eq!(LEVELS.map(|bits| tables(5 * GIB, GIB, bits)), [512, 1, 1]);
        // Half a GiB off, a second table of the next level is needed.
        assert_eq!(LEVELS.map(|bits| tables(5 * GIB + GIB / 2, GIB, bits)), [512, 2, 1]);
        // A page off, and one more of the last; across a boundary of 512 GiB, of all.
        assert_eq!(LEVELS.map(|bits| tables(5 * GIB + 4096, GIB, bits)), [513, 2, 1]);
        assert_eq!(LEVELS.map(|bits| tables(512 * GIB - 4096, 8192, bits)), [2, 2, 2]);
        assert_eq!(tables(GIB, 0, 21), 0);
    }

    #[test]
    fn the_kernel_counts_what_arithmetic_says() {
        for density in [Density::Dense, Density::Sparse] {
            let options = Options { size: 64 << 20, backing: Backing::Small, density };
            let mut rows = Vec::new();
            run(&options, &mut |row| {
                rows.push(row);
                Ok(())
            })
            .unwrap();
            let Row::Tables(row) = &rows[0] else { panic!("{rows:?}") };
            assert_eq!(row.pte_pages, 32);
            // Upper tables may be there already, for what lies beside it.
            let grown = (row.after_bytes - row.before_bytes) / 4096;
            assert!((32..=32 + row.pmd_pages + row.pud_pages).contains(&grown), "{row:?}");
            let grown = (row.child_after_bytes - row.child_before_bytes) / 4096;
            assert!((32..=32 + row.pmd_pages + row.pud_pages).contains(&grown), "{row:?}");
        }
    }
}
