//! The first process of a Linux guest. With `--unix PATH` it serves on a Unix socket instead,
//! beside others: so tests of the protocol need no machine.

use std::convert::Infallible;
use std::env;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::{panic, thread};

use nix::sys::prctl::set_child_subreaper;
use tine_agent::children::Children;
use tine_agent::listener::{self, Listener};
use tine_agent::{boot, log, power, service};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        be_first();
    }
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let error = match arguments.as_slice() {
        [option, path] if option == "--unix" => {
            let Err(error) = serve_beside_others(Path::new(path));
            format!("{}: {error}", path.display())
        }
        _ => "usage: tine-agent --unix PATH".into(),
    };
    eprintln!("tine-agent: {error}");
    ExitCode::FAILURE
}

/// Makes the machine and serves its host. The kernel panics when the first process ends, so
/// it never does.
fn be_first() -> ! {
    panic::set_hook(Box::new(|panic| give_up(panic)));
    boot::boot().unwrap_or_else(|error| give_up(error));
    let Err(error) = serve_machine();
    give_up(format_args!("the host can't be served: {error}"))
}

fn serve_machine() -> io::Result<Infallible> {
    let children = Children::start()?;
    power::watch_button();
    let listener = Listener::vsock()?;
    if let Err(error) = listener::ready() {
        log::error(format_args!("the host was not told that the agent is up: {error}"));
    }
    service::serve(&listener, &children)
}

fn serve_beside_others(path: &Path) -> io::Result<Infallible> {
    // Orphans come here then, as they come to the first process of a machine.
    set_child_subreaper(true)?;
    let children = Children::start()?;
    service::serve(&Listener::unix(path)?, &children)
}

/// There is no way on.
fn give_up(why: impl Display) -> ! {
    log::error(format_args!("fatal: {why}"));
    loop {
        let error = power::switch_off();
        log::error(format_args!("the machine can't be switched off: {error}"));
        thread::park();
    }
}
