//! What the steps of a request cost inside the host, connection and kernel left out: `cargo bench -p extension-host --bench
//! request`. The extensions are those of `bench/`, built by this when they are not. After the times, the heap allocations of
//! one request of each kind are printed, which are the same on each run.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{fs, thread};

use actix_http::Request;
use actix_http::body::MessageBody as _;
use actix_http::test::TestRequest;
use criterion::Criterion;
use extension_host::config::Config;
use extension_host::extension::copies::Copies;
use extension_host::identity::Authority;
use extension_host::platform::env::Env;
use extension_host::runtime::ffi_out;
use extension_host::server::dispatch;
use extension_host::server::server_worker::ServerWorker;
use extension_host::server::{Host, Supervision};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What kinds of handlers there are, by their path.
const KINDS: [(&str, &str); 4] = [
    ("answers at once", "/bench/json"),
    ("awaits once", "/bench/await"),
    ("fetches", "/relay/x?y=z"),
    ("streams", "/bench/stream"),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let system = actix_rt::System::new();
    boundary(&mut criterion, &system);
    look_up(&mut criterion);
    snapshot(&mut criterion);
    criterion.final_summary();
}

/// A request from its head to the last byte of its answer, for each kind of handler.
fn boundary(criterion: &mut Criterion, system: &actix_rt::SystemRunner) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest =
        "[env]\nrequired = [\"BENCH_UPSTREAM\"]\n[fetch]\nallow = [\"$BENCH_UPSTREAM\"]\n";
    let upstream = upstream();
    let env = [("BENCH_UPSTREAM", upstream.as_str())];
    let host = host(folder.path(), "bench_handlers", manifest, &env);
    let worker = system.block_on(async { ServerWorker::start(&host) });
    let mut group = criterion.benchmark_group("boundary");
    for (kind, path) in KINDS {
        group.bench_function(kind, |bench| {
            bench.iter(|| system.block_on(answer(worker, request(path))))
        });
    }
    group.finish();
    for (kind, path) in KINDS {
        system.block_on(answer(worker, request(path)));
        const COUNT: u64 = 1_000;
        let requests: Vec<Request> = (0..COUNT).map(|_| request(path)).collect();
        let before = ALLOCATIONS.get();
        for request in requests {
            system.block_on(answer(worker, request));
        }
        // One of them is `block_on`'s own.
        let each = (ALLOCATIONS.get() - before) as f64 / COUNT as f64;
        println!("boundary/{kind}: {each:.2} allocations a request");
    }
}

/// From a path to the route that serves it, as many as there may be mounted.
fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look-up");
    for count in [1, 100, 10_000] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let manifest = "[env]\noptional = [\"BENCH_MOUNTS\"]\n";
        let text = count.to_string();
        let host = host(
            folder.path(),
            "bench_many",
            manifest,
            &[("BENCH_MOUNTS", &text)],
        );
        let id = format!("m{}", count / 2);
        let registry = host.catalog.registry.load();
        let method = actix_http::Method::GET;
        group.bench_function(format!("{count} mounted"), |bench| {
            bench.iter(|| {
                let mount = registry.find(std::hint::black_box(&id)).expect("a mount");
                std::hint::black_box(mount.endpoint().routes.find(&method, "/json"));
            })
        });
    }
    group.finish();
}

/// All headers of a request as the fields of the ABI, of which an extension that asks for all gets a list.
fn snapshot(criterion: &mut Criterion) {
    let mut request = TestRequest::default();
    for number in 0..15 {
        request.insert_header((format!("x-header-{number}"), "a value of usual length"));
    }
    let request = request.finish();
    criterion.bench_function("head snapshot, 15 headers", |bench| {
        bench.iter(|| ffi_out::fields(std::hint::black_box(&request.head().headers)))
    });
}

fn request(path: &str) -> Request {
    let mut request = TestRequest::with_uri(path);
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-language", "en-US,en;q=0.9,de;q=0.8"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("origin", "https://app.example.com"),
        ("referer", "https://app.example.com/content/messages"),
        ("cookie", "theme=dark; locale=en-US"),
    ] {
        request.insert_header((name, value));
    }
    let mut request = request.finish();
    request.head_mut().peer_addr = "127.0.0.1:50000".parse().ok();
    request
}

async fn answer(worker: &'static ServerWorker, request: Request) {
    let response = dispatch::serve(worker, request).await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let mut body = std::pin::pin!(response.into_body());
    while let Some(chunk) = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        chunk.expect("a chunk");
    }
}

fn host(folder: &Path, library: &str, manifest: &str, env: &[(&str, &str)]) -> Arc<Host> {
    let extension = folder.join("directus-extension-bench");
    fs::create_dir_all(extension.join("dist")).expect("a folder");
    fs::write(extension.join("extension.toml"), manifest).expect("a manifest");
    let built = built(library);
    let file = built.file_name().expect("a library has a name");
    fs::copy(&built, extension.join("dist").join(file)).expect("a library");
    let config = Config {
        extensions_path: folder.to_owned(),
        // The program that runs here is not the host's.
        trial_load: false,
        ..Config::default()
    };
    let authority = Authority::without_store(&config.auth).expect("an authority");
    let host = Host::new(
        config,
        Env::from_pairs(env.iter().copied()),
        authority,
        Copies::temporary,
        Supervision::default(),
    )
    .expect("a host");
    host.load_extensions().expect("extensions");
    host
}

/// The library of an extension in `bench/`, built where this benchmark was.
fn built(library: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a benchmark has a path");
    let profile = own.parent().and_then(Path::parent).expect("release/deps");
    let done = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "extension-host-bench",
            "--examples",
        ])
        .arg("--target-dir")
        .arg(profile.parent().expect("target/release"))
        .status()
        .expect("cargo runs");
    assert!(done.success(), "cargo could not build the extensions");
    profile.join("examples").join(format!("lib{library}.so"))
}

/// An upstream on a thread of its own, which answers whatever it is asked; its URL.
fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 4096]);
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    if stream.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    url
}
