//! The emulated machine: QEMU, and what comes out of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// What the emulated processor has. XSAVE and all that stands on it are left out: QEMU's TCG
/// does not intercept XSETBV, so `kvm_amd` in it never learns of a guest's XCR0, and
/// gives it another one back after the next exit.
const PROCESSOR: &str = "max,+svm,+npt,-xsave,-avx,-avx2,-f16c,-fma,-pku";
/// Its RAM, MiB. It has one processor: with two, on threads of their own, TCG was seen to corrupt
/// the host's kernel under load (KVM patches its code, and enters guests on both at once).
const MEMORY: &str = "4096";

/// What its kernel is told. With a timer for one event at a time, the whole machine was seen to fall
/// asleep for good, as if such an event was lost; a periodic tick comes again.
const COMMAND_LINE: &str =
    "console=ttyS0 reboot=t panic=-1 mitigations=off nohz=off highres=off quiet";

/// Where the output of the command goes.
pub struct Output<'a> {
    /// Standard output.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error.
    pub err: &'a mut (dyn Write + Send),
}

/// A running virtual host; taken down when dropped.
pub struct Machine {
    qemu: Child,
    ports: PathBuf,
    streams: [UnixStream; 3],
}

impl Machine {
    /// Starts it; its kernel's messages go to `log`.
    pub fn start(kernel: &Path, initramfs: &Path, disk: &Path, log: &Path) -> Result<Self> {
        let ports = std::env::temp_dir().join(format!("tine-vhost-{}", std::process::id()));
        fs::create_dir_all(&ports).context("no place for sockets")?;
        let listeners = ["out", "err", "exit"].map(|name| UnixListener::bind(ports.join(name)));
        let console = File::create(log).context("the console log can't be made")?;
        // It must not outlive this program, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", PROCESSOR])
            .args(["-smp", "1", "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", COMMAND_LINE])
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,readonly=on", disk.display()))
            .args(["-device", "virtio-serial-pci"]);
        for (number, name) in [(1, "out"), (2, "err"), (3, "exit")] {
            let socket = format!("socket,id={name},path={}", ports.join(name).display());
            command.args(["-chardev", &socket]);
            let port = format!("virtserialport,chardev={name},nr={number}");
            command.args(["-device", &port]);
        }
        let mut qemu = match command.stdin(Stdio::null()).stdout(console).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("setpriv is missing; install it: apt-get install util-linux")
            }
            qemu => qemu.context("QEMU can't be started")?,
        };
        let mut streams = Vec::with_capacity(3);
        for listener in listeners {
            let accepted = listener.and_then(|listener| accept(&listener, &mut qemu));
            streams.push(accepted.context("QEMU did not come up")?);
        }
        let streams = streams.try_into().ok().context("three ports")?;
        Ok(Self { qemu, ports, streams })
    }

    /// Passes the command's output on until it ends. Returns its exit code.
    pub fn wait(mut self, output: Output<'_>) -> Result<u8> {
        let [out, err, exit] = &self.streams;
        let said = std::thread::scope(|scope| {
            let out = scope.spawn(|| relay(out, output.out));
            let err = scope.spawn(|| relay(err, output.err));
            let mut line = String::new();
            BufReader::new(exit).read_line(&mut line)?;
            for relay in [out, err] {
                relay.join().map_err(|_| anyhow::anyhow!("a relay panicked"))??;
            }
            anyhow::Ok(line)
        })?;
        let status = self.qemu.wait().context("QEMU was lost")?;
        match said.trim().parse() {
            Ok(code) => Ok(code),
            Err(_) => bail!("the command in it did not end before QEMU did ({status})"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let killed = self.qemu.kill().and_then(|()| self.qemu.wait().map(drop));
        if let Err(error) = killed.and_then(|()| fs::remove_dir_all(&self.ports)) {
            eprintln!("xtask: cleaning up after QEMU: {error}");
        }
    }
}

/// The connection that QEMU makes, unless it ends before.
fn accept(listener: &UnixListener, qemu: &mut Child) -> std::io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if let Some(status) = qemu.try_wait()? {
                    return Err(std::io::Error::other(format!("QEMU ended: {status}")));
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

fn relay(mut from: &UnixStream, to: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            bytes => {
                to.write_all(&buffer[..bytes])?;
                to.flush()?;
            }
        }
    }
}
