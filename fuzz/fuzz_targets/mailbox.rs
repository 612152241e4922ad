//! What a guest writes into its mailbox.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tine_abi::command::{Command, Reply};

fuzz_target!(|words: ([u64; 8], [u64; 8])| {
    if let Some(reply) = Reply::decode(&words.0) {
        let _ = reply.ticks();
    }
    if let Some(command) = Command::decode(&words.1) {
        assert_eq!(Command::decode(&command.encode()), Some(command));
        assert!(command.selection.iter().take(1000).count() <= 1000);
    }
});
