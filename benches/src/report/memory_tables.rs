//! Tables of what memory becomes of: limits, backings, what is copied and what is shared.

use super::Report;
use super::tables::Table;
use super::units::{bytes, percent, time};

pub fn pressure(report: &Report) -> Table {
    let mut table = Table::new(
        "Pressure: cells whose memory is limited together, until something fails",
        "The room is what the limit leaves beside what was there before: beside a parent with \
         all of its memory of its own, for copies and forks; beside the image, for clones of a \
         snapshot. `made` have written all they were to write. `intact` have all that they had and \
         wrote, after the failure.",
        4,
        &[
            "what",
            "failed at",
            "ended",
            "error",
            "guest",
            "written",
            "room",
            "made",
            "used",
            "their own",
            "kills",
            "parent",
            "alive",
            "intact",
        ],
    );
    for row in &report.pressure {
        table.row([
            row.what.clone(),
            format!("{}, after {}", row.failed_at, time(row.failed_after_us)),
            row.ended.clone(),
            row.error.clone(),
            bytes(row.guest_bytes as f64),
            percent(row.written),
            bytes(row.room_bytes as f64),
            row.made.to_string(),
            bytes(row.used_bytes as f64),
            bytes(row.private_bytes as f64),
            row.kills.to_string(),
            match row.parent_intact {
                Some(true) => "intact",
                Some(false) => "lost",
                None => "-",
            }
            .to_owned(),
            row.alive.to_string(),
            row.intact.to_string(),
        ]);
    }
    table
}
