//! Between a program and the host: one loop that waits for both and is never held up by one.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tine_abi::agent::{self, CHUNK, Exec, Exit, Failure, HostMessage};

use super::program::{Output, Program};
use super::terminal;
use crate::connection::{Connection, broken};
use crate::failure::os;

/// Input that is kept for a program that reads slowly. The host's messages behind so much of
/// it wait.
const INPUT_LIMIT: usize = 256 << 10;
/// When the program has ended, and others that it left behind hold its output open, it is
/// complete after so much silence.
const SILENCE: Duration = Duration::from_millis(200);
/// And after so many bytes: the largest pipe that a program can have filled before its end
/// (/proc/sys/fs/pipe-max-size).
const LEFT_BEHIND: usize = 1 << 20;
/// What ends the input on a terminal: Control-D.
const END_OF_TRANSMISSION: u8 = 4;

/// The state between the two.
pub struct Relay<'a> {
    program: Program,
    host: &'a mut Connection,
    /// From the host, not a whole message yet.
    incoming: Vec<u8>,
    /// For the program's input.
    input: Vec<u8>,
    /// Nothing follows it.
    input_ended: bool,
    /// For the host. Output is read only when there is nothing, so that it is bounded.
    outgoing: Vec<u8>,
    /// When the program is killed; after its end, when its output is complete.
    deadline: Option<Instant>,
    timed_out: bool,
    exit: Option<Exit>,
    /// Bytes that are still read after its end.
    left_behind: usize,
    /// To read into.
    scratch: Box<[u8]>,
}

/// What poll(2) waits for, and what it finds.
type Events = libc::c_short;

/// What there is to wait for.
#[derive(Clone, Copy)]
enum Source {
    Host,
    End,
    Input,
    Output(usize),
}

impl<'a> Relay<'a> {
    /// Between `program`, which runs `exec`, and `host`, which must not block.
    pub fn new(program: Program, exec: &Exec, host: &'a mut Connection) -> Self {
        let timeout = exec.timeout_ms.map(Duration::from_millis);
        Self {
            program,
            host,
            incoming: Vec::new(),
            input: Vec::new(),
            input_ended: false,
            outgoing: Vec::new(),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            timed_out: false,
            exit: None,
            left_behind: LEFT_BEHIND,
            scratch: vec![0; CHUNK].into(),
        }
    }

    /// Goes on until the program has ended and the host has all its output.
    pub fn run(mut self) -> Result<Exit, Failure> {
        loop {
            if let (Some(exit), true) = (self.exit, self.is_drained()) {
                return Ok(if self.timed_out { Exit::TimedOut } else { exit });
            }
            // From the back, so that an output that ends does not move those still to come.
            for (source, events) in self.wait()?.into_iter().rev() {
                match source {
                    Source::Host => self.hear(events)?,
                    Source::End => self.end()?,
                    Source::Input => self.feed(),
                    Source::Output(index) => self.take_output(index)?,
                }
            }
            self.send()?;
            self.keep_time();
        }
    }

    fn is_drained(&self) -> bool {
        self.program.outputs.is_empty() && self.outgoing.is_empty()
    }

    /// Waits until something can be done, or the deadline.
    fn wait(&self) -> Result<Vec<(Source, Events)>, Failure> {
        let mut sources = vec![(Source::Host, self.host.as_fd(), self.wanted_of_host())];
        if self.exit.is_none() {
            sources.push((Source::End, self.program.child.as_fd(), libc::POLLIN));
        }
        if let Some(file) = self.program.input.as_ref().filter(|_| !self.input.is_empty()) {
            sources.push((Source::Input, file.as_fd(), libc::POLLOUT));
        }
        if self.outgoing.is_empty() {
            let outputs = self.program.outputs.iter().enumerate();
            sources.extend(
                outputs.map(|(index, output)| {
                    (Source::Output(index), output.file.as_fd(), libc::POLLIN)
                }),
            );
        }
        let mut polls: Vec<_> = sources
            .iter()
            .map(|(_, fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events: *events, revents: 0 })
            .collect();
        // SAFETY: `polls` is as many structures as is said, and the descriptors in it are
        // borrowed by `sources`.
        let polled = unsafe {
            libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, self.timeout_ms())
        };
        match Errno::result(polled) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(os("waiting for a program", error)),
        }
        let events = sources.iter().zip(polls).map(|((source, ..), poll)| (*source, poll.revents));
        Ok(events.filter(|(_, events)| *events != 0).collect())
    }

    fn wanted_of_host(&self) -> Events {
        let mut wanted = libc::POLLRDHUP;
        if self.input.len() < INPUT_LIMIT {
            wanted |= libc::POLLIN;
        }
        if !self.outgoing.is_empty() {
            wanted |= libc::POLLOUT;
        }
        wanted
    }

    /// Rounded up, so as not to spin in the last millisecond.
    fn timeout_ms(&self) -> i32 {
        let Some(deadline) = self.deadline else { return -1 };
        let rest = deadline.saturating_duration_since(Instant::now());
        rest.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX)
    }

    /// The host has closed, or sent something.
    fn hear(&mut self, events: Events) -> Result<(), Failure> {
        if events & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        if events & libc::POLLIN != 0 {
            let bytes = match self.host.file().read(&mut self.scratch) {
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if is_transient(&error) => return Ok(()),
                result => result.map_err(broken)?,
            };
            self.incoming.extend_from_slice(&self.scratch[..bytes]);
            while let Some(message) = take_message(&mut self.incoming).map_err(broken)? {
                self.obey(message)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, message: HostMessage) -> Result<(), Failure> {
        match message {
            HostMessage::Data(data) if self.takes_input() => self.input.extend(data),
            HostMessage::End if self.takes_input() => {
                if self.program.terminal.is_some() {
                    self.input.push(END_OF_TRANSMISSION);
                }
                self.input_ended = true;
                self.feed();
            }
            HostMessage::Data(_) | HostMessage::End => {}
            HostMessage::Resize(size) => match &self.program.terminal {
                Some(terminal) => terminal::resize(terminal, size)
                    .map_err(|error| os("resizing the terminal", error))?,
                None => return Err(Failure::Invalid("the program has no terminal".into())),
            },
            HostMessage::Signal(signal) => self
                .program
                .child
                .signal(signal)
                .map_err(|error| os(format!("sending signal {signal}"), error))?,
            HostMessage::Open { .. } => {
                return Err(Failure::Invalid("one connection, one request".into()));
            }
        }
        Ok(())
    }

    /// Whether there is somebody to read input: not all programs do, to their end.
    fn takes_input(&self) -> bool {
        self.program.input.is_some() && !self.input_ended
    }

    /// Gives the program what input it takes now.
    fn feed(&mut self) {
        let Some(file) = &mut self.program.input else { return };
        while !self.input.is_empty() {
            match file.write(&self.input) {
                Ok(bytes) => drop(self.input.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has closed its input.
                Err(_) => {
                    self.input.clear();
                    self.input_ended = true;
                }
            }
        }
        if self.input_ended {
            self.program.input = None;
        }
    }

    fn take_output(&mut self, index: usize) -> Result<(), Failure> {
        // The last may just have been given up.
        let Some(Output { file, message }) = self.program.outputs.get_mut(index) else {
            return Ok(());
        };
        match file.read(&mut self.scratch) {
            Err(error) if is_transient(&error) => {}
            // The end; of a terminal, an error.
            Ok(0) | Err(_) => drop(self.program.outputs.remove(index)),
            Ok(bytes) => {
                let message = message(self.scratch[..bytes].to_vec());
                self.outgoing.extend(agent::encode(&message).map_err(broken)?);
                self.left_after_end(bytes);
            }
        }
        Ok(())
    }

    /// `bytes` of output came.
    fn left_after_end(&mut self, bytes: usize) {
        if self.exit.is_some() {
            self.left_behind = self.left_behind.saturating_sub(bytes);
            self.deadline = Some(Instant::now() + SILENCE);
        }
        if self.left_behind == 0 {
            self.program.outputs.clear();
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        let exit = self.program.child.exit();
        self.exit = Some(exit.map_err(|error| os("waiting for a program", error))?);
        self.deadline = Some(Instant::now() + SILENCE);
        Ok(())
    }

    /// Sends the host what it takes now.
    fn send(&mut self) -> Result<(), Failure> {
        while !self.outgoing.is_empty() {
            match self.host.file().write(&self.outgoing) {
                Ok(bytes) => drop(self.outgoing.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.exit {
            None => {
                self.timed_out = true;
                // SIGKILL exists, so this can't fail.
                let _sent = self.program.child.signal(libc::SIGKILL);
            }
            // While the host takes none, there is no silence.
            Some(_) if !self.outgoing.is_empty() => self.deadline = Some(now + SILENCE),
            Some(_) => self.program.outputs.clear(),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Takes the first message off `bytes`. None when it is not all there.
fn take_message(bytes: &mut Vec<u8>) -> io::Result<Option<HostMessage>> {
    let Some(announced) = bytes.first_chunk() else { return Ok(None) };
    let end = 4 + agent::message_length(*announced)?;
    let Some(message) = bytes.get(4..end) else { return Ok(None) };
    let message = agent::decode(message)?;
    bytes.drain(..end);
    Ok(Some(message))
}
