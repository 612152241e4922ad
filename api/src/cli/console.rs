//! `tine console`: what a guest has printed.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::client::{Client, segment};
use super::{output, resolve};

/// Options of `tine console`.
#[derive(Args, Debug)]
pub struct Console {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// Go on printing as output comes, until the guest is gone
    #[arg(long, short)]
    follow: bool,
}

impl Console {
    /// Prints it.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let id = resolve::sandbox(client, &self.id)?;
        let query = if self.follow { "?follow=true" } else { "" };
        client.stream(&format!("/v1/sandboxes/{}/console{query}", segment(&id)), output::write)?;
        Ok(ExitCode::SUCCESS)
    }
}
