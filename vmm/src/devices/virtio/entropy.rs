//! Random numbers (virtio 1.2, 5.4).

use std::io::Write;

use super::{Broken, DeviceId, DeviceState, Rings, VirtioDevice};

/// The one queue.
const REQUESTS: usize = 0;
/// Most bytes that one request gets.
const MAX_BYTES: usize = 4 << 10;

/// The device.
#[derive(Debug, Default)]
pub struct Entropy;

impl VirtioDevice for Entropy {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, _: usize, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while let Some(chain) = rings.pop(REQUESTS)? {
            let head = chain.head_index();
            let broken = |what: &str| Broken::new(REQUESTS, what);
            let writer = chain.writer(rings.memory());
            let mut writer = writer.map_err(|_| broken("no writable chain"))?;
            let mut random = [0; MAX_BYTES];
            let random = &mut random[..writer.available_bytes().min(MAX_BYTES)];
            let written = match getrandom::fill(random) {
                Ok(()) => {
                    writer.write_all(random).map_err(|_| broken("a buffer outside of memory"))?;
                    random.len() as u32
                }
                // The driver asks again.
                Err(error) => {
                    tracing::error!(%error, "no random numbers for a guest");
                    0
                }
            };
            rings.push(REQUESTS, head, written)?;
        }
        Ok(())
    }

    fn state(&self) -> DeviceState {
        DeviceState::Entropy
    }
}
