//! What the commands do.

use tine_abi::command::{Checksum, Command, Op, Reply, Status, dirty_word, mix, renewed_word};
use tine_abi::layout::{self, PAGE_SIZE, PORT_BEAT, boot};

use crate::console::Console;
use crate::interrupts::Timer;
use crate::mailbox::{Mailbox, boot_word, refusal};
use crate::{clock, cpu};

/// What an operation came to: whether it ran to its end, its values, and how much was done.
struct Outcome {
    status: Status,
    value: u64,
    value2: u64,
    done: u64,
}

impl Outcome {
    fn new(complete: bool, value: u64, done: u64) -> Self {
        let status = if complete { Status::Done } else { Status::Cancelled };
        Self { status, value, value2: 0, done }
    }
}

/// Performs command `number` of `mailbox`, and times it.
pub fn perform(mailbox: Mailbox, number: u64) -> Reply {
    let ram = boot_word(boot::RAM_BYTES);
    let data = Data {
        start: layout::data_start(ram),
        pages: layout::data_bytes(ram) / PAGE_SIZE,
        mailbox,
        number,
    };
    let Some(command) = mailbox.command().filter(|command| data.holds(command)) else {
        return refusal(mailbox);
    };
    let tsc_start = cpu::tsc();
    let outcome = match command.op {
        Op::Touch => data.touch(&command),
        Op::Dirty => data.dirty(&command),
        Op::Read => data.read(&command),
        Op::Checksum => data.checksum(&command),
        Op::Spin => spin(&data, command.amount),
        Op::Compute => compute(&data, &command),
        Op::Beat => beat(&data, command.amount),
        Op::Timer => timer(&data, &command),
        Op::Clock => read_clock(mailbox),
        Op::Say => say(mailbox),
        Op::Renew => data.renew(&command),
        Op::Renewed => data.renewed(&command),
    };
    let tsc_end = cpu::tsc();
    Reply {
        status: outcome.status,
        value: outcome.value,
        value2: outcome.value2,
        done: outcome.done,
        tsc_start,
        tsc_end,
        heartbeat: mailbox.heartbeat(),
    }
}

/// The data region, as one command sees it.
struct Data {
    start: u64,
    pages: u64,
    mailbox: Mailbox,
    number: u64,
}

impl Data {
    fn holds(&self, command: &Command) -> bool {
        let selection = command.selection;
        selection
            .first_page
            .checked_add(selection.region_pages)
            .is_some_and(|end| end <= self.pages)
    }

    fn page(&self, page: u64) -> *mut u64 {
        (self.start + page * PAGE_SIZE) as *mut u64
    }

    /// Visits the selected pages until the host cancels.
    #[inline(always)]
    fn visit(&self, command: &Command, mut each: impl FnMut(*mut u64, u64)) -> (bool, u64) {
        let mut done = 0;
        for page in command.selection.iter() {
            each(self.page(page), page);
            done += 1;
            self.mailbox.beat();
            if self.mailbox.cancelled(self.number) {
                return (false, done);
            }
        }
        (true, done)
    }

    fn touch(&self, command: &Command) -> Outcome {
        let (complete, done) = self.visit(command, |words, _| {
            // SAFETY: `holds` checked that every selected page lies in the data region,
            // all of which is mapped for writing and used by nothing else.
            unsafe { words.write_volatile(words.read_volatile()) }
        });
        Outcome::new(complete, 0, done)
    }

    fn dirty(&self, command: &Command) -> Outcome {
        let seed = command.seed;
        let (complete, done) = self.visit(command, |words, page| {
            let (word, place) = dirty_word(seed, page);
            // SAFETY: as in `touch`; `place` is below 512.
            unsafe { words.add(place as usize).write_volatile(word) }
        });
        Outcome::new(complete, 0, done)
    }

    fn read(&self, command: &Command) -> Outcome {
        let mut value = 0;
        let (complete, done) = self.visit(command, |words, _| {
            // SAFETY: as in `touch`.
            value ^= unsafe { words.read_volatile() };
        });
        Outcome::new(complete, value, done)
    }

    fn checksum(&self, command: &Command) -> Outcome {
        let mut checksum = Checksum::new();
        let (complete, done) = self.visit(command, |words, _| {
            for word in (0..PAGE_SIZE as usize / 8).step_by(4) {
                // SAFETY: as in `touch`; `word + 3` is below 512.
                let four = unsafe { words.add(word).cast::<[u64; 4]>().read_volatile() };
                checksum.add(four);
            }
        });
        Outcome::new(complete, checksum.finish(), done)
    }

    fn renew(&self, command: &Command) -> Outcome {
        let mut pace = Pace::start(command.amount);
        let mut done = 0;
        let mut version = command.seed;
        loop {
            for page in command.selection.iter() {
                while !pace.is_due() {
                    if self.mailbox.cancelled(self.number) {
                        return pace.outcome(false, done);
                    }
                    cpu::relax();
                }
                // SAFETY: as in `touch`.
                unsafe { self.page(page).write_volatile(renewed_word(version, page)) };
                pace.done();
                done += 1;
                self.mailbox.beat();
                if self.mailbox.cancelled(self.number) {
                    return pace.outcome(false, done);
                }
            }
            if command.amount == 0 || command.selection.pages == 0 {
                return pace.outcome(true, done);
            }
            version = version.wrapping_add(1);
        }
    }

    fn renewed(&self, command: &Command) -> Outcome {
        let (version, mut leading, mut strange, mut turned) = (command.seed, 0, 0, false);
        let (complete, done) = self.visit(command, |words, page| {
            // SAFETY: as in `touch`.
            let word = unsafe { words.read_volatile() };
            turned |= word != renewed_word(version, page);
            match turned {
                false => leading += 1,
                true => {
                    let before = renewed_word(version.wrapping_sub(1), page);
                    strange += u64::from(word != before);
                }
            }
        });
        Outcome { value2: strange, ..Outcome::new(complete, leading, done) }
    }
}

/// When pages are due, how late they were, and how long it was from one to the next.
struct Pace {
    begun: u64,
    /// Ticks a page.
    each: u64,
    /// When the next is due, in ticks since the beginning.
    due: u64,
    last: u64,
    latest: u64,
    longest: u64,
}

impl Pace {
    /// So many pages a second; none means at once.
    fn start(rate: u64) -> Self {
        let second = boot_word(boot::TSC_KHZ).saturating_mul(1000);
        let each = second.checked_div(rate).unwrap_or(0);
        Self { begun: cpu::tsc(), each, due: 0, last: 0, latest: 0, longest: 0 }
    }

    fn now(&self) -> u64 {
        cpu::tsc().wrapping_sub(self.begun)
    }

    fn is_due(&self) -> bool {
        self.each == 0 || self.now() >= self.due
    }

    /// A page is written.
    fn done(&mut self) {
        let now = self.now();
        self.latest = self.latest.max(now.saturating_sub(self.due));
        self.longest = self.longest.max(now - self.last);
        self.last = now;
        self.due += self.each;
    }

    fn outcome(&self, complete: bool, done: u64) -> Outcome {
        // Who has no time to keep is never late.
        let late = if self.each == 0 { 0 } else { self.latest };
        Outcome { value2: self.longest, ..Outcome::new(complete, late, done) }
    }
}

/// Computes for `milliseconds`; the value is the number of rounds.
fn spin(data: &Data, milliseconds: u64) -> Outcome {
    let ticks = milliseconds.saturating_mul(boot_word(boot::TSC_KHZ));
    let start = cpu::tsc();
    let mut rounds = 0;
    while cpu::tsc().wrapping_sub(start) < ticks {
        rounds += 1;
        data.mailbox.beat();
        if data.mailbox.cancelled(data.number) {
            return Outcome::new(false, rounds, rounds);
        }
    }
    Outcome::new(true, rounds, rounds)
}

fn compute(data: &Data, command: &Command) -> Outcome {
    const ROUNDS_A_BEAT: u64 = 4096;
    let mut value = command.seed;
    for round in 0..command.amount {
        value = mix(value);
        if round % ROUNDS_A_BEAT == 0 {
            data.mailbox.beat();
            if data.mailbox.cancelled(data.number) {
                return Outcome::new(false, value, round);
            }
        }
    }
    Outcome::new(true, value, command.amount)
}

fn beat(data: &Data, exits: u64) -> Outcome {
    for exit in 0..exits {
        data.mailbox.beat();
        cpu::out(PORT_BEAT, exit as u32);
        if data.mailbox.cancelled(data.number) {
            return Outcome::new(false, 0, exit);
        }
    }
    Outcome::new(true, 0, exits)
}

fn timer(data: &Data, command: &Command) -> Outcome {
    let first = data.mailbox.ticks();
    let timer = Timer::start(command.seed.min(u64::from(u32::MAX)) as u32);
    let ticks = || data.mailbox.ticks() - first;
    while ticks() < command.amount {
        data.mailbox.beat();
        if data.mailbox.cancelled(data.number) {
            return Outcome::new(false, ticks(), ticks());
        }
        cpu::relax();
    }
    drop(timer);
    Outcome::new(true, ticks(), ticks())
}

fn read_clock(mailbox: Mailbox) -> Outcome {
    mailbox.beat();
    let area = mailbox.area();
    let monotonic = clock::monotonic_ns(area);
    let mut outcome = Outcome::new(true, monotonic, 1);
    outcome.value2 = clock::wall_ns(monotonic);
    outcome
}

fn say(mailbox: Mailbox) -> Outcome {
    mailbox.beat();
    let mut console = Console;
    console.text("heartbeat ");
    console.number(mailbox.heartbeat());
    console.text("\r\n");
    Outcome::new(true, 0, 1)
}
