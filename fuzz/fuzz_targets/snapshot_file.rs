//! A snapshot file: header and machine state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tine_vmm::snapshot::file;

fuzz_target!(|bytes: &[u8]| {
    let _ = file::check_header(bytes, bytes.len() as u64);
    let _ = file::decode_state(bytes);
});
