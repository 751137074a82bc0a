//! The header and `abi.rs` cannot drift: the C compiler prints every size, offset and constant of the header, and Rust
//! compares. The header is also held to compile without a warning, as C11 and as C++17.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use extension_api::abi::*;

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

/// What Rust says: `sizeof name`, `offsetof name.field`, `CONSTANT`, each with its number.
fn of_rust() -> BTreeMap<String, i128> {
    let mut numbers = BTreeMap::new();
    macro_rules! structs {
        ($($name:ident { $($field:ident)* })*) => {$(
            numbers.insert(format!("sizeof {}", stringify!($name)), size_of::<$name>() as i128);
            $(
                let offset = offset_of!($name, $field) as i128;
                numbers.insert(format!("offsetof {}.{}", stringify!($name), stringify!($field)), offset);
            )*
            // Every field is named: a struct pattern without `..` says so.
            #[allow(unused_variables)]
            let all_named = |value: $name| { let $name { $($field),* } = value; };
        )*};
    }
    macro_rules! constants {
        ($($name:ident)*) => { $(numbers.insert(stringify!($name).to_owned(), i128::from($name));)* };
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
    for (name, size) in [
        ("ext_status", size_of::<ext_status>()),
        ("ext_endpoint", size_of::<ext_endpoint>()),
        ("ext_base", size_of::<ext_base>()),
    ] {
        numbers.insert(format!("sizeof {name}"), size as i128);
    }
    constants! {
        EXT_ABI_MAJOR EXT_ABI_MINOR
        EXT_OK EXT_END EXT_ABSENT EXT_CANCELLED EXT_GONE EXT_ANSWERED EXT_BUSY EXT_INVALID EXT_UNDECLARED EXT_DENIED EXT_TOO_LARGE
        EXT_BROKEN EXT_RESOLVE EXT_CONNECT EXT_TLS EXT_TIMEOUT EXT_FAILED EXT_STAGE
        EXT_ERROR_PANIC
        EXT_FETCH_TAKE_HEADERS EXT_FETCH_TAKE_BODY EXT_FETCH_STREAM_BODY EXT_FETCH_FOLLOW_REDIRECTS EXT_FETCH_DECOMPRESS
        EXT_ROUTE_BLOCKING EXT_ROUTE_WHOLE_BODY
        EXT_LOG_ERROR EXT_LOG_WARN EXT_LOG_INFO EXT_LOG_DEBUG EXT_LOG_TRACE
        EXT_MAGIC EXT_ENTRY_PANIC_ABORT EXT_ENTRY_OWNS_THREADS
    }
    numbers
}

/// What the C compiler says of the same names.
fn of_c(names: impl Iterator<Item = String>) -> BTreeMap<String, i128> {
    let mut program =
        String::from("#include \"extension_api.h\"\n#include <stdio.h>\nint main(void) {\n");
    for name in names {
        let expression = match name.split_once(' ') {
            Some(("sizeof", of)) => format!("sizeof({of})"),
            Some((_, of)) => format!("offsetof({})", of.replace('.', ", ")),
            None => name.clone(),
        };
        // Through 64 bits with the sign of the constant: EXT_MAGIC has none, the statuses have one.
        let _ = writeln!(
            program,
            "    printf(\"{name}=%s%llu\\n\", ({expression}) < 1 && ({expression}) != 0 ? \"-\" : \"\","
        );
        let _ = writeln!(
            program,
            "        (unsigned long long)(({expression}) < 1 ? 0 - (unsigned long long)({expression}) : (unsigned long long)({expression})));"
        );
    }
    program += "    return 0;\n}\n";
    let (source, binary) = (scratch("layout.c"), scratch("layout"));
    fs::write(&source, program).expect("the scratch folder can be written");
    // Comparing an unsigned size with 1 is meant; the header itself is held to every warning below.
    compile("cc", &["-std=c11", "-Wno-type-limits"], &source, &binary);
    let output = Command::new(&binary).output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("the program prints text");
    let number = |line: &str| {
        let (name, value) = line.split_once('=').expect("name=value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    text.lines().map(number).collect()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn compile(compiler: &str, flags: &[&str], source: &Path, output: &Path) {
    let mut command = Command::new(compiler);
    command
        .args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-I", INCLUDE])
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(output);
    let result = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {compiler}: {error}; a C compiler is needed"));
    assert!(
        result.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&result.stderr)
    );
}

#[test]
fn sizes_offsets_and_constants_are_those_of_the_header() {
    let of_rust = of_rust();
    let of_c = of_c(of_rust.keys().cloned());
    assert_eq!(of_c, of_rust);
}

#[test]
fn every_name_of_the_header_is_compared() {
    let header = fs::read_to_string(Path::new(INCLUDE).join("extension_api.h"))
        .expect("the header can be read");
    let known: BTreeSet<_> = of_rust()
        .into_keys()
        .map(|name| name.rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    let defined = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split_whitespace().next());
    let defined = defined
        .filter(|name| !["EXTENSION_API_H", "EXT_EXPORT"].contains(name))
        .map(str::to_owned);
    let structs = header
        .lines()
        .filter_map(|line| line.strip_prefix("typedef struct ")?.split_once(" {"));
    let structs: Vec<_> = structs.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(structs.len(), 16);
    for name in defined.chain(structs) {
        assert!(
            known.contains(&name),
            "{name} is in the header, not in abi.rs or this test"
        );
    }
}

#[test]
fn the_header_compiles_alone_and_without_a_warning() {
    for (compiler, standard, file) in [
        ("cc", "-std=c11", "alone.c"),
        ("c++", "-std=c++17", "alone.cc"),
    ] {
        let source = scratch(file);
        // Twice: the guard holds.
        fs::write(
            &source,
            "#include \"extension_api.h\"\n#include \"extension_api.h\"\n",
        )
        .expect("the scratch folder can be written");
        compile(
            compiler,
            &[standard, "-c"],
            &source,
            &scratch(&format!("{file}.o")),
        );
    }
}
