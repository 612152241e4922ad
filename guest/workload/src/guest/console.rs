//! Output through the 16550 at the console port.

use tine_abi::layout::PORT_CONSOLE;

use crate::cpu;

/// Line status register, and the bit in it that says that the transmitter is free.
const LINE_STATUS: u16 = PORT_CONSOLE + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The console.
pub struct Console;

impl Console {
    /// Prints `text`.
    pub fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            while cpu::in_byte(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                cpu::relax();
            }
            cpu::out_byte(PORT_CONSOLE, byte);
        }
    }

    /// Prints `number` in decimal.
    pub fn number(&mut self, number: u64) {
        let mut divisor = 1;
        while number / divisor >= 10 {
            divisor *= 10;
        }
        while divisor > 0 {
            let digit = b'0' + (number / divisor % 10) as u8;
            cpu::out_byte(PORT_CONSOLE, digit);
            divisor /= 10;
        }
    }
}
