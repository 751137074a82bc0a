//! The log: one line per event on stderr, for people (`pretty`) or for programs (`json`).
//!
//! A line is built in memory and written whole, so that lines of several threads never mix: see [`super::log_writer`]. Whatever comes from
//! outside is escaped: no value can forge a second line or move the cursor. A closed stderr loses lines, nothing else.
//! Third-party crates report through the `log` facade and are heard from `warn` up, or wholly at level `trace`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Display, Write as _};
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;

use super::log_limit;
use super::log_writer;

/// How much an event matters; as a threshold, it and everything above it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
#[repr(u8)]
pub enum Level {
    /// Only a threshold: nothing is written.
    Silent = 0,
    /// Something failed, and the operator should look into it.
    Error = 1,
    /// Something is not as it should be, and the host goes on.
    Warn = 2,
    /// What an operator wants to see in normal times.
    Info = 3,
    /// What a developer of an extension wants to see.
    Debug = 4,
    /// Everything, third-party crates included.
    Trace = 5,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[repr(u8)]
pub enum Style {
    /// For people: `time LEVEL sentence key=value`, coloured on a terminal.
    Pretty = 0,
    /// For programs: one JSON object a line.
    Json = 1,
}

/// A fact of an event: its name and its value.
pub type Field<'a> = (&'a str, &'a dyn Display);

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static STYLE: AtomicU8 = AtomicU8::new(Style::Pretty as u8);
static COLOUR: AtomicBool = AtomicBool::new(false);
static FACADE: Facade = Facade;

/// Sets what is written and how, and listens to third-party crates. Before it, events from `info` up are written `pretty`.
pub fn init(level: Level, style: Style) {
    let colour = style == Style::Pretty
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none();
    LEVEL.store(level as u8, Ordering::Relaxed);
    STYLE.store(style as u8, Ordering::Relaxed);
    COLOUR.store(colour, Ordering::Relaxed);
    // Err: a logger is set already, which is this one: `init` may be called again with other settings.
    let _ = ::log::set_logger(&FACADE);
    ::log::set_max_level(match level {
        Level::Silent => ::log::LevelFilter::Off,
        Level::Error => ::log::LevelFilter::Error,
        Level::Warn | Level::Info | Level::Debug => ::log::LevelFilter::Warn,
        Level::Trace => ::log::LevelFilter::Trace,
    });
}

/// From now on nobody waits for stderr: a thread writes, and what it cannot write in time is dropped and counted. A panic of the
/// host's becomes a line, too. Before it, and in commands that never call it, a line is written when it is logged.
pub fn write_in_background() {
    let dropped = |count| {
        let mut line = String::with_capacity(LINE_BYTES_USUAL);
        let sentence =
            "lines of the log were dropped: nobody read stderr for a while, or its disk was full";
        format(
            &mut line,
            Level::Warn,
            &sentence,
            &[("dropped_count", &count)],
        );
        line
    };
    if let Err(cause) = log_writer::start(dropped) {
        let sentence = "cannot start a thread for the log; whoever logs waits for stderr";
        event(Level::Warn, sentence, &[("cause", &cause)]);
    }
    std::panic::set_hook(Box::new(|panic| {
        /// A thread that panics may be a worker, and the process may be about to end.
        const FLUSHED_WITHIN: Duration = Duration::from_millis(100);
        let thread = std::thread::current();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let at = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let backtrace = Backtrace::capture();
        let mut fields: Vec<Field<'_>> = vec![("cause", &message), ("at", &at)];
        let name = thread.name().unwrap_or_default();
        fields.push(("thread", &name));
        if backtrace.status() == BacktraceStatus::Captured {
            fields.push(("backtrace", &backtrace));
        }
        event(Level::Error, "the host panicked", &fields);
        log_writer::flush(FLUSHED_WITHIN);
    }));
}

/// Whether an event of this level is written. Costs one relaxed load.
pub fn enabled(level: Level) -> bool {
    level != Level::Silent && level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one event. Nothing is formatted where the level is off.
#[cold]
pub fn event(level: Level, sentence: &str, fields: &[Field<'_>]) {
    if enabled(level) {
        write(level, &sentence, fields);
    }
}

/// Writes an event of level `error`.
pub fn error(sentence: &str, fields: &[Field<'_>]) {
    event(Level::Error, sentence, fields);
}

/// Writes an event of level `warn`.
pub fn warn(sentence: &str, fields: &[Field<'_>]) {
    event(Level::Warn, sentence, fields);
}

/// Writes an event of level `info`.
pub fn info(sentence: &str, fields: &[Field<'_>]) {
    event(Level::Info, sentence, fields);
}

/// Writes an event of level `debug`.
pub fn debug(sentence: &str, fields: &[Field<'_>]) {
    event(Level::Debug, sentence, fields);
}

fn write(level: Level, sentence: &dyn Display, fields: &[Field<'_>]) {
    // No thread-local buffer: its first use waits for the system's loader, which a library's initialiser can hold for ever.
    let mut line = String::with_capacity(LINE_BYTES_USUAL);
    format(&mut line, level, sentence, fields);
    log_writer::write(line.as_bytes());
}

/// An error that the handler of a signal tells, on a thread that may hold any lock: it goes past the queue, and nothing is allocated
/// where `line` has room for it. `write` takes the line.
pub fn error_at_once(
    line: &mut String,
    sentence: &str,
    fields: &[Field<'_>],
    write: impl FnOnce(&[u8]),
) {
    if enabled(Level::Error) {
        format(line, Level::Error, &sentence, fields);
        write(line.as_bytes());
    }
}

const LINE_BYTES_USUAL: usize = 256;

fn format(line: &mut String, level: Level, sentence: &dyn Display, fields: &[Field<'_>]) {
    let now = OffsetDateTime::now_utc();
    match STYLE.load(Ordering::Relaxed) == Style::Json as u8 {
        true => json(line, now, level, sentence, fields),
        false => pretty(
            line,
            now,
            level,
            sentence,
            fields,
            COLOUR.load(Ordering::Relaxed),
        ),
    }
}

fn pretty(
    line: &mut String,
    now: OffsetDateTime,
    level: Level,
    sentence: &dyn Display,
    fields: &[Field<'_>],
    colour: bool,
) {
    let (name, paint) = match level {
        Level::Silent | Level::Error => ("ERROR", "\x1b[31m"),
        Level::Warn => ("WARN ", "\x1b[33m"),
        Level::Info => ("INFO ", "\x1b[32m"),
        Level::Debug => ("DEBUG", "\x1b[34m"),
        Level::Trace => ("TRACE", "\x1b[35m"),
    };
    let (paint, dim, plain) = if colour {
        (paint, "\x1b[2m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    line.push_str(dim);
    timestamp(line, now);
    line.push_str(plain);
    line.push(' ');
    line.push_str(paint);
    line.push_str(name);
    line.push_str(plain);
    line.push(' ');
    // Writing to a String fails only where a Display itself fails; the line then ends there.
    let _ = write!(
        Escaped {
            line,
            quotes: false
        },
        "{sentence}"
    );
    for (key, value) in fields {
        line.push(' ');
        line.push_str(dim);
        line.extend(
            key.chars()
                .map(|char| if is_key(char) { char } else { '_' }),
        );
        line.push('=');
        line.push_str(plain);
        let start = line.len();
        let _ = write!(Escaped { line, quotes: true }, "{value}");
        if line.len() == start || line[start..].contains([' ', '=', '"', '\\']) {
            line.insert(start, '"');
            line.push('"');
        }
    }
    line.push('\n');
}

fn json(
    line: &mut String,
    now: OffsetDateTime,
    level: Level,
    sentence: &dyn Display,
    fields: &[Field<'_>],
) {
    line.push_str("{\"time\":\"");
    timestamp(line, now);
    let _ = write!(line, "\",\"level\":\"{level}\",\"message\":\"");
    let _ = write!(JsonText(line), "{sentence}");
    line.push('"');
    for (key, value) in fields {
        line.push_str(",\"");
        let _ = write!(JsonText(line), "{key}");
        // An extension's field must not take the place of one of ours.
        if matches!(*key, "time" | "level" | "message") {
            line.push('_');
        }
        line.push_str("\":\"");
        let start = line.len();
        let _ = write!(JsonText(line), "{value}");
        if is_quantity(key) && is_json_number(&line[start..]) {
            line.remove(start - 1);
        } else {
            line.push('"');
        }
    }
    line.push_str("}\n");
}

/// RFC 3339 with milliseconds.
fn timestamp(line: &mut String, now: OffsetDateTime) {
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    let (hour, minute, second, ms) = (now.hour(), now.minute(), now.second(), now.millisecond());
    let _ = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
    );
}

fn is_key(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-')
}

/// A field named by its unit is a number in JSON; every other one is text, so that a field never changes its type.
fn is_quantity(key: &str) -> bool {
    key == "status"
        || key == "port"
        || ["_ms", "_us", "_bytes", "_count"]
            .iter()
            .any(|unit| key.ends_with(unit))
}

fn is_json_number(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// Line breaks and whatever else a terminal or a log viewer acts upon.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text of a pretty line.
struct Escaped<'a> {
    line: &'a mut String,
    quotes: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' | '\\' if self.quotes => self.line.extend(['\\', char]),
                char if is_unsafe(char) => self.line.extend(char.escape_default()),
                char => self.line.push(char),
            }
        }
        Ok(())
    }
}

/// Text inside a JSON string.
struct JsonText<'a>(&'a mut String);

impl fmt::Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                '\n' => self.0.push_str("\\n"),
                char if is_unsafe(char) => write!(self.0, "\\u{:04x}", u32::from(char))?,
                char => self.0.push(char),
            }
        }
        Ok(())
    }
}

/// What third-party crates write to.
/// Notes that the host closes its sockets: that nothing can be accepted from them is no news then.
pub fn note_sockets_closed() {
    HAS_CLOSED.store(true, Ordering::Relaxed);
}

static HAS_CLOSED: AtomicBool = AtomicBool::new(false);

struct Facade;

impl ::log::Log for Facade {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        enabled(metadata.level().into())
    }

    fn log(&self, record: &::log::Record<'_>) {
        // Of a database that fails the store tells once; sqlx would for each connection.
        let is_told_elsewhere = record.target().starts_with("sqlx") && !enabled(Level::Trace);
        if ::log::Log::enabled(self, record.metadata())
            && record.level() <= ::log::max_level()
            && !is_told_elsewhere
        {
            let target = record.target();
            // What goes wrong on one connection is its client's, who could write as much as he likes.
            let mut level = Level::from(record.level());
            let is_of_closed_socket =
                target == "actix_server::accept" && HAS_CLOSED.load(Ordering::Relaxed);
            if target.starts_with("actix_http::") || is_of_closed_socket {
                level = level.max(Level::Debug);
            }
            log_limit::event(
                (target, ""),
                level,
                &record.args().to_string(),
                &[("target", &target)],
            );
        }
    }

    fn flush(&self) {}
}

impl From<::log::Level> for Level {
    fn from(level: ::log::Level) -> Level {
        match level {
            ::log::Level::Error => Level::Error,
            ::log::Level::Warn => Level::Warn,
            ::log::Level::Info => Level::Info,
            ::log::Level::Debug => Level::Debug,
            ::log::Level::Trace => Level::Trace,
        }
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Silent => "silent",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        })
    }
}

/// Directus's names; `fatal` is the same as `error` here.
impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        Ok(match text {
            "silent" => Level::Silent,
            "error" | "fatal" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            _ => {
                return Err(format!(
                    "unknown log level {text:?}, expected error, warn, info, debug, trace or silent"
                ));
            }
        })
    }
}

/// Directus's names; its `raw` is JSON, too.
impl FromStr for Style {
    type Err = String;

    fn from_str(text: &str) -> Result<Style, String> {
        match text {
            "pretty" => Ok(Style::Pretty),
            "json" | "raw" => Ok(Style::Json),
            _ => Err(format!(
                "unknown log style {text:?}, expected pretty or json"
            )),
        }
    }
}

impl TryFrom<String> for Level {
    type Error = String;

    fn try_from(text: String) -> Result<Level, String> {
        text.parse()
    }
}

impl TryFrom<String> for Style {
    type Error = String;

    fn try_from(text: String) -> Result<Style, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(1_795_395_134_123_000_000).unwrap()
    }

    fn pretty_line(sentence: &str, fields: &[Field<'_>]) -> String {
        let mut line = String::new();
        pretty(&mut line, noon(), Level::Info, &sentence, fields, false);
        line
    }

    fn json_line(sentence: &str, fields: &[Field<'_>]) -> String {
        let mut line = String::new();
        json(&mut line, noon(), Level::Warn, &sentence, fields);
        line
    }

    #[test]
    fn a_pretty_line_is_a_sentence_and_its_facts() {
        assert_eq!(
            pretty_line(
                "extension mounted",
                &[
                    ("id", &"twilio"),
                    ("routes", &3),
                    ("note", &"two words"),
                    ("empty", &"")
                ]
            ),
            "2026-11-23T00:52:14.123Z INFO  extension mounted id=twilio routes=3 note=\"two words\" empty=\"\"\n"
        );
    }

    #[test]
    fn a_json_line_is_an_object() {
        let line = json_line(
            "slow",
            &[
                ("duration_ms", &1.5),
                ("status", &200),
                ("id", &"123"),
                ("level", &"x"),
                ("wait_ms", &"soon"),
            ],
        );
        assert_eq!(
            line,
            "{\"time\":\"2026-11-23T00:52:14.123Z\",\"level\":\"warn\",\"message\":\"slow\",\"duration_ms\":1.5,\"status\":200,\"id\":\"123\",\"level_\":\"x\",\"wait_ms\":\"soon\"}\n"
        );
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }

    #[test]
    fn no_value_can_forge_a_line() {
        let evil = "a\nb\r\x1b[2J\u{2028}\u{202e}\"\\ \u{85}\0";
        let line = pretty_line(evil, &[("key\n=", &evil)]);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.trim_end().contains(is_unsafe), "{line:?}");
        let line = json_line(evil, &[("key\n", &evil)]);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.trim_end().contains(is_unsafe), "{line:?}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], evil);
        assert_eq!(object["key\n"], evil);
    }

    #[test]
    fn nothing_is_formatted_where_the_level_is_off() {
        struct Never;
        impl Display for Never {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("formatted")
            }
        }
        event(Level::Trace, "not written", &[("never", &Never)]);
        event(Level::Silent, "not written", &[("never", &Never)]);
    }

    #[test]
    fn a_field_may_log_itself() {
        struct Chatty;
        impl Display for Chatty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                event(Level::Error, "from inside a field", &[]);
                f.write_str("done")
            }
        }
        event(Level::Error, "outer", &[("field", &Chatty)]);
    }

    #[test]
    fn levels_and_styles_have_the_names_that_directus_uses() {
        assert_eq!("fatal".parse(), Ok(Level::Error));
        assert_eq!("silent".parse(), Ok(Level::Silent));
        assert_eq!("raw".parse(), Ok(Style::Json));
        assert!("loud".parse::<Level>().unwrap_err().contains("\"loud\""));
        assert!(Level::Error < Level::Trace);
    }
}
