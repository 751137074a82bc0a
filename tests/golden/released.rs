//! What ABI 1.0 released never changes: today's header and `abi.rs` still have every name of the copies in `golden/1.0`, with
//! its number, its layout and its declaration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use extension_api::abi;

use crate::support::built;

#[path = "1.0/abi.rs"]
#[allow(
    dead_code,
    unfulfilled_lint_expectations,
    reason = "a copy: it is not public here, and not all of it is compared"
)]
mod abi_1_0;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/1.0")
}

fn header_of_today() -> PathBuf {
    built::checkout().join("extension-api/include/extension_api.h")
}

/// What a header declares, without comments and with single spaces.
struct Header {
    /// Name and value of each `#define` that has one.
    constants: Vec<(String, String)>,
    /// Name and type of each `typedef` of a number.
    numbers: Vec<(String, String)>,
    /// Each struct's fields: name and whole declaration.
    structs: BTreeMap<String, Vec<(String, String)>>,
}

impl Header {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("the header can be read");
        let text = without_comments(&text);
        let mut header = Self {
            constants: Vec::new(),
            numbers: Vec::new(),
            structs: BTreeMap::new(),
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("#define"), Some(name)) if name != "EXT_EXPORT" => {
                    let value = words.collect::<Vec<_>>().join(" ");
                    if !value.is_empty() {
                        header.constants.push((name.to_owned(), value));
                    }
                }
                (Some("typedef"), Some(of)) if of != "struct" => {
                    let name = words.next().expect("a name").trim_end_matches(';');
                    header.numbers.push((name.to_owned(), of.to_owned()));
                }
                _ => {}
            }
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in text.split("typedef struct ").skip(1) {
            let Some((name, rest)) = part.split_once(" {") else {
                continue;
            };
            let (fields, _) = rest.split_once('}').expect("a struct ends");
            let fields = fields
                .split(';')
                .map(str::trim)
                .filter(|field| !field.is_empty());
            let fields = fields
                .map(|field| (name_of(field).to_owned(), field.to_owned()))
                .collect();
            header.structs.insert(name.to_owned(), fields);
        }
        header
    }
}

fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("/*") {
        kept.push_str(before);
        kept.push(' ');
        // A comment over several lines ends the line that it begins on.
        let (comment, after) = behind.split_once("*/").expect("a comment ends");
        kept.push_str(if comment.contains('\n') { "\n" } else { "" });
        rest = after;
    }
    kept + rest
}

/// The name in a field's declaration: `f` of `void (*f)(int a)`, else the last word, without an array's length.
fn name_of(field: &str) -> &str {
    if let Some((_, rest)) = field.split_once("(*") {
        return rest.split(')').next().unwrap_or_default();
    }
    let last = field
        .split(['[', ' '])
        .rfind(|word| !word.is_empty() && !word.ends_with(']'));
    last.unwrap_or_default().trim_start_matches('*')
}

/// Structs that say their own size may grow at their end, all others are as they are.
fn may_grow(fields: &[(String, String)]) -> bool {
    fields.iter().any(|(name, _)| name == "struct_size")
}

#[test]
fn todays_header_declares_everything_of_1_0_as_it_was() {
    let (old, new) = (
        Header::read(&golden().join("extension_api.h")),
        Header::read(&header_of_today()),
    );
    assert_eq!(
        (
            old.structs.len(),
            old.structs["ext_callbacks"].len(),
            old.constants.len()
        ),
        (16, 33, 36)
    );
    // The minor version counts what was added.
    for (name, value) in old
        .constants
        .iter()
        .filter(|(name, _)| name != "EXT_ABI_MINOR")
    {
        assert!(
            new.constants.contains(&(name.clone(), value.clone())),
            "{name} was {value}"
        );
    }
    for number in &old.numbers {
        assert!(new.numbers.contains(number), "{number:?}");
    }
    for (name, fields) in &old.structs {
        let today = new
            .structs
            .get(name)
            .unwrap_or_else(|| panic!("struct {name} is gone"));
        assert_eq!(&today[..fields.len().min(today.len())], fields, "{name}");
        assert!(
            today.len() == fields.len() || may_grow(fields),
            "{name} grew, and nobody can tell"
        );
    }
}

/// The one thing that a library exports: its name, and that it can be seen from outside.
#[test]
fn todays_header_exports_the_entry_of_1_0() {
    let entry = |header: PathBuf| {
        let text = std::fs::read_to_string(header).expect("a header");
        let lines = text.lines().filter(|line| {
            line.contains("define EXT_EXPORT") || line.starts_with("extern EXT_EXPORT")
        });
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let released = entry(golden().join("extension_api.h"));
    assert_eq!(released.len(), 3);
    assert_eq!(entry(header_of_today()), released);
}

#[test]
fn todays_header_lays_everything_of_1_0_out_as_it_was() {
    let old = Header::read(&golden().join("extension_api.h"));
    // Both headers in one program: the old one under other names.
    let renamed =
        fs::read_to_string(golden().join("extension_api.h")).expect("the header can be read");
    let renamed = renamed
        .replace("ext_", "old_ext_")
        .replace("EXT_", "OLD_EXT_")
        .replace("EXTENSION_API_H", "OLD_H");
    let renamed = renamed.replace("extension_entry_v1", "old_extension_entry_v1");
    let mut program = format!("#include \"extension_api.h\"\n{renamed}\n");
    let mut hold = |condition: &str| {
        let _ = writeln!(program, "_Static_assert({condition}, \"\");");
    };
    for (name, _) in old
        .constants
        .iter()
        .filter(|(name, _)| name.starts_with("EXT_") && name != "EXT_ABI_MINOR")
    {
        hold(&format!(
            "OLD_{name} == {name} && sizeof OLD_{name} == sizeof {name}"
        ));
        hold(&format!("(OLD_{name} < 0) == ({name} < 0)"));
    }
    for (name, _) in &old.numbers {
        hold(&format!(
            "sizeof(old_{name}) == sizeof({name}) && ((old_{name})-1 < 0) == (({name})-1 < 0)"
        ));
    }
    for (name, fields) in &old.structs {
        let sizes = if may_grow(fields) { "<=" } else { "==" };
        hold(&format!(
            "sizeof(old_{name}) {sizes} sizeof({name}) && _Alignof(old_{name}) == _Alignof({name})"
        ));
        for (field, _) in fields {
            hold(&format!(
                "offsetof(old_{name}, {field}) == offsetof({name}, {field})"
            ));
            let size = |of: &str| format!("sizeof((({of} *)0)->{field})");
            hold(&format!(
                "{} == {}",
                size(&format!("old_{name}")),
                size(name)
            ));
        }
    }
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("released.c");
    fs::write(&source, program).expect("the scratch folder can be written");
    compiles(&source);
}

#[test]
fn todays_header_compiles_what_was_written_for_1_0() {
    compiles(&golden().join("c/golden.c"));
}

#[test]
fn the_golden_extension_in_c_uses_every_callback() {
    let old = Header::read(&golden().join("extension_api.h"));
    let source = fs::read_to_string(golden().join("c/golden.c")).expect("the source can be read");
    let callbacks = old.structs["ext_callbacks"].iter().skip(2);
    for (name, _) in callbacks {
        assert!(source.contains(&format!("host->{name}(")), "{name}");
    }
}

/// Compiles with today's header before anything that the source includes itself: its guard then keeps the old one out.
#[track_caller]
fn compiles(source: &Path) {
    let done = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-pedantic",
            "-Werror",
            "-Wno-type-limits",
            "-fsyntax-only",
        ])
        .arg("-I")
        .arg(built::checkout().join("extension-api/include"))
        .args(["-include", "extension_api.h"])
        .arg(source)
        .output()
        .expect("the tests need a C compiler called cc");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// `abi.rs` is public: who uses it by name finds the same names. That its layouts are the header's is held by
/// `extension-api/tests/layout.rs`.
#[test]
fn todays_abi_in_rust_has_everything_of_1_0() {
    macro_rules! structs {
        ($($name:ident { $($field:ident)* })*) => {$($(
            assert_eq!(offset_of!(abi::$name, $field), offset_of!(abi_1_0::$name, $field), stringify!($name.$field));
        )*)*};
    }
    macro_rules! constants {
        ($($name:ident)*) => { $(assert_eq!(abi::$name, abi_1_0::$name, stringify!($name));)* };
    }
    structs! {
        ext_slice { ptr len }
        ext_buffer { ptr len owner release }
        ext_field { name value }
        ext_request { slot generation }
        ext_fetched { slot generation }
        ext_op { slot generation }
        ext_result { struct_size status data fetched message }
        ext_completion { function user }
        ext_accountability { user role roles role_count ip user_agent origin session admin app reserved }
        ext_request_head { struct_size http_version method url path query params param_count peer id deadline_ms body_length body accountability }
        ext_response { struct_size status headers header_count body }
        ext_error { struct_size status code message cause flags reserved }
        ext_fetch { struct_size flags base reserved method target headers header_count body request connect_ms first_byte_ms total_ms }
        ext_fetched_head { struct_size status body_length }
        ext_callbacks {
            struct_size abi_minor get_interface endpoint route refuse env log_enabled log base head header headers read respond fail
            stream write end relay drop watch sleep post cancel fetch fetch_write fetch_end fetched_head fetched_header
            fetched_headers fetched_read fetched_drop
        }
        ext_entry { magic struct_size abi_major abi_minor needs_minor flags reserved sdk create handle stop destroy }
    }
    constants! {
        EXT_ABI_MAJOR
        EXT_OK EXT_END EXT_ABSENT EXT_CANCELLED EXT_GONE EXT_ANSWERED EXT_BUSY EXT_INVALID EXT_UNDECLARED EXT_DENIED EXT_TOO_LARGE
        EXT_BROKEN EXT_RESOLVE EXT_CONNECT EXT_TLS EXT_TIMEOUT EXT_FAILED EXT_STAGE
        EXT_ERROR_PANIC
        EXT_FETCH_TAKE_HEADERS EXT_FETCH_TAKE_BODY EXT_FETCH_STREAM_BODY EXT_FETCH_FOLLOW_REDIRECTS EXT_FETCH_DECOMPRESS
        EXT_ROUTE_BLOCKING EXT_ROUTE_WHOLE_BODY
        EXT_LOG_ERROR EXT_LOG_WARN EXT_LOG_INFO EXT_LOG_DEBUG EXT_LOG_TRACE
        EXT_MAGIC EXT_ENTRY_PANIC_ABORT EXT_ENTRY_OWNS_THREADS
    }
}
