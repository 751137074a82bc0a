//! The command line of the host: arguments, settings, the command. An error is one sentence and an exit code.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use extension_host::commands::accounts;
use extension_host::commands::build;
use extension_host::commands::check::{self, subject};
use extension_host::commands::cli::{Cli, Command};
use extension_host::commands::demo::Demo;
use extension_host::commands::dev::Dev;
use extension_host::commands::list;
use extension_host::commands::new::{self, NewOptions};
use extension_host::config::Config;
use extension_host::extension::copies::Copies;
use extension_host::identity::Authority;
use extension_host::platform::error_chain::error_chain;
use extension_host::platform::{log, process, threads};
use extension_host::server::{self, Ended, Host};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            log::error(&error_chain(error.as_ref()), &[]);
            // Extensions may be loaded.
            process::end(process::FAILED)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    if let Command::New {
        name,
        lang,
        dir,
        api,
    } = cli.command()
    {
        let options = NewOptions {
            name,
            lang,
            dir,
            api,
        };
        return Ok(new::run(options)?);
    }
    let (config, env) = Config::load(&cli.overrides())?;
    log::init(config.log.level, config.log.style);
    match cli.command() {
        Command::New { .. } => Ok(ExitCode::SUCCESS),
        Command::Serve(_) => {
            let authority = Authority::open(&config)?;
            let extensions = config.extensions_path.clone();
            let copies = || Copies::kept_for(&extensions);
            let host = Host::new(config, env, authority, copies)?;
            let ended = with_cleanup(host, |host| serve(host, || {}))?;
            process::end(ended.code())
        }
        Command::Demo(_) => {
            let demo = Demo::prepare(config)?;
            let ready = || println!("{}", demo.invitation());
            let ended = with_cleanup(demo.host.clone(), |host| serve(host, ready))?;
            process::end(ended.code())
        }
        Command::List { json } => {
            let authority = Authority::without_store(&config.auth)?;
            let host = Host::new(config, env, authority, Copies::temporary)?;
            with_cleanup(host, |host| list::run(&host, json))?;
            process::end(process::DONE)
        }
        Command::User(command) => Ok(accounts::user(&config, command)?),
        Command::Role(command) => Ok(accounts::role(&config, command)?),
        Command::Token(command) => Ok(accounts::token(&config, command)?),
        Command::Build { folders, json } => {
            Ok(build::run(&folders, &config.extensions_path, json)?)
        }
        Command::Check { folder, json, log } => {
            let files = cli.files();
            let folder = &folder;
            let options = check::CheckOptions {
                folder,
                json,
                log,
                files,
            };
            check::run(&options, &config, &env)
        }
        Command::CheckSubject {
            folder,
            control,
            stand_in,
        } => subject::run(config, env, &folder, &control, stand_in),
        Command::Dev { folders, .. } => {
            let mut dev = Dev::prepare(config, env, &folders)?;
            let ended = with_cleanup(dev.host.clone(), |host| serve(host, || dev.watch()))?;
            drop(dev);
            process::end(ended.code())
        }
    }
}

/// Does the host's work, then stops the extensions and cleans up, whether or not it succeeded. This is not the host's `Drop`: the
/// contexts of extensions keep the host for as long as the process lives.
fn with_cleanup<R>(host: Arc<Host>, work: impl FnOnce(Arc<Host>) -> R) -> R {
    let done = work(host.clone());
    host.end();
    done
}

fn serve(host: Arc<Host>, ready: impl FnOnce()) -> Result<Ended, Box<dyn std::error::Error>> {
    let _ends = process::EndsWithThread;
    log::write_in_background();
    threads::start()?;
    let listening = |addresses: &[std::net::SocketAddr]| {
        for address in addresses {
            log::info("listening", &[("address", address)]);
        }
        ready();
    };
    host.load_extensions()?;
    Ok(actix_rt::System::new().block_on(server::run(host, listening))?)
}
