//! Where errors go that have nobody else to go to: the kernel's log, and with it the console.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Reports an error. A character on the console costs a guest more than a system call, so
/// nothing but errors is reported.
pub fn error(what: impl Display) {
    // One write is one record; level 3 is an error (the kernel's Documentation/ABI/testing/dev-kmsg).
    let record = format!("<3>tine-agent: {what}\n");
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
    if kmsg.and_then(|mut kmsg| kmsg.write_all(record.as_bytes())).is_err() {
        eprintln!("tine-agent: {what}");
    }
}
