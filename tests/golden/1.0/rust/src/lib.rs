//! The golden extension in Rust, for ABI 1.0: see ../../README.md. Each route uses a part of the SDK, and tests/golden.rs holds
//! every later host to the answers that the host of the day gave.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use extension_api::{block_on, prelude::*};

struct Golden {
    ctx: Context,
    upstream: Base,
    /// What was dropped: futures whose client has left.
    dropped: Arc<AtomicUsize>,
    /// A thread of our own, which `stop` ends.
    thread: Mutex<Option<JoinHandle<()>>>,
    is_over: Arc<AtomicBool>,
}

impl Endpoint for Golden {
    const ID: &'static str = "golden-rust";

    fn new(ctx: Context) -> Result<Self> {
        if ctx.env_opt("GOLDEN_REFUSES")?.is_some() {
            return Err(Error::internal("the golden extension was told to refuse"));
        }
        let upstream = ctx.base(ctx.env("GOLDEN_UPSTREAM")?)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (of_thread, waits) = (ctx.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            of_thread.debug("the golden thread begins");
            while !waits.load(Ordering::Acquire) {
                std::thread::park();
            }
            of_thread.info("the golden thread ends");
        });
        Ok(Self {
            ctx,
            upstream,
            dropped: Arc::default(),
            thread: Mutex::new(Some(thread)),
            is_over,
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/now", async |_: &Self, _| {
            Ok(Response::text("golden Rust").header("x-golden", "Rust 1.0"))
        });
        router.get("/created", Self::created);
        router.any("/head/:one/and/:two/*", Self::head);
        router.get("/who", Self::who);
        router.get("/headers", Self::headers);
        router.post("/chunks", Self::chunks);
        router.put("/json", Self::json);
        router.patch("/form", Self::form);
        router.blocking("POST", "/blocking", Self::blocking);
        router.get("/error", async |_: &Self, _| {
            Err(Error::new(418, "GOLDEN_TEAPOT", "I am a golden teapot.").cause("it is short and stout"))
        });
        router.get("/panic", async |_: &Self, _| panic!("a golden handler fell over"));
        router.get("/panic-later", Self::panic_later);
        router.get("/log", Self::log);
        router.post("/echo", Self::echo);
        router.get("/truncated", Self::truncated);
        router.get("/later", Self::later);
        router.get("/never", Self::never);
        router.get("/dropped", async |golden: &Self, _| {
            Ok(Response::text(golden.dropped.load(Ordering::Acquire).to_string()))
        });
        router.get("/relay", Self::relay);
        router.any("/forward/*", async |golden: &Self, req| {
            let call = req.forward(&golden.upstream).remove_header("x-private");
            Ok(Response::relay(call.send().await?))
        });
        router.post("/upload", Self::upload);
        router.get("/given-up", Self::given_up);
        router.get("/late", Self::late);
    }

    fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
        self.ctx.info("the golden extension in Rust stops");
    }
}

/// A second endpoint in the same library.
struct Too;

impl Endpoint for Too {
    const ID: &'static str = "golden-rust-too";

    fn new(_: Context) -> Result<Self> {
        Ok(Self)
    }

    fn routes(router: &mut Router<Self>) {
        router.delete("/:id", async |_: &Self, req| Ok(Response::text(req.param("id").into_owned())));
    }
}

export_endpoint!(Golden, Too);

impl Golden {
    /// What the context says of variables and bases.
    async fn created(&self, _: Request) -> Result<Response> {
        let mut page = String::new();
        for name in ["GOLDEN_ABSENT", "PATH"] {
            let _ = match self.ctx.env_opt(name) {
                Ok(value) => writeln!(page, "{name} {value:?}"),
                Err(error) => writeln!(page, "{name} {}", error.status()),
            };
        }
        for url in ["https://elsewhere.example", "ftp://elsewhere.example"] {
            let _ = writeln!(page, "{url} {}", self.ctx.base(url).is_err());
        }
        Ok(Response::text(page))
    }

    async fn head(&self, req: Request) -> Result<Response> {
        let mut page = String::new();
        let _ = writeln!(page, "{} {}", req.method(), req.url());
        let _ = writeln!(page, "{} ? {}", req.path(), req.query());
        for (name, value) in req.query_pairs() {
            let _ = writeln!(page, "query {name}={value}");
        }
        for name in ["one", "two", "*"] {
            let _ = writeln!(page, "param {name}={}", req.param(name));
        }
        let _ = writeln!(page, "peer {}", !req.peer().is_empty());
        let _ = writeln!(page, "id {}", req.id());
        let _ = writeln!(page, "deadline {:?}", req.deadline());
        let _ = writeln!(page, "body {:?} json {}", req.body_length(), req.is_json());
        Ok(Response::text(page))
    }

    async fn who(&self, req: Request) -> Result<Response> {
        let who = req.accountability();
        let roles: Vec<_> = who.roles().collect();
        Ok(Response::text(format!(
            "user {:?}\nrole {:?}\nroles {roles:?}\nip {:?}\nuser_agent {:?}\norigin {:?}\nsession {:?}\nadmin {} app {}\n",
            who.user(),
            who.role(),
            who.ip(),
            who.user_agent(),
            who.origin(),
            who.session(),
            who.admin(),
            who.app(),
        )))
    }

    async fn headers(&self, req: Request) -> Result<Response> {
        let mut page = String::new();
        for header in req.headers().iter().filter(|header| header.name().starts_with("x-")) {
            let _ = writeln!(page, "{}={:?}", header.name(), header.text());
        }
        let twice: Vec<_> = req.headers().get_all("X-Twice").filter_map(|header| header.text()).collect();
        let _ = writeln!(page, "{twice:?} {:?} {:?}", req.header("x-TWICE"), req.header("x-absent"));
        Ok(Response::text(page))
    }

    async fn chunks(&self, req: Request) -> Result<Response> {
        let mut length = 0;
        while let Some(chunk) = req.chunk().await? {
            length += chunk.len();
        }
        Ok(Response::text(length.to_string()).status(201))
    }

    async fn json(&self, req: Request) -> Result<Response> {
        let numbers: Vec<u32> = req.json().await?;
        Ok(Response::json(&numbers.iter().sum::<u32>()))
    }

    async fn form(&self, req: Request) -> Result<Response> {
        let form = req.form().await?;
        let pairs: Vec<_> = form.pairs().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(Response::text(pairs.join("\n")))
    }

    /// On a thread of the pool: waits, and calls out, as blocking code does.
    fn blocking(&self, req: Request) -> Result<Response> {
        block_on(self.ctx.sleep(Duration::from_millis(1)))?;
        let answer = block_on(async { self.ctx.fetch(&self.upstream, "/blocking").send().await?.text().await })?;
        Ok(Response::text(format!("{} and {answer}", String::from_utf8_lossy(req.body()))))
    }

    async fn panic_later(&self, _: Request) -> Result<Response> {
        self.ctx.sleep(Duration::from_millis(1)).await?;
        panic!("a golden handler fell over later")
    }

    async fn log(&self, _: Request) -> Result<Response> {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            self.ctx.log(level, "a golden line", &[("fact", &"of Rust")]);
        }
        Ok(Response::empty())
    }

    async fn echo(&self, req: Request) -> Result<Response> {
        Ok(Response::stream(async move |mut out| {
            while let Some(chunk) = req.chunk().await? {
                out.write(chunk).await?;
            }
            Ok(())
        }))
    }

    async fn truncated(&self, _: Request) -> Result<Response> {
        Ok(Response::stream(async |mut out| {
            out.write("the beginning").await?;
            Err(Error::internal("a golden producer gave up"))
        }))
    }

    async fn later(&self, _: Request) -> Result<Response> {
        self.ctx.sleep(Duration::from_millis(5)).await?;
        Ok(Response::text("slept"))
    }

    /// Waits until its client leaves.
    async fn never(&self, _: Request) -> Result<Response> {
        struct Guard(Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::AcqRel);
            }
        }
        let _guard = Guard(self.dropped.clone());
        self.ctx.info("golden request waits");
        std::future::pending().await
    }

    async fn relay(&self, _: Request) -> Result<Response> {
        let call = self.ctx.fetch(&self.upstream, "/relayed?by=Rust").method("PUT");
        let answer = call.header("x-key", "golden key").body("a constant body").send().await?;
        Ok(Response::relay(answer).status(203).set_header("x-edited", "by Rust").remove_header("x-removed"))
    }

    async fn upload(&self, req: Request) -> Result<Response> {
        let call = self.ctx.fetch(&self.upstream, "/uploaded").method("POST").timeout(Duration::from_secs(60));
        let call = call.stream_body(async |mut out| {
            out.write("one").await?;
            while let Some(chunk) = req.chunk().await? {
                out.write(chunk).await?;
            }
            Ok(())
        });
        let answer = call.send().await?;
        let mut page = format!("{} {:?}\n", answer.status(), answer.body_length());
        for header in answer.headers().iter() {
            let _ = writeln!(page, "{}={:?}", header.name(), header.text());
        }
        let _ = writeln!(page, "{:?}", answer.header("X-Twice"));
        page.push_str(&answer.text().await?);
        Ok(Response::text(page))
    }

    async fn given_up(&self, _: Request) -> Result<Response> {
        let answer = self.ctx.fetch(&self.upstream, "/given-up").send().await?;
        let status = answer.status();
        drop(answer);
        Ok(Response::text(format!("given up {status}")))
    }

    async fn late(&self, _: Request) -> Result<Response> {
        let call = self.ctx.fetch(&self.upstream, "/late").first_byte_timeout(Duration::from_millis(50));
        match call.send().await {
            Err(FetchError::Timeout(_)) => Ok(Response::text("late")),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(Response::text("in time")),
        }
    }
}
