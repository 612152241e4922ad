//! fork, vfork, posix_spawn: section 5 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::spawn;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 5,
        title: "fork, vfork, posix_spawn",
        claim: "vfork takes a constant 50 us at any size, where fork takes 100, 150, 200 and 500 us at 10 MB, 100 MB, 1 GB and 10 GB; posix_spawn is its safe form. For a virtual machine, a clone made ahead copies no page tables either.",
        rows: both(
            process::vfork::rows(),
            vec![
                Row::new(
                    Subject::Vm,
                    "a dormant clone takes the same time at any size",
                    Section::Dormant,
                    dormant_is_flat,
                ),
                Row::new(
                    Subject::Vm,
                    "a fork that copies no page tables takes the same time at any size",
                    Section::Spawn,
                    constant_time,
                ),
            ],
        ),
        by_hand: &["tine bench --only process-spawn,dormant"],
    }
}

fn dormant_is_flat(report: &Report) -> Option<Judgement> {
    let small = report.dormant.iter().min_by_key(|row| row.guest_bytes)?;
    let large = report.dormant.iter().max_by_key(|row| row.guest_bytes)?;
    (small.guest_bytes < large.guest_bytes).then(|| {
        Judgement::when(
            large.in_daemon_p50_us < 2.0 * small.in_daemon_p50_us,
            "less than twice as long for the largest guest as for the smallest",
            format!(
                "{} at {}, {} at {}",
                time(small.in_daemon_p50_us),
                bytes(small.guest_bytes as f64),
                time(large.in_daemon_p50_us),
                bytes(large.guest_bytes as f64)
            ),
        )
    })
}

fn constant_time(report: &Report) -> Option<Judgement> {
    let (small, large) = spawn::ends(&report.spawn, "cow")?;
    let rest = |row: &spawn::SpawnRow| row.p50_us - row.step("memslot");
    Some(Judgement::when(
        large.p50_us < 2.0 * small.p50_us,
        "less than twice as long for the largest guest as for the smallest",
        format!(
            "{} at {}, {} at {}; without KVM's memslot {} and {}",
            time(small.p50_us),
            bytes(small.guest_bytes as f64),
            time(large.p50_us),
            bytes(large.guest_bytes as f64),
            time(rest(small)),
            time(rest(large))
        ),
    ))
}
