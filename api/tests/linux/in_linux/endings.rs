//! How guests end.

use std::time::Instant;

use tine_abi::agent::Request;
use tine_vmm::{End, Machine, Status};

use super::common::{PATIENCE, guest, start};

fn ended(machine: &Machine) -> Status {
    let begun = Instant::now();
    while machine.status() == Status::Running {
        assert!(begun.elapsed() < PATIENCE, "it runs on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    machine.status()
}

#[test]
fn poweroff_ends_a_sandbox_cleanly() {
    let machine = guest();
    let _asked = machine.agent(Request::PowerOff).unwrap();
    assert_eq!(ended(&machine), Status::Ended(End::PowerOff));
    assert!(machine.agent(Request::Ping).is_err());
}

#[test]
fn the_power_button_switches_a_guest_off() {
    let machine = guest();
    machine.press_power().unwrap();
    assert_eq!(ended(&machine), Status::Ended(End::PowerOff));
}

#[test]
fn a_reboot_ends_a_sandbox() {
    let machine = guest();
    let _running = start(&machine, "reboot -f");
    assert_eq!(ended(&machine), Status::Ended(End::Reset));
}

#[test]
fn a_kernel_panic_is_told_with_the_console() {
    let machine = guest();
    let _running = start(&machine, "echo c > /proc/sysrq-trigger");
    match ended(&machine) {
        Status::Failed(reason) => {
            assert!(reason.contains("Kernel panic - not syncing: sysrq"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_command_learns_that_its_guest_is_gone() {
    let machine = guest();
    let mut waiting = start(&machine, "cat");
    let _asked = machine.agent(Request::PowerOff).unwrap();
    assert_eq!(ended(&machine), Status::Ended(End::PowerOff));
    // The agent may have told of the signal that ended it.
    while let Ok(Some(_)) = waiting.receive() {}
}
