//! What the host knows of an extension while it runs: what `ext_context` points at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use actix_http::Method;
use extension_api::abi::*;

use super::error::Reason;
use super::manifest::{AllowedOrigins, Manifest};
use super::routes::{self, Route, RouteData};
use crate::platform::env::Env;
use crate::platform::log::Level;
use crate::platform::log_limit;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::in_flight::{Flight, InFlight};
use crate::runtime::worker::Remote;
use crate::runtime::workers::Workers;
use crate::upstream::Base;

/// How many bases an extension may make: they are kept until it is destroyed.
const BASES_MAX: usize = 1_000;

/// An extension as its callbacks see it.
pub struct Context {
    /// What is in flight in it, its name and its number.
    pub in_flight: InFlight,
    /// Whether an `Authorization` of scheme Basic is visible to it.
    pub basic_auth: bool,
    /// The declared variables; `None`: not set.
    variables: HashMap<String, Option<String>>,
    allowed: AllowedOrigins,
    bases: RwLock<Vec<Arc<Base>>>,
    /// What `create` has declared so far; `None` when it has returned.
    declared: Mutex<Option<Declared>>,
    /// Operations that belong to no request.
    operations: Mutex<Vec<Box<dyn Cancel>>>,
    workers: Arc<Workers>,
}

/// Something that an extension has begun outside of any request.
pub trait Cancel: Send {
    /// Whether it goes on.
    fn is_open(&self) -> bool;

    /// Ends it.
    fn cancel(&self);
}

/// What an extension declares in `create`.
#[derive(Default)]
pub struct Declared {
    /// Its endpoints: the id, empty where the folder's name serves, and the routes.
    pub endpoints: Vec<(String, Vec<Route>)>,
    /// Why it does not want to be loaded.
    pub refusal: Option<String>,
    /// The first rule that a declaration broke.
    pub broken: Option<Reason>,
}

impl Context {
    /// Prepares what the manifest grants.
    ///
    /// # Errors
    /// Where a required variable is missing, or one that names an origin does not.
    pub fn new(
        name: &str,
        manifest: &Manifest,
        env: &Env,
        workers: &Arc<Workers>,
        fingerprint: u64,
    ) -> Result<Box<Self>, Reason> {
        manifest.check_variables(env)?;
        let variables = manifest
            .env
            .all()
            .map(|name| (name.to_owned(), env.get(name).map(str::to_owned)))
            .collect();
        let name: Arc<str> = name.into();
        let number = workers.register(name.clone(), fingerprint);
        Ok(Box::new(Self {
            in_flight: InFlight::new(name, number),
            basic_auth: manifest.request.basic_auth,
            variables,
            allowed: manifest.allowed_origins(env)?,
            bases: RwLock::default(),
            declared: Mutex::new(Some(Declared::default())),
            operations: Mutex::default(),
            workers: workers.clone(),
        }))
    }

    // ---- Declarations, during `create` ----

    /// Adds an endpoint. The error is a status of the ABI.
    pub fn declare_endpoint(&self, id: &str) -> Result<ext_endpoint, ext_status> {
        let mut declared = lock(&self.declared);
        let endpoints = &mut declared.as_mut().ok_or(EXT_STAGE)?.endpoints;
        endpoints.push((id.to_owned(), Vec::new()));
        Ok(endpoints.len() as ext_endpoint - 1)
    }

    /// Adds a route. The error is a status of the ABI; the rule that was broken is kept for the operator.
    pub fn declare_route(
        &self,
        endpoint: ext_endpoint,
        method: &str,
        pattern: &str,
        flags: u32,
        data: *mut std::ffi::c_void,
    ) -> Result<(), ext_status> {
        let mut declared = lock(&self.declared);
        let declared = declared.as_mut().ok_or(EXT_STAGE)?;
        let (id, routes) = declared
            .endpoints
            .get_mut(endpoint as usize)
            .ok_or(EXT_INVALID)?;
        let made = Some(method)
            .filter(|method| !method.is_empty())
            .map(|method| {
                Method::from_bytes(method.as_bytes())
                    .map_err(|_| format!("its method {method:?} is not a token"))
            })
            .transpose()
            .and_then(|method| Ok((method, routes::params_of(pattern)?)))
            .and_then(|made| {
                if routes.len() < routes::ROUTES_MAX {
                    Ok(made)
                } else {
                    Err("there are too many routes".into())
                }
            });
        match made {
            Ok((method, params)) => {
                routes.push(Route {
                    method,
                    pattern: pattern.to_owned(),
                    params,
                    flags,
                    data: RouteData::of(data),
                    mark: 0,
                });
                Ok(())
            }
            Err(problem) => {
                let reason = Reason::BadRoute {
                    id: id.clone(),
                    pattern: pattern.to_owned(),
                    problem,
                };
                declared.broken.get_or_insert(reason);
                Err(EXT_INVALID)
            }
        }
    }

    /// Notes why the extension does not want to be loaded.
    pub fn refuse(&self, message: &str) {
        if let Some(declared) = lock(&self.declared).as_mut() {
            declared.refusal.get_or_insert_with(|| message.to_owned());
        }
    }

    /// Ends the declarations and gives them.
    pub fn take_declared(&self) -> Declared {
        lock(&self.declared).take().unwrap_or_default()
    }

    // ---- What it may use ----

    /// A declared variable: `None` where it is not declared, `Some(None)` where it is not set.
    pub fn variable(&self, name: &str) -> Option<Option<&str>> {
        self.variables.get(name).map(Option::as_deref)
    }

    /// Whether the environment still says what the extension was given.
    pub fn is_current(&self, env: &Env, manifest: &Manifest) -> bool {
        manifest.is_enabled(env)
            && self
                .variables
                .iter()
                .all(|(name, value)| env.get(name) == value.as_deref())
    }

    /// Parses and checks a base URL. The error is a status of the ABI, and has been logged.
    pub fn declare_base(&self, url: &str) -> Result<ext_base, ext_status> {
        let base = Base::parse(url).map_err(|problem| {
            self.log_misuse("base", &problem);
            EXT_INVALID
        })?;
        if !self.allows(&base) {
            let origin = base.origin();
            let rule = format!(
                "{origin} is not allowed; add \"{origin}\" to allow under [fetch] in extension.toml"
            );
            contract_checks::note(Rule::DeclaresOrigins, || rule.clone());
            self.log_wrong("base", &rule);
            return Err(EXT_DENIED);
        }
        let mut bases = self
            .bases
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if bases.len() == BASES_MAX {
            self.log_misuse(
                "base",
                "too many bases were made; make each once and keep it",
            );
            return Err(EXT_INVALID);
        }
        bases.push(Arc::new(base));
        Ok(bases.len() as ext_base - 1)
    }

    /// A base that [`declare_base`](Self::declare_base) numbered.
    pub fn base(&self, number: ext_base) -> Option<Arc<Base>> {
        self.bases
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get(number as usize)
            .cloned()
    }

    /// Whether the manifest lets the extension call there.
    pub fn allows(&self, base: &Base) -> bool {
        self.allowed.allows(base.origin())
    }

    /// What a crash names a text by: see [`Workers::intern`].
    pub fn intern(&self, text: &str) -> u32 {
        self.workers.intern(text)
    }

    /// A worker for what belongs to no request.
    pub fn any_worker(&self) -> Option<Remote> {
        self.workers.any()
    }

    /// Writes that the extension breaks a rule of the header.
    pub fn log_misuse(&self, call: &str, rule: &str) {
        contract_checks::note(Rule::ValidArguments, || format!("`{call}`: {rule}"));
        self.log_wrong(call, rule);
    }

    fn log_wrong(&self, call: &str, rule: &str) {
        log_limit::event(
            (self.name(), call),
            Level::Error,
            "the extension called the host wrongly",
            &[("extension", self.name()), ("call", &call), ("rule", &rule)],
        );
    }

    // ---- Its life ----

    /// The folder's name: whom log lines are about.
    pub fn name(&self) -> &Arc<str> {
        &self.in_flight.name
    }

    /// Keeps the extension from being destroyed; `None` where it is being stopped and nothing else holds it.
    pub fn hold(&'static self) -> Option<Flight> {
        self.in_flight.hold()
    }

    /// Ties an operation to the extension: it is cancelled when the extension is stopped.
    pub fn bind(&self, operation: Box<dyn Cancel>) -> bool {
        let mut operations = lock(&self.operations);
        if self.in_flight.is_retired() {
            return false;
        }
        if operations.len() == operations.capacity() {
            operations.retain(|operation| operation.is_open());
        }
        operations.push(operation);
        true
    }

    /// Cancels what belongs to no request.
    pub fn cancel_operations(&self) {
        for operation in lock(&self.operations).drain(..) {
            operation.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half done.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
