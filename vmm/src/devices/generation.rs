//! The VM generation id (Microsoft, "Virtual Machine Generation ID"): 128 bits in memory that
//! differ in every clone, by which the guest's random number generator knows to reseed.

use std::io;
use std::sync::Mutex;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::DeviceError;
use super::events::{Event, EventDevice, raise};
use crate::boot::platform::GENERATION_ID;

const NAME: &str = "the generation id";

/// Gives the guest a new id without telling it: before it starts.
pub fn set(memory: &GuestMemoryMmap) -> Result<(), DeviceError> {
    let mut id = [0u8; 16];
    getrandom::fill(&mut id)
        .map_err(|error| DeviceError::host(NAME, "drawing random numbers", error))?;
    memory
        .write_slice(&id, GuestAddress(GENERATION_ID))
        .map_err(|error| DeviceError::host(NAME, "writing its page", io::Error::other(error)))
}

/// Gives the guest a new id and tells it so.
pub fn renew(memory: &GuestMemoryMmap, events: &Mutex<EventDevice>) -> Result<(), DeviceError> {
    set(memory)?;
    raise(events, Event::Generation)
        .map_err(|error| DeviceError::host(NAME, "raising an interrupt", error))
}
