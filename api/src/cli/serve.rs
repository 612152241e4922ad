//! `tine serve`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tine::server::{Limits, Listen, ServeOptions, Server};
use tine_cell::NurseryConfig;
use tine_cell::confine::Confinement;
use tracing_subscriber::EnvFilter;

use super::interrupt::Interrupt;
use super::{DEFAULT_ADDRESS, default_token_file, size};

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
    /// Most guest RAM of all sandboxes together, MiB [default: 64 times the host's memory]
    #[arg(long, value_name = "MIB")]
    max_memory: Option<u64>,
    /// Largest request body, bytes
    #[arg(long, value_name = "BYTES")]
    max_body: Option<usize>,
    /// Most operations on sandboxes at once; others wait
    #[arg(long, value_name = "N")]
    max_operations: Option<usize>,
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
        let mut limits = Limits::for_host(host_memory()?);
        limits.sandboxes = self.max_sandboxes.unwrap_or(limits.sandboxes);
        limits.body_bytes = self.max_body.unwrap_or(limits.body_bytes);
        limits.operations = self.max_operations.unwrap_or(limits.operations);
        if let Some(mib) = self.max_memory {
            limits.ram_bytes = mib.saturating_mul(1 << 20);
        }
        let options = ServeOptions {
            images: match self.images {
                Some(images) => Some(images),
                None => tine_images::Store::default_path().ok(),
            },
            listen: self.listen,
            token_file,
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
        };
        let runtime = tokio::runtime::Runtime::new().context("the runtime could not be started")?;
        runtime.block_on(async {
            let mut interrupt = Interrupt::listen()?;
            let server = Server::bind(&options).await?;
            let at = server.listens_at()?;
            tracing::info!(listen = %at, token_file = %options.token_file.display(), "serving");
            let shutdown = async move {
                interrupt.wait().await;
                tracing::info!("stopping");
            };
            let report = server.run(shutdown).await?;
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

/// Memory of this host, bytes.
fn host_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo can't be read")?;
    size::in_meminfo(&text, "MemTotal").context("/proc/meminfo has no MemTotal")
}
