//! Tables of other VMMs beside tine.

use super::tables::Table;
use super::units::{bytes, time};
use crate::peers::PeerFigures;
use crate::stats::Summary;

/// Which were looked for.
pub fn peers(figures: &PeerFigures) -> Table {
    let mut table = Table::new(
        "Other VMMs: which of them are here",
        "Only what runs on this host in this run is compared with; there are no figures from \
         elsewhere.",
        3,
        &["VMM", "version", "measured"],
    );
    for row in &figures.peers {
        table.row([
            row.peer.clone(),
            row.version.clone().unwrap_or_else(|| "-".to_owned()),
            row.not_measured.clone().unwrap_or_else(|| "yes".to_owned()),
        ]);
    }
    table
}

/// What they do, beside tine.
pub fn compared(figures: &PeerFigures) -> Table {
    let note = format!(
        "The same guest, on the same host, in turn: a program of a few dozen instructions that has \
         written all of its memory, and calls through its serial port for ever. It never rests, so \
         that tine's dormant clones of it have taken no steps ahead. A restore begins with its \
         request, in a new process with the start of that, and ends when the first call is heard \
         outside. Files are on {}, and their snapshots are complete ones of all memory. Each row of \
         the JSON says what began and what ended its time.",
        figures.file_system
    );
    let columns = ["what", "VMM", "how", "guest", "n", "p50", "p90", "min"];
    let mut table = Table::new("Other VMMs beside tine", &note, 3, &columns);
    for row in &figures.compared {
        let Summary { n, p50, p90, min, .. } = Summary::of(row.samples_us.iter().copied());
        table.row([
            row.what.clone(),
            format!("{} {}", row.peer, row.version),
            row.how.clone(),
            bytes(row.guest_bytes as f64),
            n.to_string(),
            time(p50),
            time(p90),
            time(min),
        ]);
    }
    table
}
