//! The command line of the host: arguments, settings, the command. An error is one sentence and an exit code.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use extension_host::boundary::CALLBACKS;
use extension_host::commands::accounts;
use extension_host::commands::backup;
use extension_host::commands::build;
use extension_host::commands::check::{self, subject};
use extension_host::commands::cli::{Cli, Command};
use extension_host::commands::demo::Demo;
use extension_host::commands::dev::Dev;
use extension_host::commands::list;
use extension_host::commands::new::{self, NewOptions};
use extension_host::config::{Config, read_settings};
use extension_host::extension::copies::Copies;
use extension_host::extension::trial;
use extension_host::identity::Authority;
use extension_host::platform::error_chain::error_chain;
use extension_host::platform::handover::{Handover, Link};
use extension_host::platform::listen::{self, Listeners};
use extension_host::platform::{log, process, threads};
use extension_host::runtime::{crash_page, fatal_signals};
use extension_host::server::{self, Ended, Host, ServeError, Supervision};
use extension_host::supervisor::{self, upgrade};
use rustix::process::Signal;

fn main() -> ExitCode {
    let code = match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            log::error(&error_chain(error.as_ref()), &[]);
            // Extensions may be loaded.
            process::end(process::FAILED)
        }
    };
    fatal_signals::mean_to_end();
    code
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
    if cli.command() == Command::Trial {
        trial::obey(&CALLBACKS)?;
        return Ok(ExitCode::SUCCESS);
    }
    if cli.is_supervised() {
        // Until it can tell what they mean, they must not end it: whatever has the program's name may have been told.
        for signal in [Signal::HUP, Signal::USR2] {
            process::ignore(signal.as_raw())?;
        }
    }
    let overrides = cli.overrides();
    let given = cli.is_supervised().then(Link::from_stdin).transpose()?;
    let settings = match &given {
        Some((_, handover)) => handover.opening.settings.clone(),
        None => read_settings(&overrides)?,
    };
    let (config, env) = Config::of(&settings, &overrides)?;
    log::init(config.log.level, config.log.style);
    if config.supervise
        && given.is_none()
        && let Command::Serve(_) | Command::Dev { .. } = cli.command()
    {
        let arguments = std::env::args_os().skip(1).collect();
        end(supervisor::run(&config, settings, overrides, arguments)?);
    }
    match cli.command() {
        Command::New { .. } | Command::Trial => Ok(ExitCode::SUCCESS),
        Command::Serve(_) => {
            let (supervision, listeners) = sockets(given, &config)?;
            // Before the store: a first start that fails must not have shown a password.
            let unreadable = |cause| ServeError::Extensions(config.extensions_path.clone(), cause);
            std::fs::read_dir(&config.extensions_path).map_err(unreadable)?;
            let authority = Authority::open(&config, supervision.is_first())?;
            let extensions = config.extensions_path.clone();
            let copies = || Copies::kept_for(&extensions);
            let host = Host::new(config, env, authority, copies, supervision)?;
            let ended = with_cleanup(host, |host| serve(host, listeners, || {}))?;
            end(ended.code())
        }
        Command::Demo(_) => {
            let demo = Demo::prepare(config)?;
            let ready = || println!("{}", demo.invitation());
            let listeners = listen::open(&demo.host.config.host, demo.host.config.port)?;
            let ended = with_cleanup(demo.host.clone(), |host| serve(host, listeners, ready))?;
            end(ended.code())
        }
        Command::List { json } => {
            let authority = Authority::without_store(&config.auth)?;
            let supervision = Supervision {
                quarantined: supervisor::quarantined(&config),
                ..Supervision::default()
            };
            let host = Host::new(config, env, authority, Copies::temporary, supervision)?;
            with_cleanup(host, |host| list::run(&host, json))?;
            end(process::DONE)
        }
        Command::Upgrade { json } => Ok(upgrade::run(&config, json)?),
        Command::User(command) => Ok(accounts::user(&config, command)?),
        Command::Role(command) => Ok(accounts::role(&config, command)?),
        Command::Token(command) => Ok(accounts::token(&config, command)?),
        Command::Backup { file, json } => Ok(backup::run(&config, &file, json)?),
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
        Command::CheckSubject { folder, stand_in } => subject::run(config, env, &folder, stand_in),
        Command::Dev { folders, .. } => {
            let (supervision, listeners) = sockets(given, &config)?;
            let mut dev = Dev::prepare(config, env, &folders, supervision)?;
            let ended = with_cleanup(dev.host.clone(), |host| {
                serve(host, listeners, || dev.watch())
            })?;
            drop(dev);
            end(ended.code())
        }
    }
}

/// Does the host's work, then stops the extensions and cleans up, whether or not it succeeded. This is not the host's `Drop`: the
/// contexts of extensions keep the host for as long as the process lives. What follows is the process's end by [`process::end`]: what
/// libraries have registered for its end could hang or crash it.
fn with_cleanup<R>(host: Arc<Host>, work: impl FnOnce(Arc<Host>) -> R) -> R {
    let done = work(host.clone());
    host.end();
    done
}

/// What a server listens on: what its supervisor hands over with what else there is to know, or else what it opens itself.
fn sockets(
    given: Option<(Link, Handover)>,
    config: &Config,
) -> Result<(Supervision, Listeners), Box<dyn std::error::Error>> {
    let Some((link, handover)) = given else {
        let listeners = listen::open(&config.host, config.port)?;
        return Ok((Supervision::default(), listeners));
    };
    // The name of the binary may have been that of an open file. Err: nothing depends on it.
    let _ = rustix::thread::set_name(c"extension-host");
    // Err: a page of its own does as well for everybody but the supervisor.
    let _ = crash_page::adopt(&handover.page);
    let link = Arc::new(link);
    obey_supervisor(link.clone())?;
    let supervision = Supervision {
        link: Some(link),
        quarantined: handover.opening.quarantined,
        occasion: handover.opening.occasion,
    };
    Ok((supervision, handover.listeners))
}

/// Has the server do what its supervisor says, and stop when that has gone: nobody else could tell it to.
fn obey_supervisor(link: Arc<Link>) -> io::Result<()> {
    let obey = move || {
        link.obey();
        log::error("the supervisor has gone; the server stops", &[]);
        // Err: it is stopping already.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
    };
    let thread = std::thread::Builder::new().name("supervisor".to_owned());
    thread.spawn(obey).map(drop)
}

/// Ends the process when its own work is done.
fn end(code: u8) -> ! {
    fatal_signals::mean_to_end();
    process::end(code)
}

fn serve(
    host: Arc<Host>,
    listeners: Listeners,
    ready: impl FnOnce(),
) -> Result<Ended, Box<dyn std::error::Error>> {
    let _ends = process::EndsWithThread;
    fatal_signals::install(host.link.is_some())?;
    log::write_in_background();
    threads::start()?;
    let listening = |addresses: &[std::net::SocketAddr]| {
        for address in addresses {
            log::info("listening", &[("address", address)]);
        }
        ready();
    };
    host.load_extensions()?;
    Ok(actix_rt::System::new().block_on(server::run(host, listeners, listening))?)
}
