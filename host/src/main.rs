//! The command line of the host: arguments, settings, what is asked for. An error is one sentence and an exit code.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use extension_host::cli::{Cli, Command};
use extension_host::config::Config;
use extension_host::demo::Demo;
use extension_host::registry::whole;
use extension_host::server::{self, Host};
use extension_host::{list, log};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            log::error(&whole(error.as_ref()), &[]);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (config, env) = Config::load(&cli.overrides())?;
    log::init(config.log.level, config.log.style);
    match cli.command() {
        Command::Serve(_) => serve(Host::new(config, env)?, || {}),
        Command::Demo(_) => {
            let demo = Demo::prepare(config)?;
            serve(demo.host.clone(), || println!("{}", demo.invitation()))
        }
        Command::List { json } => list::run(&Host::new(config, env)?, json),
    }
}

fn serve(host: Arc<Host>, ready: impl FnOnce()) -> Result<ExitCode, Box<dyn std::error::Error>> {
    host.load_extensions()?;
    let listening = |addresses: &[std::net::SocketAddr]| {
        for address in addresses {
            log::info("listening", &[("address", address)]);
        }
        ready();
    };
    actix_rt::System::new().block_on(server::run(host, listening))?;
    Ok(ExitCode::SUCCESS)
}
