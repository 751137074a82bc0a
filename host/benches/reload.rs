//! How long it takes from a library that is in its place to an answer of it, and what each build that is kept costs.
//!
//! `cargo bench --bench reload`. The host runs in this process with `auto_reload`; a library is renamed into its place, and a
//! client on a keep-alive connection asks until the new build answers. What is measured holds the time in which the host waits
//! for the file to settle, which is printed beside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use extension_host::config::Config;
use extension_host::extension::copies::Copies;
use extension_host::extension::watcher;
use extension_host::identity::Authority;
use extension_host::platform::env::Env;
use extension_host::platform::listen;
use extension_host::platform::log::{self, Level, Style};
use extension_host::server::{self, Host, Supervision};

/// How many reloads are measured, of each library.
const RELOADS: usize = 200;
/// Those at the beginning count for nothing: caches are cold.
const WARM_UP: usize = 10;
const MARK: &[u8] = b"MARK:000000";

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    // `cargo test` runs benches, too, to see that they work.
    let reloads = if env::args().any(|argument| argument == "--bench") {
        RELOADS
    } else {
        3
    };
    log::init(Level::Warn, Style::Pretty);
    let folder = env::temp_dir().join(format!("extension-host-bench-{}", std::process::id()));
    let done = measure(&folder, reloads);
    // It is in the system's folder for temporary files.
    let _ = fs::remove_dir_all(&folder);
    done
}

fn measure(folder: &Path, reloads: usize) -> Result<(), Failed> {
    let small = compile(folder)?;
    // A library of the size that one in Rust has: what follows the end of an ELF file is not looked at, but copied.
    let mut large = small.clone();
    large.resize(512 << 10, 0);
    let dist = folder.join("extensions/directus-extension-generation/dist");
    fs::create_dir_all(&dist)?;
    fs::write(
        dist.join("../extension.toml"),
        "[env]\noptional = [\"NEEDED\"]\n",
    )?;
    let library = dist.join("lib.so");
    fs::write(&library, numbered(&small, 0))?;
    let address = serve(folder.join("extensions"))?;
    let mut client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    println!(
        "the host waits {} ms for a file to settle, which the times hold",
        watcher::SETTLED.as_millis()
    );
    let mut number = 0;
    for (name, bytes) in [("16 kB", &small), ("512 kB", &large)] {
        let before = resident_kb();
        let mut times = Vec::new();
        for _ in 0..reloads + WARM_UP {
            number += 1;
            times.push(reload(
                &library,
                &numbered(bytes, number),
                number,
                &mut client,
            )?);
        }
        // Old builds are destroyed meanwhile; what stays is what is kept.
        thread::sleep(Duration::from_millis(200));
        let kept_kb = resident_kb().saturating_sub(before) as f64 / times.len() as f64;
        let mut times = times.split_off(WARM_UP);
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
        println!(
            "a library of {name:>6}: saved to served in {:.1} ms (median), {:.1} ms (fastest), {:.1} ms (90 of 100), {:.1} ms (slowest) of {}; memory of each build that is kept: {kept_kb:.0} kB",
            at(50),
            at(0),
            at(90),
            at(100),
            times.len()
        );
    }
    Ok(())
}

/// Puts a library in its place and asks until it answers.
fn reload(
    library: &Path,
    bytes: &[u8],
    number: usize,
    client: &mut TcpStream,
) -> Result<Duration, Failed> {
    let beside = library.with_file_name(".incoming");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, library)?;
    let saved = Instant::now();
    let wanted = format!("{number:06} ");
    loop {
        client.write_all(b"GET /generation/now HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 4096];
        let count = client.read(&mut answer)?;
        if String::from_utf8_lossy(&answer[..count]).contains(&wanted) {
            return Ok(saved.elapsed());
        }
        if saved.elapsed() > Duration::from_secs(10) {
            return Err(format!("build {number} is not served").into());
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn serve(extensions_path: PathBuf) -> Result<SocketAddr, Failed> {
    let mut config = Config {
        host: "127.0.0.1".to_owned(),
        port: 0,
        workers: 2,
        auto_reload: true,
        extensions_path,
        // The program that runs here is not the host's.
        trial_load: false,
        ..Config::default()
    };
    config.log.access = false;
    let authority = Authority::without_store(&config.auth)?;
    let host = Host::new(
        config,
        Env::default(),
        authority,
        Copies::temporary,
        Supervision::default(),
    )?;
    host.load_extensions()?;
    let listeners = listen::open(&host.config.host, host.config.port)?;
    let (listening, listens) = mpsc::channel();
    thread::spawn(move || {
        // Err: nobody listens any more.
        let tell = |addresses: &[SocketAddr]| {
            let _ = listening.send(addresses[0]);
        };
        let done = actix_rt::System::new().block_on(server::run(host, listeners, tell));
        done.map_err(|error| eprintln!("{error}"))
    });
    Ok(listens.recv()?)
}

/// The fixture of the tests that tells which build of it answers.
fn compile(folder: &Path) -> Result<Vec<u8>, Failed> {
    fs::create_dir_all(folder)?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = folder.join("lib.so");
    let done = Command::new("cc")
        .args("-std=c11 -O2 -fPIC -shared -s -I".split(' '))
        .arg(checkout.join("extension-api/include"))
        .arg(checkout.join("tests/fixtures/generation.c"))
        .arg("-o")
        .arg(&library)
        .status()?;
    if !done.success() {
        return Err("the fixture does not compile".into());
    }
    Ok(fs::read(library)?)
}

fn numbered(library: &[u8], number: usize) -> Vec<u8> {
    let mut library = library.to_vec();
    if let Some(at) = library
        .windows(MARK.len())
        .position(|window| window == MARK)
    {
        library[at + 5..at + MARK.len()].copy_from_slice(format!("{number:06}").as_bytes());
    }
    library
}

/// The memory that this process holds.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}
