//! The real host, as a process of its own in a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Connection, DEADLINE, Extension, built, eventually};

/// The administrator's static token of every host here.
pub const ADMIN_TOKEN: &str = "the-administrators-token";
/// What user tokens are signed with, for every host here.
pub const SECRET: &str = "the-secret-that-signs-tokens";

/// The exit code of a host that was told to stop and had to leave something as it was.
pub const FORCED: i32 = 3;
/// The exit code of a host that cannot serve any more.
pub const BROKEN: i32 = 4;

/// A host that is being put together.
pub struct Plan {
    folder: TempDir,
    config: String,
    dotenv: String,
    variables: Vec<(String, String)>,
    options: Vec<String>,
    port: u16,
    user: Option<u32>,
    is_supervised: bool,
    through: Vec<String>,
}

/// A host that serves.
pub struct Host {
    folder: TempDir,
    address: SocketAddr,
    process: Process,
}

/// How a host ended.
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it; none where it ended by itself.
    pub signal: Option<i32>,
    pub log: Vec<Value>,
}

struct Process {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<Value>, bool)>,
    changed: Condvar,
    /// Nobody reads what the host says.
    is_unread: AtomicBool,
}

impl Host {
    /// A host with no extension yet.
    pub fn plan() -> Plan {
        let folder = built::scratch();
        for inner in ["extensions", "tmp"] {
            fs::create_dir(folder.path().join(inner)).expect("a folder");
        }
        Plan {
            folder,
            config: "workers = 2\n".to_owned(),
            dotenv: format!("SECRET={SECRET}\nADMIN_TOKEN={ADMIN_TOKEN}\n"),
            variables: Vec::new(),
            options: Vec::new(),
            port: 0,
            user: None,
            is_supervised: false,
            through: Vec::new(),
        }
    }

    /// A host with these extensions, started.
    pub fn with(extensions: &[&Extension]) -> Self {
        Self::plan().extensions(extensions).start()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new connection to it.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// Sends one request on a connection of its own. `head` is what stands before the empty line, without `Host`, lines
    /// separated by "\n": "GET /a\nAccept: b".
    #[track_caller]
    pub fn ask(&self, head: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut connection = self.connect();
        connection.send(request(head, body.as_ref()));
        if head.starts_with("HEAD ") {
            connection.answer_to_head()
        } else {
            connection.answer()
        }
    }

    /// [`ask`](Self::ask) without a body.
    #[track_caller]
    pub fn get(&self, head: &str) -> Answer {
        self.ask(&format!("GET {head}"), "")
    }

    /// [`get`](Self::get) as the administrator.
    #[track_caller]
    pub fn get_as_admin(&self, path: &str) -> Answer {
        self.get(&format!("{path}\nAuthorization: Bearer {ADMIN_TOKEN}"))
    }

    /// What `GET /extensions` says of a folder.
    #[track_caller]
    pub fn said_of(&self, folder: &str) -> Vec<Value> {
        let list = self.get_as_admin("/extensions").json()["data"].clone();
        let entries = list.as_array().expect("a list").iter();
        entries
            .filter(|entry| entry["folder"] == folder)
            .cloned()
            .collect()
    }

    /// Every line of the log so far.
    pub fn log(&self) -> Vec<Value> {
        self.process.log.so_far()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub fn logged(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.process.log.wait(what, is_it)
    }

    /// Waits for a line with this sentence.
    #[track_caller]
    pub fn said(&self, sentence: &str) -> Value {
        self.logged(sentence, |line| line["message"] == sentence)
    }

    /// Leaves what it says from now on in the pipe, until [`read_log`](Self::read_log).
    pub fn leave_log_unread(&self) {
        self.process.log.is_unread.store(true, Ordering::Release);
    }

    /// Reads what it says again.
    pub fn read_log(&self) {
        self.process.log.is_unread.store(false, Ordering::Release);
    }

    /// Whether its memory says what it keeps: an address sanitizer holds back what was freed, to see who still uses it.
    pub fn gives_memory_back() -> bool {
        !Self::is_sanitized()
    }

    /// Whether a sanitizer watches it, which has an `_exit` and stacks for signals of its own, and fails where there is no thread.
    pub fn is_sanitized() -> bool {
        std::env::var_os("SANITIZER").is_some()
    }

    /// Memory that it holds, in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Has [`most_resident`](Self::most_resident) begin anew: the first start, which hashes a password, takes more than most.
    pub fn forget_most_resident(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("the host runs");
    }

    /// The most memory that it held, in bytes.
    pub fn most_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the host runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a size");
        let kb = line.trim().trim_end_matches(" kB").trim();
        kb.parse::<u64>().expect("a number") * 1024
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The processes of its servers, where it is supervised, the youngest last. Not by `children` of /proc, which may leave one out
    /// while another comes or goes.
    pub fn servers(&self) -> Vec<u32> {
        let parent = self.pid().to_string();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let of_host = processes.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may hold anything: state, parent, group, session, terminal, …, and when it started.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
            let started = (fields.next()? == parent).then(|| fields.nth(17))??;
            Some((started.parse::<u64>().ok()?, pid))
        });
        let mut servers: Vec<(u64, u32)> = of_host.collect();
        servers.sort_unstable();
        servers.into_iter().map(|(_, pid)| pid).collect()
    }

    /// The process of its server, where it is supervised and has one: that which its commands know.
    #[track_caller]
    pub fn server_pid(&self) -> u32 {
        *self.servers().last().expect("a server")
    }

    /// Runs a command of the host beside it, with its settings.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let config = self.folder().join("config.toml");
        let mut command = Command::new(built::host());
        command.arg("--config").arg(config).args(arguments);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("TMPDIR", self.folder().join("tmp"))
            .current_dir(self.folder());
        command.output().expect("the host runs")
    }

    /// Sends it a signal: "TERM", "INT".
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let done = Command::new("sh").args(["-c", &kill]).status();
        assert!(done.expect("sh runs").success());
    }

    /// Whether it has ended, although what it has left behind may still write to its log.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.process.child.try_wait();
        ended.expect("it is a child").is_some()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(self) -> Ended {
        self.process.ended()
    }

    /// The same, where nobody reads what it says before it has ended.
    #[track_caller]
    pub fn ended_unread(mut self) -> Ended {
        eventually("the host ends", || self.has_ended());
        self.read_log();
        self.process.ended()
    }

    /// Tells it to stop, and waits.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended()
    }
}

/// The bytes of a request.
pub fn request(head: &str, body: &[u8]) -> Vec<u8> {
    let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
    let mut bytes = format!("{first} HTTP/1.1\r\nHost: localhost\r\n");
    for line in rest.lines() {
        bytes.push_str(line);
        bytes.push_str("\r\n");
    }
    let says_length = rest.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-length:") || line.starts_with("transfer-encoding:")
    });
    if !body.is_empty() && !says_length {
        bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Plan {
    /// Puts extensions into its folder.
    pub fn extensions(self, extensions: &[&Extension]) -> Self {
        for extension in extensions {
            extension.put(&self.extensions_path());
        }
        self
    }

    /// The folder of its extensions.
    pub fn extensions_path(&self) -> PathBuf {
        self.folder.path().join("extensions")
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// More of its config.toml: keys, then tables.
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// A line of its .env.
    pub fn dotenv(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.dotenv
            .push_str(&format!("{name}='{}'\n", value.as_ref()));
        self
    }

    /// Text of its .env, as it is.
    pub fn raw_dotenv(mut self, text: &str) -> Self {
        self.dotenv.push_str(text);
        self
    }

    /// A variable of its process.
    pub fn variable(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.variables.push((name.into(), value.as_ref().into()));
        self
    }

    /// One more option of its command line.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Has it listen on a port that the test chooses.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Lets it be two processes, as it is by default. Without this it is one, so that no test passes although the server has
    /// crashed.
    pub fn supervised(mut self) -> Self {
        self.is_supervised = true;
        self
    }

    /// Runs it as another user.
    pub fn run_by(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Has another program start it, which is given the host's command line after its own.
    pub fn through(mut self, program: &str, arguments: &[&str]) -> Self {
        self.through = [&[program], arguments]
            .concat()
            .iter()
            .map(|part| (*part).to_owned())
            .collect();
        self
    }

    /// Starts it, and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Host {
        let (folder, process) = self.spawn();
        let line = process
            .log
            .wait("the host listens", |line| line["message"] == "listening");
        let address = line["address"].as_str().expect("an address");
        Host {
            folder,
            address: address.parse().expect("an address"),
            process,
        }
    }

    /// Starts it, although it may never listen.
    pub fn start_without_waiting(self) -> Host {
        let (folder, process) = self.spawn();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Host {
            folder,
            address,
            process,
        }
    }

    /// Starts it, and waits until it has ended by itself.
    #[track_caller]
    pub fn fail(self) -> Ended {
        let (_folder, process) = self.spawn();
        process.ended()
    }

    fn spawn(self) -> (TempDir, Process) {
        let folder = self.folder.path().to_owned();
        let config = folder.join("config.toml");
        fs::write(&config, &self.config).expect("config.toml");
        fs::write(folder.join(".env"), &self.dotenv).expect(".env");
        let mut command = match (self.user, self.through.split_first()) {
            (None, None) => Command::new(built::host()),
            (None, Some((program, arguments))) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(built::host());
                command
            }
            (Some(id), _) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={id}"), format!("--regid={id}")])
                    .arg("--clear-groups")
                    .arg(built::host());
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(&config)
            .args(["--host", "127.0.0.1", "--log-style", "json"])
            .args(["--port", &self.port.to_string()])
            .args((!self.is_supervised).then_some("--supervise=false"))
            .args(&self.options)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", folder.join("tmp"))
            .envs(self.variables)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host runs");
        (self.folder, Process::of(child))
    }
}

impl Process {
    fn of(mut child: Child) -> Self {
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Log::default());
        let writer = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                while writer.is_unread.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(5));
                }
                // A line that is no JSON, such as a panic's, is kept as a text.
                writer.push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
            writer.close();
        });
        Self { child, log }
    }

    #[track_caller]
    fn ended(mut self) -> Ended {
        self.log.wait_closed();
        let status = self.child.wait().expect("it has ended");
        Ended {
            code: status.code(),
            signal: status.signal(),
            log: self.log.so_far(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.log.is_unread.store(false, Ordering::Release);
        // Errors say that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for line in self.log.so_far() {
                eprintln!("host: {line}");
            }
        }
    }
}

impl Log {
    fn push(&self, line: Value) {
        self.lines.lock().expect("no test panics here").0.push(line);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lines.lock().expect("no test panics here").1 = true;
        self.changed.notify_all();
    }

    fn so_far(&self) -> Vec<Value> {
        self.lines.lock().expect("no test panics here").0.clone()
    }

    #[track_caller]
    fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.lines.lock().expect("no test panics here");
        let mut seen = 0;
        loop {
            if let Some(line) = lines.0[seen..].iter().find(|line| is_it(line)) {
                return line.clone();
            }
            seen = lines.0.len();
            let left = end.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                let log = lines.0.clone();
                drop(lines);
                panic!("the log never said: {what}\n{log:#?}");
            }
            lines = self
                .changed
                .wait_timeout(lines, left)
                .expect("no test panics here")
                .0;
        }
    }

    #[track_caller]
    fn wait_closed(&self) {
        let lines = self.lines.lock().expect("no test panics here");
        let (lines, waited) = self
            .changed
            .wait_timeout_while(lines, DEADLINE, |lines| !lines.1)
            .expect("no test panics here");
        drop(lines);
        assert!(!waited.timed_out(), "the host did not end");
    }
}

impl Ended {
    /// Whether a line has this sentence.
    pub fn said(&self, sentence: &str) -> bool {
        self.log.iter().any(|line| line["message"] == sentence)
    }
}
