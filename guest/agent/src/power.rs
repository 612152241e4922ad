//! Switching the machine off: by request, by its power button, or because there is no way on.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;
use tine_abi::agent::{AgentMessage, Failure};

use crate::boot::Cmdline;
use crate::connection::Connection;
use crate::failure::os;
use crate::{children, is_first, log};

/// Time for programs to end when asked to, and again when made to.
const BRIEF: Duration = Duration::from_secs(1);
/// How often it is looked whether they have.
const TICK: Duration = Duration::from_millis(5);
/// What the kernel calls it (drivers/acpi/button.c).
const BUTTON: &str = "Power Button";
/// Size of `struct input_event`: two longs of time, type, code, value (linux/input.h).
const EVENT: usize = 24;
/// `EV_KEY` and `KEY_POWER` (linux/input-event-codes.h), and that it went down.
const POWER_DOWN: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];

/// Ends all programs, writes everything to the disks, says `Done` to the host if it asked, and
/// switches off. Returns only to say why it can't.
pub fn off(host: Option<&mut Connection>) -> Failure {
    if !is_first() {
        let why = "only the agent of a machine switches it off, not one that runs beside others";
        return Failure::Invalid(why.into());
    }
    end_all(libc::SIGTERM);
    end_all(libc::SIGKILL);
    for disk in Cmdline::of_this_machine().disks.iter().rev() {
        // A file system that is still in use is written out as well, by what follows.
        let _in_use = umount2(disk.directory.as_str(), MntFlags::empty());
    }
    sync();
    if let Some(host) = host {
        // Off is off: whether the host has heard makes no difference.
        let _heard = host.send(&AgentMessage::Done).is_ok() && host.finish(BRIEF).is_ok();
    }
    os("switching off", switch_off())
}

/// Switches off, at once. Returns only to say why it can't.
pub fn switch_off() -> Errno {
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    error
}

/// Sends every other process a signal, and gives them time to end.
fn end_all(signal: i32) {
    // SAFETY: kill touches no memory, and this is the first process of a machine (its caller
    // has looked), to which all others belong.
    let sent = Errno::result(unsafe { libc::kill(-1, signal) });
    let until = Instant::now() + BRIEF;
    // All processes descend from the first, so when it has no children there are none.
    while sent.is_ok() && children::any() && Instant::now() < until {
        thread::sleep(TICK);
    }
}

/// Does as [`off`] when the power button is pressed, if the machine has one.
pub fn watch_button() {
    let Some(device) = button() else { return };
    let watched = File::open(&device).and_then(|events| {
        thread::Builder::new()
            .name("button".into())
            .stack_size(64 << 10)
            .spawn(move || wait_for_press(events))
    });
    if let Err(error) = watched {
        log::error(format_args!("the power button {} can't be watched: {error}", device.display()));
    }
}

/// Its event device.
fn button() -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/class/input").ok()?;
    devices.flatten().map(|entry| entry.file_name()).find_map(|event| {
        let event = event.to_str().filter(|name| name.starts_with("event"))?;
        let name = fs::read_to_string(format!("/sys/class/input/{event}/device/name")).ok()?;
        (name.trim_end() == BUTTON).then(|| format!("/dev/input/{event}").into())
    })
}

fn wait_for_press(mut events: File) {
    let mut event = [0; EVENT];
    loop {
        match events.read_exact(&mut event) {
            Ok(()) if event.ends_with(&POWER_DOWN) => log::error(off(None)),
            Ok(()) => {}
            Err(error) => return log::error(format_args!("the power button is gone: {error}")),
        }
    }
}
