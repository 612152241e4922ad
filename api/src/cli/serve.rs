//! `tine serve`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tine::registry::OVERCOMMIT;
use tine::server::{Limits, Listen, ServeOptions, Server};
use tine_cell::confine::Confinement;
use tine_cell::{NurseryConfig, meminfo};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::interrupt::Interrupt;
use super::notify::{READY, STOPPING, notify};
use super::{DEFAULT_ADDRESS, default_state, default_token_file};

/// Options of `tine serve`. The token file is `--token-file`, made when absent.
#[derive(Args, Debug)]
pub struct Serve {
    /// Where to listen: IP:PORT, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    listen: Listen,
    /// Allow listening where other machines reach it
    #[arg(long)]
    allow_remote: bool,
    /// Most sandboxes at once
    #[arg(long, value_name = "N")]
    max_sandboxes: Option<usize>,
    /// Most guest RAM of all sandboxes together, MiB [default: what is available at the start]
    #[arg(long, value_name = "MIB")]
    max_memory: Option<u64>,
    /// Count the RAM of copy-on-write clones divided by RATIO, as they share what they do not
    /// write; eager copies count in full. With 1, all clones may write all of theirs
    #[arg(long, value_name = "RATIO", default_value_t = OVERCOMMIT, value_parser = ratio)]
    overcommit: f64,
    /// Largest request body, bytes
    #[arg(long, value_name = "BYTES")]
    max_body: Option<usize>,
    /// Most operations on sandboxes at once; others wait
    #[arg(long, value_name = "N")]
    max_operations: Option<usize>,
    /// Most operations that wait for their turn; more are refused with status 429
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// Where images are kept [default: $TINE_IMAGES, else ~/.cache/tine/images]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Keep all sandboxes in the daemon's own process, not confined
    #[arg(long, conflicts_with_all = ["allow_unconfined", "dormant"])]
    in_process: bool,
    /// Let sandboxes' processes share the host's namespaces, where they can't have their own
    #[arg(long)]
    allow_unconfined: bool,
    /// Clones made ahead, for each snapshot or image that was asked for lately
    #[arg(long, value_name = "N", default_value_t = NurseryConfig::default().dormant)]
    dormant: usize,
    /// Where records of what exists are kept, so that a daemon knows what the one before it lost
    /// [default: one for each --listen in $XDG_STATE_HOME/tine, else ~/.local/state/tine]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Append who did what to this file, one JSON object a line; also in the log, as target audit
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Seconds that requests under way have to end when the daemon stops; a second signal cuts
    /// them short
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain: u32,
    /// Write the log as JSON. TINE_LOG sets its level, e.g. TINE_LOG=debug
    #[arg(long)]
    log_json: bool,
}

impl Serve {
    /// Serves until Ctrl-C or SIGTERM.
    pub fn run(self, token_file: Option<PathBuf>) -> Result<ExitCode> {
        self.start_log()?;
        let token_file = token_file
            .or_else(default_token_file)
            .context("there is no home directory for a token; name a file with --token-file")?;
        let state = self.state.clone().or_else(|| self.usual_state());
        if state.is_none() {
            tracing::warn!("no records are kept, nor snapshots: --state names a place for them");
        }
        let mut limits = Limits::for_host(memory("MemAvailable")?);
        limits.sandbox_ram_bytes = memory("MemTotal")?;
        limits.overcommit = self.overcommit;
        limits.sandboxes = self.max_sandboxes.unwrap_or(limits.sandboxes);
        limits.body_bytes = self.max_body.unwrap_or(limits.body_bytes);
        limits.operations = self.max_operations.unwrap_or(limits.operations);
        limits.queue = self.queue.unwrap_or(limits.queue);
        if let Some(mib) = self.max_memory {
            limits.ram_bytes = mib.saturating_mul(1 << 20);
        }
        let options = ServeOptions {
            images: match self.images {
                Some(images) => Some(images),
                None => tine_images::Store::default_path().ok(),
            },
            state,
            audit_log: self.audit_log,
            drain: Duration::from_secs(self.drain.into()),
            limits,
            allow_remote: self.allow_remote,
            cells: (!self.in_process).then(|| NurseryConfig {
                confinement: Confinement {
                    namespaces: !self.allow_unconfined,
                    ..Confinement::default()
                },
                dormant: self.dormant,
                ..NurseryConfig::default()
            }),
            ..ServeOptions::new(self.listen, token_file)
        };
        let runtime = tokio::runtime::Runtime::new().context("the runtime could not be started")?;
        runtime.block_on(async {
            let mut interrupt = Interrupt::listen()?;
            let server = Server::bind(&options).await?;
            let at = server.listens_at()?;
            tracing::info!(listen = %at, token_file = %options.token_file.display(), "serving");
            notify(READY);
            let (first, shutdown) = oneshot::channel();
            let (second, at_once) = oneshot::channel();
            tokio::spawn(async move {
                for signal in [first, second] {
                    interrupt.wait().await;
                    tracing::info!("stopping");
                    notify(STOPPING);
                    // If nobody listens it has stopped.
                    let _stopped = signal.send(());
                }
            });
            let report = server.run_until(told(shutdown), told(at_once)).await?;
            match report.killed.len() {
                0 => tracing::info!("stopped; nothing ran any more"),
                count => tracing::info!(
                    count,
                    ids = report.killed.join(","),
                    "stopped; killed what still ran"
                ),
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Where the state of a daemon that listens there is: each has its own. None for one whose
    /// port is not known before, as no later daemon could tell that it follows it.
    fn usual_state(&self) -> Option<PathBuf> {
        if let Listen::Tcp(address) = &self.listen
            && address.port() == 0
        {
            return None;
        }
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name: String = self.listen.to_string().chars().map(letter).collect();
        Some(default_state()?.join(name))
    }

    fn start_log(&self) -> Result<()> {
        let level = std::env::var("TINE_LOG").unwrap_or_else(|_| "info".to_owned());
        let filter = EnvFilter::try_new(&level)
            .with_context(|| format!("TINE_LOG={level} is no level like info or tine=debug"))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.log_json {
            true => log.json().init(),
            false => log.init(),
        }
        Ok(())
    }
}

/// Ends when the other end of `signal` says so.
async fn told(signal: oneshot::Receiver<()>) {
    if signal.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What /proc/meminfo says of `what`, bytes.
fn memory(what: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo can't be read")?;
    meminfo::field(&text, what).with_context(|| format!("/proc/meminfo has no {what}"))
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (1.0..=1e6).contains(&ratio) => Ok(ratio),
        _ => Err("a ratio is a number from 1 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_one_at_least() {
        assert_eq!((ratio("1"), ratio("2.5")), (Ok(1.0), Ok(2.5)));
        for wrong in ["0.9", "-2", "NaN", "inf", "1e7", "much"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
    }
}
