//! What a client sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tine::model::{ForkRequest, SnapshotRequest, SpawnRequest, WorkloadRequest, parse};

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = parse::<SpawnRequest>(body) {
        let _ = request.check();
    }
    if let Ok(request) = parse::<ForkRequest>(body) {
        let _ = request.check();
    }
    if let Ok(request) = parse::<SnapshotRequest>(body) {
        let _ = request.check();
    }
    if let Ok(request) = parse::<WorkloadRequest>(body) {
        for mib in [8, 256, 4096] {
            if let Ok(command) = request.command(mib << 20) {
                assert!(command.selection.iter().take(100).count() <= 100);
            }
        }
    }
});
