//! The words through which host and guest speak.

use tine_abi::command::{COMMAND_WORDS, Command, Reply, Status};
use tine_abi::layout::{self, mailbox};

/// Word `index` of the boot page.
pub fn boot_word(index: usize) -> u64 {
    // SAFETY: the VMM maps the boot page for reading and fills it before the start.
    unsafe { (layout::BOOT_PAGE as *const u64).add(index).read_volatile() }
}

/// The mailbox of one vCPU.
#[derive(Clone, Copy)]
pub struct Mailbox {
    words: *mut u64,
}

impl Mailbox {
    /// The mailbox of vCPU `index`.
    pub fn of_vcpu(index: u64) -> Self {
        Self { words: layout::mailbox(index) as *mut u64 }
    }

    /// The area of the mailbox's vCPU.
    pub fn area(self) -> u64 {
        self.words as u64 - layout::MAILBOX_OFFSET
    }

    fn read(self, word: usize) -> u64 {
        // SAFETY: every `word` is a constant of the ABI that lies in the mailbox, which
        // is mapped; the host writes it too, hence volatile.
        unsafe { self.words.add(word).read_volatile() }
    }

    fn write(self, word: usize, value: u64) {
        // SAFETY: as in `read`.
        unsafe { self.words.add(word).write_volatile(value) }
    }

    /// Number of a command that is not answered yet.
    pub fn new_command(self) -> Option<u64> {
        let number = self.read(mailbox::COMMAND_NUMBER);
        (number != self.read(mailbox::REPLY_NUMBER)).then_some(number)
    }

    /// The command, if its words mean one.
    pub fn command(self) -> Option<Command> {
        let words: [u64; COMMAND_WORDS] =
            core::array::from_fn(|word| self.read(mailbox::COMMAND + word));
        Command::decode(&words)
    }

    /// Whether the host wants command `number` to end.
    #[inline]
    pub fn cancelled(self, number: u64) -> bool {
        self.read(mailbox::CANCEL) == number
    }

    /// Counts one unit of work.
    #[inline]
    pub fn beat(self) {
        self.write(mailbox::HEARTBEAT, self.read(mailbox::HEARTBEAT) + 1);
    }

    /// Units of work so far.
    pub fn heartbeat(self) -> u64 {
        self.read(mailbox::HEARTBEAT)
    }

    /// Timer interrupts so far.
    pub fn ticks(self) -> u64 {
        self.read(mailbox::TICKS)
    }

    /// Answers command `number`.
    pub fn answer(self, number: u64, reply: Reply) {
        for (word, value) in reply.encode().into_iter().enumerate() {
            self.write(mailbox::REPLY + word, value);
        }
        self.write(mailbox::REPLY_NUMBER, number);
    }
}

/// The reply to a command that means nothing here.
pub fn refusal(mailbox: Mailbox) -> Reply {
    Reply {
        status: Status::Refused,
        value: 0,
        value2: 0,
        done: 0,
        tsc_start: 0,
        tsc_end: 0,
        heartbeat: mailbox.heartbeat(),
    }
}
