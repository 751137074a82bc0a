//! What can be set, and every default, in one place; the shipped `config.toml` repeats them, which a test holds to be true.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::values::{self, Require, Secret, TrustProxy};
use crate::platform::log::{Level, Style};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file that it is from, or would be.
    #[serde(skip)]
    pub file: PathBuf,
    /// The address to listen on. All of them by default, as Directus does: what runs in a container must be reachable.
    pub host: String,
    /// The port to listen on; 0: one that is free.
    pub port: u16,
    /// How many event-loop threads; 0: one for each core.
    pub workers: usize,
    /// Whether a second process starts the server anew when an extension has ended it.
    pub supervise: bool,
    /// The folder of the extensions.
    pub extensions_path: PathBuf,
    /// Whether an extension that cannot be loaded ends the host.
    pub must_load: bool,
    /// Whether a changed extension is loaded anew while the host runs.
    pub auto_reload: bool,
    /// Whether extensions are accepted that would end the host where they panic.
    pub allow_panic_abort: bool,
    /// Whether a build is loaded by a process of its own first, so that one that crashes is refused and does not end the host.
    pub trial_load: bool,
    /// The file of variables below those of the process; it may be missing.
    pub env_file: PathBuf,
    /// What a request may take.
    pub limits: Limits,
    /// When an extension that ends the server is left out.
    pub quarantine: Quarantine,
    /// What an outgoing call may take.
    pub fetch: Fetch,
    /// What is logged, and how.
    pub log: Log,
    /// Whom the host believes.
    pub auth: Auth,
    /// Where the host keeps its own users and tokens.
    pub database: Database,
    /// What the operator says about single extensions, by their id.
    pub extensions: BTreeMap<String, ExtensionRules>,
}

/// What a request may take. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request body.
    #[serde(deserialize_with = "values::bytes")]
    pub body_bytes_max: u64,
    /// How long an extension may take to answer; then 504. 0: for ever.
    pub timeout_ms: u64,
    /// How many requests one extension may have in flight at once; then 503.
    pub concurrency_max: usize,
    /// How many threads serve blocking routes, all of the process together.
    pub blocking_threads: usize,
    /// How many of those one extension may have at once; 0: half of them.
    pub blocking_threads_each: usize,
    /// How many connections each worker keeps open.
    pub connections_max: usize,
    /// How long an idle connection is kept open.
    pub keep_alive_ms: u64,
    /// How long a client may take to send a request's head.
    pub client_request_timeout_ms: u64,
    /// How long a client may take none of its answer. 0: for ever.
    pub client_write_timeout_ms: u64,
    /// How long requests in flight may take when the host is told to stop.
    pub shutdown_timeout_ms: u64,
    /// For an extension to get ready when it is loaded; then it is refused, and the others are served.
    pub create_timeout_ms: u64,
    /// How long an extension may keep a worker; then a new server takes over, where there is a supervisor. 0: for ever.
    pub stuck_ms: u64,
}

/// When an extension that ends the server is left out, and the others serve.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quarantine {
    /// After so many crashes; 0: never.
    pub crashes: u32,
    /// Within this time, in milliseconds.
    pub window_ms: u64,
}

/// What an outgoing call may take, where the extension does not say otherwise. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// To a connection, TLS included.
    pub connect_timeout_ms: u64,
    /// From the start to the head of the answer.
    pub first_byte_timeout_ms: u64,
    /// To the end of the answer's body. 0: for ever.
    pub total_timeout_ms: u64,
    /// How many connections each worker has to one origin.
    pub connections_max: usize,
    /// How long an idle connection is kept for the next call.
    pub idle_ms: u64,
    /// Where every call goes in place of its target, unencrypted: `check` must not reach what an extension calls.
    #[serde(skip)]
    pub stand_in: Option<std::net::SocketAddr>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Events of this level and above are written.
    pub level: Level,
    /// How a line looks.
    pub style: Style,
    /// Whether each request gets a line.
    pub access: bool,
}

/// Whom the host believes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// What the tokens of users are signed with.
    pub secret: Secret,
    /// The static token of an administrator.
    pub admin_token: Secret,
    /// Whose `X-Forwarded-For` counts.
    pub trust_proxy: TrustProxy,
    /// The address of the administrator that an empty store gets; empty: admin@example.com.
    pub admin_email: String,
    /// The password of that administrator; empty: one is generated.
    pub admin_password: Secret,
    /// How long the access token of a sign-in is good.
    pub access_token_ttl_ms: u64,
    /// How long an unused session lasts.
    pub refresh_token_ttl_ms: u64,
    /// How long a session of mode `session` lasts, whose token is a cookie.
    pub session_ttl_ms: u64,
    /// Whether cookies are for https alone.
    pub cookie_secure: bool,
    /// How often a sign-in may fail within five minutes, for each account, and four times as often for each address.
    pub login_failures_max: u32,
    /// A Directus that knows users, too.
    pub directus: Directus,
}

/// A Directus that knows users, too.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directus {
    /// Its URL; empty: it is not asked.
    pub url: String,
    /// Its database; empty: it is not read.
    pub database_url: Secret,
    /// How long an answer counts.
    pub cache_ms: u64,
    /// How long it may take to answer; then 503.
    pub timeout_ms: u64,
}

/// Where the host keeps its own users and tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// The SQLite file, where `url` says nothing else.
    pub path: PathBuf,
    /// `postgres://…`, `sqlite:PATH`, or `none`: the host keeps no users.
    pub url: Secret,
}

/// What the operator says about one extension.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtensionRules {
    /// Whether it is served.
    pub enabled: bool,
    /// Who may call it.
    pub require: Require,
}

impl Config {
    /// How long requests in flight may take to finish when the host, or an extension, is stopped.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.shutdown_timeout_ms)
    }

    /// The event-loop threads to start: as configured, or one for each core.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            file: PathBuf::new(),
            host: "0.0.0.0".to_owned(),
            port: 8055,
            workers: 0,
            supervise: true,
            extensions_path: "./extensions".into(),
            must_load: false,
            auto_reload: false,
            allow_panic_abort: false,
            trial_load: true,
            env_file: ".env".into(),
            limits: Limits::default(),
            quarantine: Quarantine::default(),
            fetch: Fetch::default(),
            log: Log::default(),
            auth: Auth::default(),
            database: Database::default(),
            extensions: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 1024 * 1024,
            timeout_ms: 60_000,
            concurrency_max: 10_000,
            blocking_threads: 64,
            blocking_threads_each: 0,
            connections_max: 25_000,
            // Longer than the minute after which common load balancers close, so that it is they who close.
            keep_alive_ms: 75_000,
            client_request_timeout_ms: 10_000,
            // As nginx's send_timeout.
            client_write_timeout_ms: 60_000,
            shutdown_timeout_ms: 10_000,
            create_timeout_ms: 10_000,
            stuck_ms: 30_000,
        }
    }
}

impl Default for Quarantine {
    fn default() -> Quarantine {
        Quarantine {
            crashes: 3,
            window_ms: 600_000,
        }
    }
}

impl Limits {
    /// How many threads for blocking routes an extension has at most. It may ask for fewer than the operator gives each, not for
    /// more: they are everybody's.
    pub fn blocking_share(&self, wanted: Option<usize>) -> usize {
        let all = self.blocking_threads.max(1);
        let each = match self.blocking_threads_each {
            0 => all.div_ceil(2),
            each => each.min(all),
        };
        wanted.map_or(each, |wanted| wanted.clamp(1, each))
    }
}

impl Fetch {
    /// [`connect_timeout_ms`](Self::connect_timeout_ms), as a duration.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// [`first_byte_timeout_ms`](Self::first_byte_timeout_ms), as a duration; `None` where there is no limit.
    pub fn first_byte_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.first_byte_timeout_ms)).filter(|limit| !limit.is_zero())
    }

    /// [`total_timeout_ms`](Self::total_timeout_ms), as a duration; `None` where there is no limit.
    pub fn total_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.total_timeout_ms)).filter(|limit| !limit.is_zero())
    }
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch {
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 30_000,
            total_timeout_ms: 0,
            connections_max: 1_000,
            idle_ms: 15_000,
            stand_in: None,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            level: Level::Info,
            style: Style::Pretty,
            access: true,
        }
    }
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            secret: Secret::default(),
            admin_token: Secret::default(),
            trust_proxy: TrustProxy::default(),
            admin_email: String::new(),
            admin_password: Secret::default(),
            // 15 minutes, 7 days and 1 day, as in Directus.
            access_token_ttl_ms: 900_000,
            refresh_token_ttl_ms: 604_800_000,
            session_ttl_ms: 86_400_000,
            cookie_secure: false,
            login_failures_max: 10,
            directus: Directus::default(),
        }
    }
}

impl Default for Directus {
    fn default() -> Directus {
        Directus {
            url: String::new(),
            database_url: Secret::default(),
            // What was taken from a user there is not to count here for longer than elsewhere.
            cache_ms: 5_000,
            timeout_ms: 5_000,
        }
    }
}

impl Default for Database {
    fn default() -> Database {
        Database {
            path: "data/extension-host.db".into(),
            url: Secret::default(),
        }
    }
}

impl Default for ExtensionRules {
    fn default() -> ExtensionRules {
        ExtensionRules {
            enabled: true,
            require: Require::Nothing,
        }
    }
}
