//! An endpoint as an author writes it, through the hooks, callbacks and completions of the boundary.
#![forbid(unsafe_code)]

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use extension_api::prelude::*;
use extension_api::testing::{App, Canned, Host};
use extension_api::{block_on, export_endpoint};
use serde_json::{Value, json};

struct Kitchen {
    ctx: Context,
    api: Base,
    dropped: Arc<AtomicUsize>,
    taken: Mutex<Option<Request>>,
}

static STOPPED: AtomicBool = AtomicBool::new(false);

impl Endpoint for Kitchen {
    const ID: &'static str = "kitchen";

    fn new(ctx: Context) -> Result<Self> {
        match ctx.env_or("START", "")? {
            "panics" => panic!("no more {}", "sugar"),
            "waits" => block_on(ctx.sleep(Duration::from_secs(1)))?,
            _ => {}
        }
        let api = ctx.base(ctx.env("API")?)?;
        Ok(Self {
            ctx,
            api,
            dropped: Arc::default(),
            taken: Mutex::default(),
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/hello", async |_: &Self, _| Ok(Response::text("hello")));
        router.get("/panic", Self::panic);
        router.get("/panic-later", Self::panic_later);
        router.get("/wait", Self::wait);
        router.get("/dropped", Self::dropped);
        router.get("/wait-in-vain", Self::wait_in_vain);
        router.get("/give-up-and-wait", Self::give_up_and_wait);
        router.get("/wait-for-ever", Self::wait_for_ever);
        router.get("/start-anew", Self::start_anew);
        router.get("/thread", Self::thread);
        router.get("/yield", Self::yield_often);
        router.get("/sleep", Self::sleep);
        router.get("/take", Self::take);
        router.get("/taken", Self::taken);
        router.get("/stream/:kind", Self::stream);
        router.get("/who", Self::who);
        router.get("/inject", async |_: &Self, _| {
            Ok(Response::text("x").header("x-a", "1\r\nset-cookie: a=b"))
        });
        router.get("/inject-stream", async |_: &Self, req: Request| {
            let response =
                Response::stream(async move |mut out| out.write(req.url().to_owned()).await);
            Ok(response.header("x-a", "1\r\nset-cookie: a=b"))
        });
        router.get("/fail", async |_: &Self, _| {
            Err("x".parse::<u8>().unwrap_err().into())
        });
        router.get("/users/:id/*", Self::user);
        router.post("/echo", Self::echo);
        router.post("/text", async |_: &Self, req| {
            Ok(Response::text(req.text().await?))
        });
        router.post("/json", async |_: &Self, req| {
            Ok(Response::json(&req.json::<Value>().await?))
        });
        router.post("/twice", Self::twice);
        router.post("/upload", Self::upload);
        router.any("/proxy/*", Self::proxy);
        router.post("/form", Self::form);
        router.get("/fetched", Self::fetched);
        router.blocking("POST", "/blocking", Self::blocking);
        router.blocking("GET", "/blocking-panic", |_, _| panic!("boom"));
    }

    fn stop(&self) {
        STOPPED.store(true, Ordering::SeqCst);
    }
}

/// Counts how often it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Kitchen {
    async fn panic(&self, _: Request) -> Result<Response> {
        panic!("the soup is {}", "cold")
    }

    async fn panic_later(&self, _: Request) -> Result<Response> {
        let _counted = Counted(Arc::clone(&self.dropped));
        self.ctx.sleep(Duration::from_secs(1)).await?;
        panic!("the soup is cold")
    }

    async fn wait(&self, _: Request) -> Result<Response> {
        let _counted = Counted(Arc::clone(&self.dropped));
        self.ctx.fetch(&self.api, "/slow").send().await?;
        Ok(Response::empty())
    }

    async fn wait_in_vain(&self, _: Request) -> Result<Response> {
        let _counted = Counted(Arc::clone(&self.dropped));
        let _ = self.ctx.sleep(Duration::from_secs(1)).await;
        self.dropped.fetch_add(100, Ordering::SeqCst);
        Ok(Response::text("it went on"))
    }

    async fn give_up_and_wait(&self, req: Request) -> Result<Response> {
        let mut sleep = Box::pin(self.ctx.sleep(Duration::from_secs(1)));
        poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_ready())).await;
        drop(sleep);
        self.wait_for_ever(req).await
    }

    async fn start_anew(&self, _: Request) -> Result<Response> {
        poll_fn(|cx| {
            self.dropped.fetch_add(1, Ordering::SeqCst);
            let mut sleep = pin!(self.ctx.sleep(Duration::from_secs(1)));
            sleep.as_mut().poll(cx).map_ok(|()| Response::empty())
        })
        .await
    }

    async fn wait_for_ever(&self, _: Request) -> Result<Response> {
        let _counted = Counted(Arc::clone(&self.dropped));
        std::future::pending().await
    }

    async fn dropped(&self, _: Request) -> Result<Response> {
        Ok(Response::text(
            self.dropped.load(Ordering::SeqCst).to_string(),
        ))
    }

    async fn thread(&self, _: Request) -> Result<Response> {
        let shared = Arc::new(Mutex::new((false, None::<Waker>)));
        let theirs = Arc::clone(&shared);
        let (registered, wait) = mpsc::channel();
        let worker = thread::spawn(move || {
            wait.recv().expect("the handler waits");
            let mut shared = theirs.lock().expect("nobody panics");
            shared.0 = true;
            let waker = shared.1.take();
            drop(shared);
            waker.into_iter().for_each(Waker::wake);
        });
        poll_fn(|cx| {
            let mut shared = shared.lock().expect("nobody panics");
            if shared.0 {
                return Poll::Ready(());
            }
            shared.1 = Some(cx.waker().clone());
            registered.send(()).expect("the thread waits");
            Poll::Pending
        })
        .await;
        worker.join().expect("the thread ends");
        Ok(Response::text("woken"))
    }

    async fn yield_often(&self, _: Request) -> Result<Response> {
        for _ in 0..100 {
            let mut first = true;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut first, false) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
        }
        Ok(Response::text("done"))
    }

    async fn sleep(&self, _: Request) -> Result<Response> {
        let mut long = pin!(self.ctx.sleep(Duration::from_secs(3600)));
        let mut short = pin!(self.ctx.sleep(Duration::from_secs(1)));
        let first = poll_fn(|cx| {
            if long.as_mut().poll(cx).is_ready() {
                return Poll::Ready("long");
            }
            short.as_mut().poll(cx).map(|_| "short")
        })
        .await;
        Ok(Response::text(first))
    }

    async fn take(&self, req: Request) -> Result<Response> {
        *self.taken.lock().expect("nobody panics") = Some(req);
        Ok(Response::text("never seen"))
    }

    async fn taken(&self, _: Request) -> Result<Response> {
        let taken = self.taken.lock().expect("nobody panics").take();
        let taken = taken.ok_or_else(|| Error::not_found("Nothing is taken."))?;
        Ok(Response::text(taken.url().to_owned()))
    }

    async fn stream(&self, req: Request) -> Result<Response> {
        let (ctx, dropped) = (self.ctx.clone(), Counted(Arc::clone(&self.dropped)));
        let response = Response::stream(async move |mut out| {
            let _dropped = dropped;
            for chunk in ["one ", "two ", "three"] {
                out.write(chunk).await?;
                ctx.sleep(Duration::from_secs(1)).await?;
            }
            match &*req.param("kind") {
                "whole" => Ok(()),
                "fails" => Err(Error::internal("out of ink")),
                "waits" => pending().await,
                _ => panic!("out of paper"),
            }
        });
        Ok(response.header("content-type", "text/plain"))
    }

    async fn who(&self, req: Request) -> Result<Response> {
        let who = req.accountability();
        let roles: Vec<_> = who.roles().collect();
        let cookies: Vec<_> = req
            .headers()
            .get_all("Cookie")
            .filter_map(|header| header.text())
            .collect();
        let pairs: Vec<_> = req.query_pairs().collect();
        let first = req.header("COOKIE");
        Ok(Response::json(&json!({
            "user": who.user(), "role": who.role(), "roles": roles, "admin": who.admin(), "cookies": cookies, "first": first,
            "pairs": pairs, "method": req.method(), "url": req.url(), "path": req.path(), "query": req.query(),
        })))
    }

    async fn user(&self, req: Request) -> Result<Response> {
        Ok(Response::json(&[req.param("id"), req.param("*")]))
    }

    async fn echo(&self, req: Request) -> Result<Response> {
        Ok(Response::stream(async move |mut out| {
            while let Some(chunk) = req.chunk().await? {
                out.write(chunk).await?;
            }
            Ok(())
        }))
    }

    async fn twice(&self, req: Request) -> Result<Response> {
        req.bytes().await?;
        req.bytes().await.map(Response::bytes)
    }

    async fn upload(&self, req: Request) -> Result<Response> {
        let fails = req.query() == "fails";
        let call = self
            .ctx
            .fetch(&self.api, "/upload")
            .method("PUT")
            .stream_body(async |mut out| {
                while let Some(chunk) = req.chunk().await? {
                    out.write(chunk).await?;
                }
                if fails {
                    Err(Error::internal("out of ink"))
                } else {
                    Ok(())
                }
            });
        Ok(Response::relay(call.send().await?))
    }

    async fn proxy(&self, req: Request) -> Result<Response> {
        let fetched = req
            .forward(&self.api)
            .header("authorization", "Basic s3cret")
            .remove_header("x-secret")
            .send()
            .await?;
        Ok(Response::relay(fetched)
            .set_header("x-via", "kitchen")
            .remove_header("server"))
    }

    async fn form(&self, req: Request) -> Result<Response> {
        let call = req.forward(&self.api).form(&req.json().await?);
        Ok(Response::relay(call.send().await?))
    }

    async fn fetched(&self, _: Request) -> Result<Response> {
        let fetched = self
            .ctx
            .fetch(&self.api, "/data")
            .header("accept", "text/*")
            .timeout(Duration::from_secs(5))
            .send()
            .await?;
        let (status, kind) = (
            fetched.status(),
            fetched.header("Content-Type").map(str::to_owned),
        );
        self.ctx.log(Level::Info, "fetched", &[("status", &status)]);
        Ok(Response::json(
            &json!({"status": status, "type": kind, "text": fetched.text().await?}),
        ))
    }

    fn blocking(&self, req: Request) -> Result<Response> {
        let upper = String::from_utf8_lossy(req.body()).to_uppercase();
        let fetched = block_on(self.ctx.fetch(&self.api, "/data").send())?;
        let text = block_on(fetched.text())?;
        let body = block_on(req.text())?;
        Ok(Response::text(format!("{upper} {body} {text}")))
    }
}

export_endpoint!(Kitchen);

fn host() -> Host {
    Host::new().env("API", "https://api.example/v1")
}

fn app() -> App {
    host().mount::<Kitchen>().expect("the kitchen is mounted")
}

fn with_upstream(answer: impl Fn() -> Canned + Send + Sync + 'static) -> App {
    host()
        .upstream(move |_| answer())
        .mount::<Kitchen>()
        .expect("the kitchen is mounted")
}

fn error_code(answer: &extension_api::testing::Answer) -> String {
    answer.json::<Value>()["errors"][0]["extensions"]["code"]
        .as_str()
        .expect("an error has a code")
        .to_owned()
}

// ---- A request ----

#[test]
fn a_handler_answers() {
    let answer = app().request("GET", "/hello").send();
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
}

#[test]
fn a_request_shows_its_head_and_who_asks() {
    let app = app();
    let request = app
        .request("GET", "/who?a=1&b=%20+&a=")
        .user("ada")
        .role("chef");
    let answer = request
        .header("cookie", "x=1")
        .header("cookie", "y=2")
        .send()
        .json::<Value>();
    let expected = json!({
        "user": "ada", "role": "chef", "roles": ["chef"], "admin": false, "cookies": ["x=1", "y=2"], "first": "x=1",
        "pairs": [["a", "1"], ["b", "  "], ["a", ""]], "method": "GET",
        "url": "/who?a=1&b=%20+&a=", "path": "/who", "query": "a=1&b=%20+&a=",
    });
    assert_eq!(answer, expected);
}

#[test]
fn parameters_are_decoded() {
    let answer = app().request("GET", "/users/a%2Fb+c/d%20e/f").send();
    assert_eq!(answer.json::<Value>(), json!(["a/b+c", "d e/f"]));
}

#[test]
fn a_body_is_read_whole() {
    let app = app();
    assert_eq!(app.request("POST", "/text").send().text(), "");
    assert_eq!(
        app.request("POST", "/text").body("one").send().text(),
        "one"
    );
    assert_eq!(
        app.request("POST", "/text")
            .chunks(["one ", "two ", "three"])
            .send()
            .text(),
        "one two three"
    );
    let answer = app.request("POST", "/twice").body("one").send();
    assert_eq!(answer.status, 500);
}

#[test]
fn a_bad_body_is_the_callers_fault() {
    let app = app();
    for request in [
        app.request("POST", "/json").body("{"),
        app.request("POST", "/text").body([0xff]),
        app.request("POST", "/text").chunks(["one"]).broken_off(),
        app.request("POST", "/form").body("[1]"),
    ] {
        let answer = request.send();
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (400, "INVALID_PAYLOAD")
        );
    }
    assert!(app.calls().is_empty());
}

#[test]
fn an_error_is_a_500_that_only_administrators_read() {
    let app = app();
    let answer = app.request("GET", "/fail").user("ada").send();
    assert_eq!(
        (answer.status, error_code(&answer).as_str()),
        (500, "INTERNAL_SERVER_ERROR")
    );
    assert!(!answer.text().contains("digit"));
    assert!(
        app.request("GET", "/fail")
            .admin()
            .send()
            .text()
            .contains("invalid digit")
    );
    assert!(app.log()[0].contains("invalid digit"), "{:?}", app.log());
}

#[test]
fn a_header_cannot_begin_another_line() {
    for path in ["/inject", "/inject-stream"] {
        let app = app();
        let answer = app.request("GET", path).send();
        assert_eq!(answer.status, 500, "{path}");
        assert_eq!(answer.header("set-cookie"), None, "{path}");
        let log = app.log().join("\n");
        assert!(log.contains("x-a"), "{path}: {log}");
    }
}

// ---- Panics ----

#[test]
fn a_panic_is_a_500_and_the_next_request_is_served() {
    let app = app();
    for path in ["/panic", "/panic-later", "/blocking-panic"] {
        let answer = app.request("GET", path).send();
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (500, "INTERNAL_SERVER_ERROR"),
            "{path}"
        );
    }
    assert_eq!(app.request("GET", "/hello").send().text(), "hello");
    assert_eq!(app.request("GET", "/dropped").send().text(), "1");
    let log = app.log().join("\n");
    assert!(
        log.contains("panicked at extension-api/tests/endpoint.rs:"),
        "{log}"
    );
    assert!(
        log.contains(": the soup is cold") && log.contains(": boom"),
        "{log}"
    );
}

#[test]
fn an_endpoint_that_fails_to_start_says_why() {
    let refusal = |host: Host| host.mount::<Kitchen>().err().expect("the kitchen refuses");
    assert_eq!(refusal(Host::new()), "environment variable API is not set");
    assert!(
        refusal(Host::new().env("API", "ftp://x")).starts_with("base URL \"ftp://x\" is not valid")
    );
    let panic = refusal(host().env("START", "panics"));
    assert!(
        panic.starts_with("panicked at extension-api/tests/endpoint.rs:")
            && panic.ends_with(": no more sugar"),
        "{panic}"
    );
}

// ---- Waiting ----

#[test]
fn a_client_that_leaves_has_the_future_dropped_and_the_call_cancelled() {
    let app = with_upstream(Canned::never);
    app.request("GET", "/wait").leave();
    assert_eq!(app.calls().len(), 1);
    assert_eq!(app.request("GET", "/dropped").send().text(), "1");
    app.request("GET", "/stream/waits").leave();
    assert_eq!(app.request("GET", "/dropped").send().text(), "2");
}

#[test]
fn another_thread_wakes_a_handler() {
    assert_eq!(app().request("GET", "/thread").send().text(), "woken");
}

#[test]
fn a_future_that_wakes_itself_goes_on() {
    assert_eq!(app().request("GET", "/yield").send().text(), "done");
}

#[test]
fn whatever_a_future_waits_for_it_is_dropped_when_the_client_leaves() {
    let app = app();
    for (count, path) in ["/wait-in-vain", "/wait-for-ever", "/give-up-and-wait"]
        .into_iter()
        .enumerate()
    {
        app.request("GET", path).leave();
        let dropped = app.request("GET", "/dropped").send();
        assert_eq!(dropped.text(), (count + 1).to_string(), "{path}");
    }
}

#[test]
fn a_future_that_drops_what_it_has_started_is_not_polled_for_ever() {
    let app = app();
    app.request("GET", "/start-anew").leave();
    assert_eq!(app.request("GET", "/dropped").send().text(), "1");
}

#[test]
fn the_first_of_two_sleeps_wins() {
    assert_eq!(app().request("GET", "/sleep").send().text(), "short");
}

#[test]
fn new_may_wait() {
    assert!(host().env("START", "waits").mount::<Kitchen>().is_ok());
}

#[test]
fn a_request_that_outlives_its_handler_stays_readable() {
    let app = app();
    let (answered, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| answered.send(app.request("GET", "/take?it=1").send()));
        let taken = loop {
            let answer = app.request("GET", "/taken").send();
            if answer.status == 200 {
                break answer;
            }
            thread::yield_now();
        };
        assert_eq!(taken.text(), "/take?it=1");
        assert_eq!(
            wait.recv().expect("answered when it is dropped").status,
            500
        );
    });
    assert!(
        app.log()
            .iter()
            .any(|line| line.contains("the Request outlives its handler")),
        "{:?}",
        app.log()
    );
}

// ---- Streams ----

#[test]
fn a_streamed_answer_is_whole_or_broken_off() {
    let app = app();
    let answer = app.request("GET", "/stream/whole").send();
    assert_eq!(
        (answer.status, answer.text(), answer.broken_off),
        (200, "one two three", false)
    );
    for kind in ["fails", "panics"] {
        let answer = app.request("GET", &format!("/stream/{kind}")).send();
        assert_eq!(
            (answer.text(), answer.broken_off),
            ("one two three", true),
            "{kind}"
        );
    }
    let log = app.log().join("\n");
    assert!(
        log.contains("out of ink") && log.contains("out of paper"),
        "{log}"
    );
    assert_eq!(app.request("GET", "/dropped").send().text(), "3");
}

#[test]
fn a_request_is_read_while_it_is_answered() {
    let app = app();
    assert_eq!(
        app.request("POST", "/echo")
            .chunks(["one ", "two"])
            .send()
            .text(),
        "one two"
    );
    let answer = app
        .request("POST", "/echo")
        .chunks(["one "])
        .broken_off()
        .send();
    assert_eq!((answer.text(), answer.broken_off), ("one ", true));
}

// ---- Calls ----

#[test]
fn a_request_is_passed_on_and_its_answer_relayed() {
    let app = with_upstream(|| {
        Canned::text(201, "made")
            .header("server", "x")
            .header("x-more", "1")
    });
    let request = app.request("PATCH", "/proxy/a%2Fb?c=d+e").user("ada");
    let answer = request
        .header("x-secret", "1")
        .header("x-kept", "2")
        .header("connection", "close")
        .chunks(["a", "b"])
        .send();
    assert_eq!((answer.status, answer.text()), (201, "made"));
    assert_eq!(
        (
            answer.header("x-via"),
            answer.header("server"),
            answer.header("x-more")
        ),
        (Some("kitchen"), None, Some("1"))
    );
    let call = &app.calls()[0];
    assert_eq!((call.method.as_str(), call.text()), ("PATCH", "ab"));
    assert_eq!(call.url, "https://api.example/v1/proxy/a%2Fb?c=d+e");
    assert_eq!(
        call.headers,
        [
            ("x-kept".into(), "2".into()),
            ("authorization".into(), "Basic s3cret".to_owned())
        ]
    );
}

#[test]
fn json_is_passed_on_as_a_form() {
    let app = with_upstream(|| Canned::new(201));
    let answer = app
        .request("POST", "/form")
        .json(&json!({"To": "+1", "MediaUrl": ["a", "b"]}))
        .send();
    assert_eq!(answer.status, 201);
    let call = &app.calls()[0];
    assert_eq!(
        call.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let form = Form::from_encoded(call.text());
    assert_eq!(
        (form.get("To").as_deref(), form.pairs().count()),
        (Some("+1"), 3)
    );
}

#[test]
fn an_answer_can_be_read() {
    let app = with_upstream(|| Canned::text(404, "no ").chunk("such ").chunk("thing"));
    let answer = app.request("GET", "/fetched").send().json::<Value>();
    assert_eq!(
        answer,
        json!({"status": 404, "type": "text/plain", "text": "no such thing"})
    );
    assert_eq!(app.log(), ["info fetched status=404"]);
}

#[test]
fn an_upstream_that_fails_is_a_gateway_error() {
    let app = with_upstream(|| Canned::text(200, "half").broken_off());
    let answer = app.request("GET", "/fetched").send();
    assert_eq!(
        (answer.status, error_code(&answer).as_str()),
        (502, "BAD_GATEWAY")
    );
    for (error, status) in [
        (FetchError::Timeout(String::new()), 504),
        (FetchError::Tls("cert of 10.0.0.1".into()), 502),
    ] {
        let app = with_upstream(move || Canned::error(error.clone()));
        let answer = app.request("GET", "/fetched").send();
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains("10.0.0.1"));
    }
}

#[test]
fn a_body_is_streamed_to_an_upstream() {
    let app = with_upstream(|| Canned::new(200));
    assert_eq!(
        app.request("POST", "/upload")
            .chunks(["one ", "two"])
            .send()
            .status,
        200
    );
    assert_eq!(
        (app.calls()[0].method.as_str(), app.calls()[0].text()),
        ("PUT", "one two")
    );
    let answer = app
        .request("POST", "/upload?fails")
        .chunks(["one"])
        .admin()
        .send();
    assert_eq!((answer.status, app.calls().len()), (502, 1));
    assert!(app.log().join("").contains("out of ink"));
}

#[test]
fn a_blocking_handler_has_the_body_and_may_wait() {
    let app = with_upstream(|| Canned::text(200, "data"));
    assert_eq!(
        app.request("POST", "/blocking")
            .chunks(["one ", "two"])
            .send()
            .text(),
        "ONE TWO one two data"
    );
}

// ---- The end ----

#[test]
fn an_endpoint_is_stopped() {
    drop(app());
    assert!(STOPPED.load(Ordering::SeqCst));
}

#[test]
fn a_context_that_outlives_its_extension_has_no_effect() {
    static KEPT: Mutex<Option<Context>> = Mutex::new(None);

    struct Keeper;

    impl Endpoint for Keeper {
        fn new(ctx: Context) -> Result<Self> {
            ctx.env("API")?;
            *KEPT.lock().expect("nobody panics") = Some(ctx);
            Ok(Self)
        }

        fn routes(_: &mut Router<Self>) {}
    }

    drop(host().mount::<Keeper>().expect("the keeper is mounted"));
    let ctx = KEPT.lock().expect("nobody panics").take().expect("kept");
    assert_eq!(
        ctx.env("API").expect("a value once read is kept"),
        "https://api.example/v1"
    );
    assert!(ctx.env("OTHER").is_err() && ctx.base("https://api.example").is_err());
    assert!(block_on(ctx.sleep(Duration::from_secs(1))).is_err());
    ctx.info("nobody reads this");
}
