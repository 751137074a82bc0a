//! The world around an extension that is checked: which requests are sent, in which order, under which circumstances.

use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, ClientResponse};
use super::error::CheckError;
use super::options::CheckOptions;
use super::process::{MESSAGE_TIMEOUT, NotServed, Subject};
use super::protocol::{Observations, Order, ServedRoute, SubjectMessage};
use super::request::{Caller, RequestKind, request};
use super::result::CheckResult;
use super::stand_in::{Behaviour, StandIn};
use crate::runtime::contract_checks::{Rule, Violation};

/// How many routes are driven; the others are mostly served by the same code.
const ROUTES_MAX: usize = 60;
/// Requests at once.
const CROWD: usize = 250;
/// How long an answer may take: longer than the host's own limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Drives the extension twice: once until it is replaced while the server serves on, once until the server stops.
///
/// # Errors
/// Where the other process cannot be run.
pub fn run(options: &CheckOptions<'_>) -> Result<CheckResult, CheckError> {
    let stand_in = StandIn::start().map_err(CheckError::Process)?;
    let mut result = CheckResult::default();
    let subject = match Subject::start(options, &stand_in)? {
        Ok(subject) => subject,
        Err(NotServed::Refused(code, message)) => {
            result.refused = Some((code, message));
            return Ok(result);
        }
        Err(NotServed::Died(how, during)) => {
            result.find(Rule::DoesNotCrash, how, during);
            result.ended_while = Some(during.to_owned());
            return Ok(result);
        }
        Err(NotServed::Hung(how, during)) => {
            result.find(Rule::DoesNotBlock, how, during);
            result.ended_while = Some(during.to_owned());
            return Ok(result);
        }
    };
    result.routes.clone_from(&subject.serving.routes);
    let lived = Driver {
        subject,
        stand_in: &stand_in,
        result: &mut result,
        slow: 0,
    }
    .drive();
    // An extension that crashed or hung would do so again.
    if lived {
        let again = Subject::start(options, &stand_in)?;
        if let Ok(subject) = again {
            let driver = Driver {
                subject,
                stand_in: &stand_in,
                result: &mut result,
                slow: 0,
            };
            driver.stop_in_flight();
        }
    }
    result.calls = stand_in.calls();
    result.findings.sort_by_key(|finding| finding.rule);
    Ok(result)
}

/// One process that serves the extension, and what is done to it.
struct Driver<'a> {
    subject: Subject,
    stand_in: &'a StandIn,
    result: &'a mut CheckResult,
    /// Slow answers of the current route: it is not waited for again and again.
    slow: usize,
}

impl Driver<'_> {
    /// Drives all routes, then has the extension replaced; false where it crashed or hung before.
    fn drive(mut self) -> bool {
        let routes = self.routes();
        self.stand_in.set(Behaviour::Well);
        let mut before = Vec::new();
        for route in &routes {
            before.push(self.ask_plainly(route));
            // After each, so that it is this route which is named.
            if !self.settle(&format!("{} was asked", name(route))) {
                return false;
            }
        }
        for route in &routes {
            self.slow = 0;
            if !self.bodies(route)
                || !self.upstreams(route)
                || !self.leave_early(route)
                || !self.crowd(route)
            {
                return false;
            }
        }
        self.stand_in.set(Behaviour::Well);
        for (route, before) in routes.iter().zip(before) {
            let after = self.ask_plainly(route);
            self.compare(route, before, after);
            if !self.settle(&format!("{} was asked again", name(route))) {
                return false;
            }
        }
        self.replace_in_flight(&routes)
    }

    /// The routes that are driven.
    fn routes(&self) -> Vec<ServedRoute> {
        let routes = &self.subject.serving.routes;
        routes.iter().take(ROUTES_MAX).cloned().collect()
    }

    /// Sends plain requests to a route, as nobody and as the administrator.
    fn ask_plainly(&mut self, route: &ServedRoute) -> [ClientResponse; 2] {
        self.slow = 0;
        [Caller::Nobody, Caller::Admin].map(|caller| self.ask(route, caller, RequestKind::Empty))
    }

    /// Finds a route that served at first and does not at the end.
    fn compare(
        &mut self,
        route: &ServedRoute,
        before: [ClientResponse; 2],
        after: [ClientResponse; 2],
    ) {
        for (before, after) in before.into_iter().zip(after) {
            let was_well = matches!(before, ClientResponse::Status(status) if status < 500);
            let is_well = matches!(after, ClientResponse::Status(status) if status < 500);
            if was_well && !is_well {
                let text = |answer| match answer {
                    ClientResponse::Status(status) => status.to_string(),
                    ClientResponse::Nothing => "nothing".to_owned(),
                };
                self.result.find(
                    Rule::ServesOn,
                    format!(
                        "it answered {} at first and {} at the end",
                        text(before),
                        text(after)
                    ),
                    &format!("{} was asked again", name(route)),
                );
            }
        }
    }

    /// Sends every kind of request.
    fn bodies(&mut self, route: &ServedRoute) -> bool {
        self.stand_in.set(Behaviour::Well);
        for (kind, text) in RequestKind::ALL {
            for caller in [Caller::Nobody, Caller::Admin] {
                self.ask(route, caller, kind);
            }
            if !self.settle(&format!("{} was asked with {text}", name(route))) {
                return false;
            }
        }
        true
    }

    /// Has the upstream misbehave.
    fn upstreams(&mut self, route: &ServedRoute) -> bool {
        let behaviours = [
            (Behaviour::Failing, "answered 500"),
            (Behaviour::BreakingOff, "broke off its answer"),
            (Behaviour::Garbled, "answered what is no HTTP"),
        ];
        for (behaviour, text) in behaviours {
            self.stand_in.set(behaviour);
            self.ask(route, Caller::Admin, RequestKind::Json);
            if !self.settle(&format!(
                "{} was asked and its upstream {text}",
                name(route)
            )) {
                return false;
            }
        }
        true
    }

    /// Has clients leave before and during the answer.
    fn leave_early(&mut self, route: &ServedRoute) -> bool {
        for (behaviour, text) in [
            (Behaviour::Well, ""),
            (Behaviour::Silent, ", its upstream silent"),
        ] {
            self.stand_in.set(behaviour);
            for wait_ms in [0, 1, 30] {
                for kind in [
                    RequestKind::Empty,
                    RequestKind::Streamed,
                    RequestKind::BrokenOff,
                ] {
                    self.leave(route, kind, Duration::from_millis(wait_ms));
                }
            }
            if !self.settle(&format!(
                "clients of {} left before the answer{text}",
                name(route)
            )) {
                return false;
            }
        }
        self.stand_in.set(Behaviour::Well);
        for kind in [RequestKind::Empty, RequestKind::Json] {
            if let Some(mut client) = self.send(route, Caller::Admin, kind) {
                client.read_first_bytes();
            }
        }
        self.settle(&format!(
            "clients of {} left during the answer",
            name(route)
        ))
    }

    /// Sends many requests at once.
    fn crowd(&mut self, route: &ServedRoute) -> bool {
        self.stand_in.set(Behaviour::Well);
        let mut clients: Vec<_> = (0..CROWD)
            .filter_map(|number| {
                let kind = if number % 2 == 0 {
                    RequestKind::Empty
                } else {
                    RequestKind::Json
                };
                self.send(route, Caller::Admin, kind)
            })
            .collect();
        for (number, client) in clients.iter_mut().enumerate() {
            // Every third client leaves.
            if number % 3 != 0 && client.answer() == ClientResponse::Nothing {
                break;
            }
        }
        drop(clients);
        self.settle(&format!("{CROWD} clients asked {} at once", name(route)))
    }

    /// Takes the extension out while requests are in flight and the server serves on.
    fn replace_in_flight(mut self, routes: &[ServedRoute]) -> bool {
        let clients = self.open_requests(routes);
        self.subject.order(Order::Replace);
        thread::sleep(Duration::from_millis(100));
        drop(clients);
        self.end("it was replaced with requests in flight")
    }

    /// Stops the server while requests are in flight.
    fn stop_in_flight(mut self) {
        let routes = self.routes();
        let clients = self.open_requests(&routes);
        self.subject.order(Order::Stop);
        self.end("the host was stopped with requests in flight");
        drop(clients);
    }

    /// Sends requests that stay open, for their upstream is silent.
    fn open_requests(&mut self, routes: &[ServedRoute]) -> Vec<Client> {
        self.stand_in.set(Behaviour::Silent);
        let mut clients = Vec::new();
        for route in routes {
            for kind in [
                RequestKind::Empty,
                RequestKind::Json,
                RequestKind::BrokenOff,
                RequestKind::Empty,
            ] {
                clients.extend(self.send(route, Caller::Admin, kind));
            }
        }
        // What was sent has arrived, and is being worked on.
        thread::sleep(Duration::from_millis(50));
        clients
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, route: &ServedRoute, caller: Caller, kind: RequestKind) -> ClientResponse {
        const SLOW: Duration = Duration::from_secs(1);
        const SLOW_MAX: usize = 2;
        let Some(mut client) = self.send(route, caller, kind) else {
            return ClientResponse::Nothing;
        };
        if matches!(kind, RequestKind::BrokenOff) {
            client.half_close();
        }
        if self.slow > SLOW_MAX {
            thread::sleep(Duration::from_millis(30));
            return ClientResponse::Nothing;
        }
        let began = Instant::now();
        let answer = client.answer();
        self.slow += usize::from(began.elapsed() > SLOW);
        answer
    }

    fn leave(&mut self, route: &ServedRoute, kind: RequestKind, wait: Duration) {
        let client = self.send(route, Caller::Admin, kind);
        thread::sleep(wait);
        drop(client);
    }

    fn send(&mut self, route: &ServedRoute, caller: Caller, kind: RequestKind) -> Option<Client> {
        let mut client = Client::open(self.subject.serving.address, ANSWER_WITHIN).ok()?;
        self.result.requests += 1;
        for part in request(&self.subject.serving, route, caller, kind) {
            if !client.send(&part) {
                break;
            }
        }
        Some(client)
    }

    /// Receives what was observed; false where the process has ended or hangs.
    fn settle(&mut self, during: &str) -> bool {
        self.subject.order(Order::Settle);
        match self.subject.receive() {
            Some(SubjectMessage::Observed(observations)) => {
                let is_stuck = observations.is_stuck;
                self.note(observations, during);
                if is_stuck {
                    // Nothing would be answered from here on.
                    self.result.ended_while = Some(during.to_owned());
                }
                !is_stuck
            }
            _ => {
                self.died(during);
                false
            }
        }
    }

    /// Waits for the last message, and for the end of the process.
    fn end(mut self, during: &str) -> bool {
        match self.subject.receive() {
            Some(SubjectMessage::Observed(observations)) => self.note(observations, during),
            _ => {
                self.died(during);
                return false;
            }
        }
        let at_the_end = format!("{during}, at the end of the process");
        let status = self.subject.ended();
        let lived = match status {
            Some(status) if status.success() => true,
            Some(status) => {
                let seen = self.subject.last_words(status);
                self.result.find(Rule::DoesNotCrash, seen, &at_the_end);
                false
            }
            None => {
                let seen = "the process did not end by itself".to_owned();
                self.result.find(Rule::LetsTheProcessEnd, seen, &at_the_end);
                false
            }
        };
        let rest = self.subject.end_rest();
        if !rest.is_empty() {
            let seen = format!("processes were left: {}", rest.join(", "));
            self.result.find(Rule::EndsProcesses, seen, &at_the_end);
        }
        let printed = self.subject.printed();
        if !printed.is_empty() {
            let seen = format!("it printed {printed:?}");
            self.result.find(Rule::DoesNotPrint, seen, during);
        }
        lived
    }

    fn note(&mut self, observations: Observations, during: &str) {
        for Violation { rule, how } in observations.violations {
            self.result.find(rule, how, during);
        }
        if observations.requests > 0 {
            let seen = "requests were still open long after their clients had left".to_owned();
            self.result.find(Rule::FinishesRequests, seen, during);
        }
    }

    fn died(&mut self, during: &str) {
        let (rule, seen) = match self.subject.ended() {
            Some(status) => (Rule::DoesNotCrash, self.subject.last_words(status)),
            None => (
                Rule::DoesNotBlock,
                format!("nothing moved for {} s", MESSAGE_TIMEOUT.as_secs()),
            ),
        };
        self.result.find(rule, seen, during);
        self.result.ended_while = Some(during.to_owned());
    }
}

/// A route, for people.
fn name(route: &ServedRoute) -> String {
    format!(
        "{} /{}{}",
        route.method.as_deref().unwrap_or("*"),
        route.id,
        route.pattern
    )
}
