//! Commands for the embedded workload, through the mailboxes in guest memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tine_abi::command::{Command, REPLY_WORDS, Reply, Status};
use tine_abi::layout::{self, mailbox};
use vm_memory::{Bytes, GuestAddress};

use super::{Machine, MachineError};

/// A command that was given to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    vcpu: u8,
    number: u64,
    life: u64,
}

impl Machine {
    /// Gives vCPU `vcpu` a command. On a paused machine it starts when that is resumed.
    pub fn submit(&self, vcpu: u8, command: &Command) -> Result<Ticket, MachineError> {
        // Nobody may fork or reset the machine between the look and the words.
        let _control = self.control();
        self.alive()?;
        let index = self.index(vcpu)?;
        if !self.gate.is_idle(index) {
            return Err(MachineError::Busy { vcpu });
        }
        let number = self.mailbox_word(vcpu, mailbox::COMMAND_NUMBER)?.wrapping_add(1);
        for (word, value) in command.encode().into_iter().enumerate() {
            self.set_mailbox_word(vcpu, mailbox::COMMAND + word, value)?;
        }
        self.set_mailbox_word(vcpu, mailbox::COMMAND_NUMBER, number)?;
        let life = self.gate.wake(index);
        Ok(Ticket { vcpu, number, life })
    }

    /// Waits for the answer to a command, at most `limit`.
    ///
    /// # Errors
    /// [`MachineError::Timeout`] leaves the command going; the ticket stays valid.
    pub fn wait(&self, ticket: Ticket, limit: Duration) -> Result<Reply, MachineError> {
        let Ticket { vcpu, number, life } = ticket;
        let index = self.index(vcpu)?;
        if !self.gate.wait_idle(index, life, limit) {
            return Err(MachineError::Timeout { vcpu, limit });
        }
        self.alive()?;
        if self.gate.life() != life {
            return Err(MachineError::Lost);
        }
        let mut words = [0; REPLY_WORDS];
        for (word, value) in words.iter_mut().enumerate() {
            *value = self.mailbox_word(vcpu, mailbox::REPLY + word)?;
        }
        if self.mailbox_word(vcpu, mailbox::REPLY_NUMBER)? != number {
            return Err(MachineError::Nonsense);
        }
        let reply = Reply::decode(&words).ok_or(MachineError::Nonsense)?;
        if reply.status == Status::Refused {
            return Err(MachineError::Refused { data_bytes: layout::data_bytes(self.ram_bytes()) });
        }
        Ok(reply)
    }

    /// Gives vCPU `vcpu` a command and waits for the answer, at most `limit`.
    pub fn run(&self, vcpu: u8, command: &Command, limit: Duration) -> Result<Reply, MachineError> {
        let ticket = self.submit(vcpu, command)?;
        self.wait(ticket, limit)
    }

    /// The ticket of the command that vCPU `vcpu` is at work on or has done last: in a
    /// fork, the one that its parent was at work on.
    pub fn current(&self, vcpu: u8) -> Result<Ticket, MachineError> {
        self.index(vcpu)?;
        let number = self.mailbox_word(vcpu, mailbox::COMMAND_NUMBER)?;
        Ok(Ticket { vcpu, number, life: self.gate.life() })
    }

    /// Has the command that vCPU `vcpu` is at work on end early, with status `Cancelled`.
    pub fn cancel(&self, vcpu: u8) -> Result<(), MachineError> {
        self.index(vcpu)?;
        let number = self.mailbox_word(vcpu, mailbox::COMMAND_NUMBER)?;
        self.set_mailbox_word(vcpu, mailbox::CANCEL, number)
    }

    /// Units of work that vCPU `vcpu` has done since boot, its ancestors' included.
    pub fn heartbeat(&self, vcpu: u8) -> Result<u64, MachineError> {
        self.index(vcpu)?;
        self.mailbox_word(vcpu, mailbox::HEARTBEAT)
    }

    /// Whether the guest is at work on any vCPU.
    pub fn busy(&self) -> bool {
        self.gate.busy()
    }

    fn index(&self, vcpu: u8) -> Result<usize, MachineError> {
        // A Linux guest has other things where the workload has its mailboxes.
        if self.board.is_linux() {
            return Err(MachineError::NoWorkload);
        }
        match vcpu < self.vcpus() {
            true => Ok(usize::from(vcpu)),
            false => Err(MachineError::NoVcpu { vcpu, vcpus: self.vcpus() }),
        }
    }

    fn mailbox_word(&self, vcpu: u8, word: usize) -> Result<u64, MachineError> {
        let address = word_address(vcpu, word);
        let value = self.ram().memory().load(address, Ordering::Acquire);
        value.map_err(|source| write_error(address, source))
    }

    fn set_mailbox_word(&self, vcpu: u8, word: usize, value: u64) -> Result<(), MachineError> {
        let address = word_address(vcpu, word);
        let stored = self.ram().memory().store(value, address, Ordering::Release);
        stored.map_err(|source| write_error(address, source))
    }
}

fn word_address(vcpu: u8, word: usize) -> GuestAddress {
    GuestAddress(layout::mailbox(u64::from(vcpu)) + word as u64 * 8)
}

fn write_error(address: GuestAddress, source: vm_memory::GuestMemoryError) -> MachineError {
    crate::boot::BootError::Write { what: "a mailbox", address: address.0, source }.into()
}
