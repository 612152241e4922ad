//! What makes a clone another machine than its parent.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_settime};
use tine_abi::agent::{Adopt, Failure};

use crate::failure::{on_file, os};
use crate::files::make_directory;
use crate::is_first;
use crate::replacement::Replacement;

const MACHINE_ID: &str = "/etc/machine-id";
const HOSTNAME: &str = "/etc/hostname";
/// Longest host name, bytes (sethostname(2)).
const LONGEST_HOSTNAME: usize = 64;
/// `RNDADDENTROPY` (random(4)): credits the bytes that it adds.
const ADD_ENTROPY: libc::Ioctl = nix::request_code_write!(b'R', 3, 2 * size_of::<libc::c_int>());
/// `RNDRESEEDCRNG` (random(4)): makes the generator use them at once.
const RESEED: libc::Ioctl = nix::request_code_none!(b'R', 7);

/// Takes on what `adopt` says, all of it. What it can't be is found before anything is done.
pub fn adopt(adopt: &Adopt) -> Result<(), Failure> {
    check(adopt)?;
    if !is_first() {
        let why = "only the agent of a machine adopts, not one that runs beside others";
        return Err(Failure::Invalid(why.into()));
    }
    set_clock(adopt.realtime_ns)?;
    add_entropy(&adopt.entropy)?;
    if let Some(name) = &adopt.hostname {
        set_hostname(name)?;
    }
    match &adopt.machine_id {
        Some(id) => {
            make_directory("/etc")?;
            write_etc(MACHINE_ID, id, Some(0o444))
        }
        None => Ok(()),
    }
}

fn check(adopt: &Adopt) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::Invalid(why.into()));
    if i64::try_from(adopt.realtime_ns).is_err() {
        return refuse("the time is later than Linux can tell");
    }
    if let Some(name) = &adopt.hostname {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > LONGEST_HOSTNAME || !printable {
            return refuse("a host name is 1 to 64 printable characters");
        }
    }
    let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match &adopt.machine_id {
        Some(id) if id.len() != 32 || !id.bytes().all(is_hexadecimal) => {
            refuse("a machine id is 32 lower-case hexadecimal digits")
        }
        _ => Ok(()),
    }
}

fn set_clock(realtime_ns: u64) -> Result<(), Failure> {
    // Checked before: this is far from the end.
    let now = TimeSpec::nanoseconds(realtime_ns as i64);
    clock_settime(ClockId::CLOCK_REALTIME, now).map_err(|error| os("setting the clock", error))
}

fn add_entropy(entropy: &[u8]) -> Result<(), Failure> {
    let failed = |error| os("adding entropy to /dev/urandom", error);
    let random = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/urandom")
        .map_err(failed)?;
    let pool = pool_info(entropy);
    // SAFETY: RNDADDENTROPY reads two numbers at the address, and as many bytes behind them
    // as the second says: `pool` is that long.
    let added = unsafe { libc::ioctl(random.as_fd().as_raw_fd(), ADD_ENTROPY, pool.as_ptr()) };
    Errno::result(added).map_err(|error| failed(error.into()))?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let reseeded = unsafe { libc::ioctl(random.as_fd().as_raw_fd(), RESEED) };
    Errno::result(reseeded)
        .map(drop)
        .map_err(|error| os("reseeding the random number generator", error))
}

/// `struct rand_pool_info` of linux/random.h: how many bits to credit, how many bytes there
/// are, and the bytes. Words, so that it is aligned as the kernel wants it.
fn pool_info(entropy: &[u8]) -> Vec<u32> {
    let bytes = entropy.len() as u32;
    let mut pool = vec![bytes.saturating_mul(8), bytes];
    pool.extend(entropy.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    }));
    pool
}

fn set_hostname(name: &str) -> Result<(), Failure> {
    nix::unistd::sethostname(name)
        .map_err(|error| os(format!("setting the host name {name}"), error))?;
    match fs::symlink_metadata(HOSTNAME) {
        Ok(_) => write_etc(HOSTNAME, name, None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(on_file("looking at", HOSTNAME, error)),
    }
}

fn write_etc(path: &str, line: &str, mode: Option<u32>) -> Result<(), Failure> {
    let mut file = Replacement::new(path, mode, None)?;
    file.write(format!("{line}\n").as_bytes())?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Adopt {
        Adopt {
            realtime_ns: 1_700_000_000_000_000_000,
            entropy: vec![1; 32],
            hostname: Some("clone-1".into()),
            machine_id: Some("0123456789abcdef0123456789abcdef".into()),
        }
    }

    #[test]
    fn what_a_machine_can_be_is_taken() {
        check(&sound()).unwrap();
        check(&Adopt { hostname: None, machine_id: None, ..sound() }).unwrap();
    }

    #[test]
    fn what_it_cannot_be_is_refused() {
        let names = ["", "a b", "a\n", &"a".repeat(65)];
        for name in names.map(String::from) {
            assert!(check(&Adopt { hostname: Some(name), ..sound() }).is_err());
        }
        let ids =
            ["", "0123", "0123456789ABCDEF0123456789abcdef", "g123456789abcdef0123456789abcdef"];
        for id in ids.map(String::from) {
            assert!(check(&Adopt { machine_id: Some(id), ..sound() }).is_err());
        }
        assert!(check(&Adopt { realtime_ns: u64::MAX, ..sound() }).is_err());
    }

    #[test]
    fn this_machine_is_left_as_it_is() {
        assert!(matches!(adopt(&sound()), Err(Failure::Invalid(_))));
    }

    #[test]
    fn entropy_has_its_bits_and_bytes_in_front() {
        assert_eq!(pool_info(&[]), [0, 0]);
        let pool = pool_info(&[1, 2, 3, 4, 5]);
        let words = [u32::from_ne_bytes([1, 2, 3, 4]), u32::from_ne_bytes([5, 0, 0, 0])];
        assert_eq!(pool, [40, 5, words[0], words[1]]);
    }
}
