//! Which pages are visited, and in which order.

use tine_abi::pattern::Selection;

use crate::rows::Order;

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// Pages in a run of [`Order::Clustered`].
pub const RUN: u64 = 16;
/// Seed of everything that is scattered: the same pages every time.
const SEED: u64 = 7;

/// Numbers of the pages that are `fraction` of `total`, in their order.
pub fn pick(total: u64, fraction: f64, order: Order) -> Vec<u32> {
    let count = (total as f64 * fraction).round().clamp(0.0, total as f64) as u64;
    match order {
        Order::Sequential => numbers(0..count),
        Order::Scattered => numbers(Selection::scattered(total, count, SEED).iter()),
        Order::Clustered => {
            let runs = total.div_ceil(RUN);
            let pages = Selection::scattered(runs, runs, SEED)
                .iter()
                .flat_map(|run| run * RUN..(run * RUN + RUN).min(total));
            numbers(pages.take(count as usize))
        }
    }
}

/// Page numbers fit in 32 bits up to 16 TiB.
fn numbers(pages: impl Iterator<Item = u64>) -> Vec<u32> {
    pages.map(|page| page as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_order_is_a_permutation() {
        for total in [1, 15, 16, 17, 1000, 25_600] {
            for order in Order::ALL {
                let all = pick(total, 1.0, order);
                assert_eq!(all.len() as u64, total, "{order:?}");
                assert!(
                    all.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(0..total as u32)
                );
            }
        }
    }

    #[test]
    fn a_fraction_is_as_many_pages_in_every_order() {
        for order in Order::ALL {
            assert!(pick(25_600, 0.0, order).is_empty());
            let part = pick(25_600, 0.1, order);
            assert_eq!(part.len(), 2560, "{order:?}");
            assert_eq!(part.iter().collect::<BTreeSet<_>>().len(), 2560);
        }
    }

    #[test]
    fn neighbours_are_as_the_order_says() {
        let neighbours = |order| {
            pick(25_600, 0.1, order).windows(2).filter(|pair| pair[1] == pair[0] + 1).count()
        };
        assert_eq!(neighbours(Order::Sequential), 2559);
        assert!(neighbours(Order::Scattered) < 25);
        // 15 of each 16, and now and then two runs that happen to be neighbours.
        assert!((2400..2420).contains(&neighbours(Order::Clustered)));
    }
}
