//! The world around an extension that is checked: it starts the process that serves it, sends what a hostile world sends, and
//! asks what was noted.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Answer, Client};
use super::stand_in::{Mood, StandIn};
use super::subject::{Noted, Order, Served, Serving, Told};
use super::{Asked, CheckError};
use crate::platform::scratch::{self, Scratch};
use crate::runtime::contract_checks::{Breach, Rule};

/// How many routes are driven; those behind them are served by the same code, mostly.
const ROUTES_MAX: usize = 60;
/// Requests at once.
const CROWD: usize = 250;
/// How long the other process may take for what it is asked, before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long an answer may take: longer than the host lets any.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub rule: Rule,
    /// How it showed: the first few ways.
    pub seen: Vec<String>,
    /// How often it was seen.
    pub count: usize,
    /// What was done then.
    pub during: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Driven {
    /// Code and sentence, where the extension cannot be loaded.
    pub refused: Option<(String, String)>,
    /// What it serves.
    pub routes: Vec<Served>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Requests that were made.
    pub requests: usize,
    /// Outgoing calls that the extension made.
    pub calls: usize,
}

/// Drives the extension twice: once until it is replaced while the server serves on, once until the server stops.
///
/// # Errors
/// Where the other process cannot be run.
pub fn run(asked: &Asked<'_>) -> Result<Driven, CheckError> {
    let stand_in = StandIn::start().map_err(CheckError::Process)?;
    let mut driven = Driven::default();
    let subject = match Subject::start(asked, &stand_in)? {
        Ok(subject) => subject,
        Err(Refused::Said(code, message)) => {
            driven.refused = Some((code, message));
            return Ok(driven);
        }
        Err(Refused::Died(how)) => {
            driven.find(
                Rule::DoesNotCrash,
                how,
                "it was loaded, and `create` called",
            );
            return Ok(driven);
        }
    };
    driven.routes.clone_from(&subject.serving.routes);
    let lived = World {
        subject,
        stand_in: &stand_in,
        driven: &mut driven,
        slow: 0,
    }
    .drive();
    // What has crashed or hung once would do so again.
    if lived {
        let again = Subject::start(asked, &stand_in)?;
        if let Ok(subject) = again {
            let world = World {
                subject,
                stand_in: &stand_in,
                driven: &mut driven,
                slow: 0,
            };
            world.stop_in_flight();
        }
    }
    driven.calls = stand_in.calls();
    driven.findings.sort_by_key(|finding| finding.rule);
    Ok(driven)
}

impl Driven {
    fn find(&mut self, rule: Rule, seen: String, during: &str) {
        const SEEN_MAX: usize = 5;
        let known = self
            .findings
            .iter_mut()
            .find(|finding| finding.rule == rule);
        match known {
            Some(finding) => {
                finding.count += 1;
                if finding.seen.len() < SEEN_MAX && !finding.seen.contains(&seen) {
                    finding.seen.push(seen);
                }
            }
            None => self.findings.push(Finding {
                rule,
                seen: vec![seen],
                count: 1,
                during: during.to_owned(),
            }),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    Admin,
}

/// A body, well or badly made.
#[derive(Clone, Copy)]
enum Load {
    Empty,
    Json,
    Form,
    Garbage,
    Huge,
    TooLarge,
    Streamed,
    BrokenOff,
    OddHead,
}

impl Load {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Empty, "an empty body"),
        (Self::Json, "a JSON body"),
        (Self::Form, "a form"),
        (
            Self::Garbage,
            "a body of random bytes that calls itself JSON",
        ),
        (Self::Huge, "a body as large as may be"),
        (Self::TooLarge, "a body over the limit"),
        (Self::Streamed, "a streamed body"),
        (Self::BrokenOff, "a body that breaks off"),
        (Self::OddHead, "an odd query and odd headers"),
    ];
}

struct World<'a> {
    subject: Subject,
    stand_in: &'a StandIn,
    driven: &'a mut Driven,
    /// Answers of the route at hand that came late: what is slow is not waited for again and again.
    slow: usize,
}

impl World<'_> {
    /// The whole of it; false where the extension did not live to its end.
    fn drive(mut self) -> bool {
        let routes: Vec<Served> = self
            .subject
            .serving
            .routes
            .iter()
            .take(ROUTES_MAX)
            .cloned()
            .collect();
        self.stand_in.set(Mood::Well);
        let before: Vec<_> = routes.iter().map(|route| self.greet(route)).collect();
        if !self.settle("each route was asked once") {
            return false;
        }
        for route in &routes {
            self.slow = 0;
            if !self.bodies(route)
                || !self.upstreams(route)
                || !self.leavers(route)
                || !self.crowd(route)
            {
                return false;
            }
        }
        self.stand_in.set(Mood::Well);
        for (route, before) in routes.iter().zip(before) {
            let after = self.greet(route);
            self.compare(route, before, after);
        }
        if !self.settle("each route was asked once more") {
            return false;
        }
        self.replace_in_flight(&routes)
    }

    /// Asks a route in all innocence, as nobody and as the administrator.
    fn greet(&mut self, route: &Served) -> [Answer; 2] {
        self.slow = 0;
        [Caller::Nobody, Caller::Admin].map(|caller| self.ask(route, caller, Load::Empty))
    }

    fn compare(&mut self, route: &Served, before: [Answer; 2], after: [Answer; 2]) {
        for (before, after) in before.into_iter().zip(after) {
            let was_well = matches!(before, Answer::Status(status) if status < 500);
            let is_well = matches!(after, Answer::Status(status) if status < 500);
            if was_well && !is_well {
                let told = |answer| match answer {
                    Answer::Status(status) => status.to_string(),
                    Answer::Nothing => "nothing".to_owned(),
                };
                self.driven.find(
                    Rule::ServesOn,
                    format!(
                        "it answered {} at first and {} at the end",
                        told(before),
                        told(after)
                    ),
                    &format!("{} was asked again", name(route)),
                );
            }
        }
    }

    fn bodies(&mut self, route: &Served) -> bool {
        self.stand_in.set(Mood::Well);
        for (load, text) in Load::ALL {
            for caller in [Caller::Nobody, Caller::Admin] {
                self.ask(route, caller, load);
            }
            if !self.settle(&format!("{} was asked with {text}", name(route))) {
                return false;
            }
        }
        true
    }

    fn upstreams(&mut self, route: &Served) -> bool {
        let moods = [
            (Mood::Failing, "answered 500"),
            (Mood::BreakingOff, "broke off its answer"),
            (Mood::Garbled, "answered what is no HTTP"),
        ];
        for (mood, text) in moods {
            self.stand_in.set(mood);
            self.ask(route, Caller::Admin, Load::Json);
            if !self.settle(&format!(
                "{} was asked and its upstream {text}",
                name(route)
            )) {
                return false;
            }
        }
        true
    }

    fn leavers(&mut self, route: &Served) -> bool {
        for (mood, text) in [(Mood::Well, ""), (Mood::Silent, ", its upstream silent")] {
            self.stand_in.set(mood);
            for wait_ms in [0, 1, 30] {
                for load in [Load::Empty, Load::Streamed, Load::BrokenOff] {
                    self.leave(route, load, Duration::from_millis(wait_ms));
                }
            }
            if !self.settle(&format!(
                "clients of {} left before the answer{text}",
                name(route)
            )) {
                return false;
            }
        }
        self.stand_in.set(Mood::Well);
        for load in [Load::Empty, Load::Json] {
            if let Some(mut client) = self.send(route, Caller::Admin, load) {
                client.taste();
            }
        }
        self.settle(&format!(
            "clients of {} left during the answer",
            name(route)
        ))
    }

    fn crowd(&mut self, route: &Served) -> bool {
        self.stand_in.set(Mood::Well);
        let mut clients: Vec<_> = (0..CROWD)
            .filter_map(|number| {
                let load = if number % 2 == 0 {
                    Load::Empty
                } else {
                    Load::Json
                };
                self.send(route, Caller::Admin, load)
            })
            .collect();
        for (number, client) in clients.iter_mut().enumerate() {
            // Each third leaves.
            if number % 3 != 0 && client.answer() == Answer::Nothing {
                break;
            }
        }
        drop(clients);
        self.settle(&format!("{CROWD} clients asked {} at once", name(route)))
    }

    /// Takes the extension out while requests are in flight and the server serves on.
    fn replace_in_flight(mut self, routes: &[Served]) -> bool {
        let clients = self.fly(routes);
        self.subject.order(Order::Replace);
        thread::sleep(Duration::from_millis(100));
        drop(clients);
        self.end("it was replaced with requests in flight")
    }

    /// Stops the server while requests are in flight.
    fn stop_in_flight(mut self) {
        let routes: Vec<Served> = self
            .subject
            .serving
            .routes
            .iter()
            .take(ROUTES_MAX)
            .cloned()
            .collect();
        let clients = self.fly(&routes);
        self.subject.order(Order::Stop);
        self.end("the host was stopped with requests in flight");
        drop(clients);
    }

    fn fly(&mut self, routes: &[Served]) -> Vec<Client> {
        self.stand_in.set(Mood::Silent);
        let mut clients = Vec::new();
        for route in routes {
            for load in [Load::Empty, Load::Json, Load::BrokenOff, Load::Empty] {
                clients.extend(self.send(route, Caller::Admin, load));
            }
        }
        // What was sent has arrived, and is being worked on.
        thread::sleep(Duration::from_millis(50));
        clients
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, route: &Served, caller: Caller, load: Load) -> Answer {
        const SLOW: Duration = Duration::from_secs(1);
        const SLOW_MAX: usize = 2;
        let Some(mut client) = self.send(route, caller, load) else {
            return Answer::Nothing;
        };
        if matches!(load, Load::BrokenOff) {
            client.half_close();
        }
        if self.slow > SLOW_MAX {
            thread::sleep(Duration::from_millis(30));
            return Answer::Nothing;
        }
        let began = Instant::now();
        let answer = client.answer();
        self.slow += usize::from(began.elapsed() > SLOW);
        answer
    }

    fn leave(&mut self, route: &Served, load: Load, wait: Duration) {
        let client = self.send(route, Caller::Admin, load);
        thread::sleep(wait);
        drop(client);
    }

    fn send(&mut self, route: &Served, caller: Caller, load: Load) -> Option<Client> {
        let mut client = Client::open(self.subject.serving.address, ANSWER_WITHIN).ok()?;
        self.driven.requests += 1;
        for part in request(&self.subject.serving, route, caller, load) {
            if !client.send(&part) {
                break;
            }
        }
        Some(client)
    }

    /// Asks what was noted; false where the extension does not live any more.
    fn settle(&mut self, during: &str) -> bool {
        self.subject.order(Order::Settle);
        match self.subject.told() {
            Some(Told::Noted(noted)) => {
                self.note(noted, during);
                true
            }
            _ => {
                self.died(during);
                false
            }
        }
    }

    /// Waits for the last word, and for the end.
    fn end(mut self, during: &str) -> bool {
        match self.subject.told() {
            Some(Told::Noted(noted)) => self.note(noted, during),
            _ => {
                self.died(during);
                return false;
            }
        }
        match self.subject.ended() {
            Some(status) if status.success() => true,
            Some(status) => {
                let seen = self.subject.last_words(&how(status));
                self.driven.find(
                    Rule::DoesNotCrash,
                    seen,
                    &format!("{during}, at the end of the process"),
                );
                false
            }
            None => true,
        }
    }

    fn note(&mut self, noted: Noted, during: &str) {
        for Breach { rule, how } in noted.breaches {
            self.driven.find(rule, how, during);
        }
        if noted.requests > 0 {
            let seen = match noted.requests {
                1 => "a request was still open long after its client had left".to_owned(),
                count => {
                    format!("{count} requests were still open long after their clients had left")
                }
            };
            self.driven.find(Rule::FinishesRequests, seen, during);
        }
    }

    fn died(&mut self, during: &str) {
        let (rule, seen) = match self.subject.ended() {
            Some(status) => (Rule::DoesNotCrash, self.subject.last_words(&how(status))),
            None => {
                self.subject.kill();
                (
                    Rule::DoesNotBlock,
                    format!("nothing moved for {} s", PATIENCE.as_secs()),
                )
            }
        };
        self.driven.find(rule, seen, during);
    }
}

/// A route, for people.
fn name(route: &Served) -> String {
    format!(
        "{} /{}{}",
        route.method.as_deref().unwrap_or("*"),
        route.id,
        route.pattern
    )
}

/// How a process ended, for people.
fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = match signal {
                4 => "SIGILL",
                6 => "SIGABRT",
                7 => "SIGBUS",
                8 => "SIGFPE",
                9 => "SIGKILL",
                11 => "SIGSEGV",
                _ => "a signal",
            };
            format!("the process was ended by {name} ({signal})")
        }
        None => format!(
            "the process ended itself with exit code {}",
            status.code().unwrap_or_default()
        ),
    }
}

/// A request in the parts in which it is sent.
fn request(serving: &Serving, route: &Served, caller: Caller, load: Load) -> Vec<Vec<u8>> {
    let path: String = route
        .pattern
        .split('/')
        .skip(1)
        .map(|segment| match segment {
            "*" => "/a%2Fb/..%2f/c".to_owned(),
            segment if segment.starts_with(':') => "/1".to_owned(),
            segment => format!("/{segment}"),
        })
        .collect();
    let method = match (route.method.as_deref(), load) {
        (Some(method), _) => method,
        (None, Load::Empty | Load::OddHead) => "GET",
        (None, _) => "POST",
    };
    let query = match load {
        Load::OddHead => format!(
            "?a=%00%ff&a=%zz&=&{}=1&b[]=[]&q={}",
            "k".repeat(200),
            "%F0%9F".repeat(500)
        ),
        _ => "?limit=1".to_owned(),
    };
    let mut head = format!(
        "{method} /{}{path}{query} HTTP/1.1\r\nHost: localhost\r\n",
        route.id
    )
    .into_bytes();
    let mut line = |bytes: &[u8]| {
        head.extend_from_slice(bytes);
        head.extend_from_slice(b"\r\n");
    };
    if caller == Caller::Admin {
        line(format!("Authorization: Bearer {}", serving.token).as_bytes());
    }
    let json = br#"{"To":"+15005550009","name":"x","list":[1,2,{"a":null}],"deep":{"a":{"b":["\u0000",1e308]}}}"#;
    let (kind, body): (&str, Vec<u8>) = match load {
        Load::Empty => ("", Vec::new()),
        Load::Json => ("application/json", json.to_vec()),
        Load::Form => (
            "application/x-www-form-urlencoded",
            b"To=%2B1500&a=%zz&a=&=x&&%ff=%00".to_vec(),
        ),
        Load::Garbage => (
            "application/json",
            (0..4096_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        Load::Huge => (
            "application/json",
            vec![b'['; serving.body_bytes_max.min(8 << 20) as usize],
        ),
        Load::TooLarge => {
            line(
                format!(
                    "Content-Length: {}",
                    serving.body_bytes_max.saturating_add(1)
                )
                .as_bytes(),
            );
            ("text/plain", Vec::new())
        }
        Load::Streamed => {
            line(b"Transfer-Encoding: chunked");
            line(b"Content-Type: application/json");
            line(b"");
            let mut parts = vec![head];
            for chunk in json.chunks(7) {
                let mut part = format!("{:x}\r\n", chunk.len()).into_bytes();
                part.extend_from_slice(chunk);
                part.extend_from_slice(b"\r\n");
                parts.push(part);
            }
            parts.push(b"0\r\n\r\n".to_vec());
            return parts;
        }
        Load::BrokenOff => {
            line(b"Content-Length: 1000");
            ("application/json", b"{\"a\":".to_vec())
        }
        Load::OddHead => {
            line(b"X-Not-Text: \xff\xfe\x80");
            line(b"Accept: ,,;;q=x");
            line(b"Cookie: =;;a=\"");
            line(b"If-None-Match: *");
            line(b"Range: bytes=-0-,x");
            line(format!("X-Long: {}", "x".repeat(8000)).as_bytes());
            ("", Vec::new())
        }
    };
    if !kind.is_empty() {
        line(format!("Content-Type: {kind}").as_bytes());
    }
    if !matches!(load, Load::TooLarge | Load::BrokenOff) && (!body.is_empty() || method == "POST") {
        line(format!("Content-Length: {}", body.len()).as_bytes());
    }
    line(b"");
    vec![head, body]
}

/// The process that serves the extension.
struct Subject {
    child: Child,
    orders: UnixStream,
    reports: BufReader<UnixStream>,
    serving: Serving,
    /// The end of what it wrote to stderr.
    tail: Arc<Mutex<VecDeque<String>>>,
}

enum Refused {
    /// Code and sentence.
    Said(String, String),
    /// How it ended.
    Died(String),
}

impl Subject {
    fn start(asked: &Asked<'_>, stand_in: &StandIn) -> Result<Result<Self, Refused>, CheckError> {
        let control = Control::listen().map_err(CheckError::Process)?;
        let program = std::env::current_exe().map_err(CheckError::Process)?;
        let mut child = Command::new(program)
            .args(&asked.files)
            .arg("check-subject")
            .arg(asked.folder)
            .arg("--control")
            .arg(&control.path)
            .args(["--stand-in", &stand_in.address.to_string()])
            .stdin(Stdio::null())
            // What the library prints is no part of the report.
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(CheckError::Process)?;
        let tail = tail(child.stderr.take(), asked.log);
        let Some(orders) = control.accept(&mut child).map_err(CheckError::Process)? else {
            let status = child.wait().map_err(CheckError::Process)?;
            // It has said why on stderr.
            let words = last_words(&tail, &how(status));
            return Err(CheckError::Lost(format!("did not come up: {words}")));
        };
        let reports = orders.try_clone().map_err(CheckError::Process)?;
        reports
            .set_read_timeout(Some(PATIENCE))
            .map_err(CheckError::Process)?;
        let mut reports = BufReader::new(reports);
        match told(&mut reports) {
            Some(Told::Serving(serving)) => Ok(Ok(Self {
                child,
                orders,
                reports,
                serving,
                tail,
            })),
            Some(Told::Refused { code, message }) => {
                let _ = child.wait();
                Ok(Err(Refused::Said(code, message)))
            }
            _ => {
                let how = match wait(&mut child, Duration::from_secs(2)) {
                    Some(status) => how(status),
                    None => {
                        let _ = child.kill();
                        let _ = child.wait();
                        format!("`create` did not return within {} s", PATIENCE.as_secs())
                    }
                };
                Ok(Err(Refused::Died(last_words(&tail, &how))))
            }
        }
    }

    fn order(&mut self, order: Order) {
        if let Ok(mut line) = serde_json::to_vec(&order) {
            line.push(b'\n');
            // That it has gone is seen when its report is missing.
            let _ = self.orders.write_all(&line);
        }
    }

    fn told(&mut self) -> Option<Told> {
        told(&mut self.reports)
    }

    /// How it ended; none where it lives on.
    fn ended(&mut self) -> Option<ExitStatus> {
        wait(&mut self.child, Duration::from_secs(3))
    }

    fn last_words(&self, how: &str) -> String {
        last_words(&self.tail, how)
    }

    fn kill(&mut self) {
        // It has ended already, then.
        let _ = self.child.kill();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn told(reports: &mut impl BufRead) -> Option<Told> {
    let mut line = String::new();
    reports.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// Keeps the end of what a process writes, and shows it where that is asked for.
fn tail(
    stderr: Option<impl Read + Send + 'static>,
    is_shown: bool,
) -> Arc<Mutex<VecDeque<String>>> {
    const LINES_KEPT: usize = 8;
    let tail = Arc::new(Mutex::new(VecDeque::new()));
    let kept = tail.clone();
    if let Some(stderr) = stderr {
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if is_shown {
                    eprintln!("{line}");
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
    }
    tail
}

fn last_words(tail: &Mutex<VecDeque<String>>, how: &str) -> String {
    // What it wrote last may still be on its way through the pipe.
    thread::sleep(Duration::from_millis(50));
    let kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.back() {
        Some(line) => format!("{how}; the last line on stderr: {line}"),
        None => how.to_owned(),
    }
}

/// Where the other process reports to.
struct Control {
    scratch: Scratch,
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    fn listen() -> std::io::Result<Self> {
        let scratch = Scratch::temporary(scratch::CHECK).map_err(|(_, cause)| cause)?;
        let path = scratch.path().join("c");
        let bound = UnixListener::bind(&path);
        let listener = bound.inspect_err(|_| scratch.remove())?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            scratch,
            path,
            listener,
        })
    }

    /// The other process's connection; none where it has ended before.
    fn accept(&self, child: &mut Child) -> std::io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if child.try_wait()?.is_some() {
                        return Ok(None);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.scratch.remove();
    }
}
