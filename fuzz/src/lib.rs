//! What holds of everything that reads foreign bytes, whatever the bytes are. Each function takes an input of the fuzzer's and
//! panics where its sentence is not true; the targets in `../targets` call one each.
//!
//! The ordinary tests call the same functions, with the seeds and with inputs of a generator: `host/tests/properties.rs` takes
//! this file in. Every path into the host stands here, below this line.

use extension_api::Form;
use extension_host::extension::gate;
use extension_host::extension::manifest::{Allow, Manifest};
use extension_host::http::facts::{HeaderFacts, RequestFacts};
use extension_host::identity::credential::presented;
use extension_host::identity::jwt::{Signed, Verifier};
use extension_host::identity::redact::{redact_headers, redact_url};
use extension_host::platform::env::{self, Env};
use extension_host::upstream::exchange::Exchange;
use extension_host::upstream::origin::Origin;
use extension_host::upstream::pool::{ConnectionPool, Lease};
use extension_host::upstream::request_head::RequestHead;
use extension_host::upstream::{Base, OutgoingBody};

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use actix_http::Method;
use actix_http::body::BodySize;
use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::hmac;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::{Url, form_urlencoded};

/// Panics where it does not hold of an input.
pub type Property = fn(&[u8]);

/// Every property by its name, which is also that of its target and of its folder in `../seeds`.
pub const PROPERTIES: [(&str, Property); 8] = [
    ("gate", gate),
    ("dotenv", dotenv),
    ("jwt", jwt),
    ("manifest", manifest),
    ("redaction", redaction),
    ("target", target),
    ("form", form),
    ("answer", answer),
];

/// An input that is taken piece by piece; zeros follow its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    /// One of these.
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// At most so many bytes; how many, a byte says.
    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let count = usize::from(self.byte()) % (most + 1);
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn text(&mut self, most: usize) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes(most))
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

// ---- The gate ----

/// A library that is accepted is of this ABI and says so in its bytes; a reason can always be told.
pub fn gate(bytes: &[u8]) {
    thread_local! {
        static FILE: File = scratch();
    }
    FILE.with(|file| {
        file.set_len(0).expect("a file can be emptied");
        file.write_all_at(bytes, 0).expect("a file can be written");
        let check = |allow_panic_abort| {
            let copy = file.try_clone().expect("a file can be opened once more");
            gate::check_copy(copy, Path::new("libfuzzed.so"), allow_panic_abort)
        };
        let (lenient, strict) = (check(true), check(false));
        match &lenient {
            Ok(entry) => {
                // As the header has it, and read without the gate: versions at 12 and 20, flags at 24.
                let number =
                    |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
                let panic_is = |aborts: bool| {
                    let mut magics = bytes
                        .windows(8)
                        .enumerate()
                        .filter(|(_, eight)| eight == b"EXTHOST1");
                    magics.any(|(at, _)| {
                        let versions = (number(at + 12), number(at + 20));
                        versions == (Some(1), Some(0))
                            && number(at + 24).is_some_and(|flags| (flags & 1 == 1) == aborts)
                    })
                };
                assert!(panic_is(strict.is_err()), "{entry:?}");
                assert_eq!((entry.abi_major, entry.needs_minor), (1, 0));
                assert!(entry.sdk.len() <= 3 * 32, "{:?}", entry.sdk);
                assert_eq!(strict.is_err(), entry.panics_abort());
            }
            Err(reason) => {
                assert!(!reason.to_string().is_empty());
                assert!(strict.is_err());
            }
        }
    });
}

/// A file without a name.
fn scratch() -> File {
    let path = std::env::temp_dir().join(format!(
        "extension-host-fuzz-{:?}-{}",
        std::thread::current().id(),
        std::process::id()
    ));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    let file = file.expect("the folder for temporary files can be written");
    std::fs::remove_file(&path).expect("a file can be removed");
    file
}

// ---- .env ----

/// Names are names and come from the text, and values mean the same when they are written again. A complaint names a line that
/// is there.
pub fn dotenv(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match env::parse(text) {
        Err((line, problem)) => {
            assert!(
                (1..=text.split('\n').count()).contains(&line),
                "line {line}"
            );
            // What is wrong is told without the text, which may be a secret.
            assert!(problem.len() < 80);
        }
        Ok(variables) => {
            let mut again = String::new();
            let mut kept = variables.clone();
            // There is no way to write one that ends so in quotes.
            kept.retain(|_, value| {
                !(value.ends_with('\\') || value.contains('\'') && value.contains('`'))
            });
            for (name, value) in &kept {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
                assert!(!name.is_empty() && name.bytes().all(is_name), "{name:?}");
                assert!(text.contains(name.as_str()));
                let quote = if value.contains('\'') { '`' } else { '\'' };
                let _ = writeln!(again, "export {name} = {quote}{value}{quote} # a comment");
            }
            assert_eq!(env::parse(&again).as_ref(), Ok(&kept), "{again}");
        }
    }
}

// ---- Tokens ----

const SECRET: &str = "the secret of the fuzz targets";

/// A token is good only where it was signed with our secret, by an independent reading of it, and where what it claims says so.
pub fn jwt(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut input = Input(bytes);
    match input.byte() % 3 {
        // Whatever comes.
        0 => believed_rightly(input.rest(), now),
        // Claims of the fuzzer's, signed with our secret and with another one.
        1 => {
            let header = input.one(&[
                r#"{"alg":"HS256"}"#,
                r#"{"alg":"none"}"#,
                r#"{"alg":"HS512"}"#,
                r#"{"alg":"HS256","crit":["x"]}"#,
            ]);
            let text = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(header),
                URL_SAFE_NO_PAD.encode(input.rest())
            );
            believed_rightly(signed(&text, SECRET).as_bytes(), now);
            assert!(!is_good(signed(&text, "another secret").as_bytes(), now));
            assert!(!is_good(format!("{text}.").as_bytes(), now));
        }
        // A good token in which something is changed.
        _ => {
            let claims = r#"{"id":"u","role":"r","app_access":true,"admin_access":false,"iat":1,"exp":2000000,"iss":"directus"}"#;
            let text = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
                URL_SAFE_NO_PAD.encode(claims)
            );
            let good = signed(&text, SECRET).into_bytes();
            assert!(is_good(&good, now));
            let mut changed = good.clone();
            for change in input.rest().chunks_exact(3).take(8) {
                let at = (usize::from(change[0]) << 8 | usize::from(change[1])) % changed.len();
                changed[at] = change[2];
            }
            assert_eq!(
                is_good(&changed, now),
                changed == good,
                "{}",
                String::from_utf8_lossy(&changed)
            );
        }
    }
}

fn signed(text: &str, secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!(
        "{text}.{}",
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))
    )
}

fn is_good(token: &[u8], now: SystemTime) -> bool {
    assert!(!matches!(
        Verifier::new(None).read(token, now),
        Signed::Good(_)
    ));
    matches!(
        Verifier::new(Some(SECRET)).read(token, now),
        Signed::Good(_)
    )
}

fn believed_rightly(token: &[u8], now: SystemTime) {
    let Signed::Good(claimed) = Verifier::new(Some(SECRET)).read(token, now) else {
        return;
    };
    let text = std::str::from_utf8(token).expect("a good token is text");
    let parts: Vec<_> = text.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("{text}")
    };
    let decode = |part| URL_SAFE_NO_PAD.decode(part).expect("a good token's part");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let is_signed = hmac::verify(
        &key,
        format!("{header}.{payload}").as_bytes(),
        &decode(signature),
    );
    assert!(is_signed.is_ok(), "{text}");
    let header: Value = serde_json::from_slice(&decode(header)).expect("a good token's header");
    // Of a claim that nobody reads, nobody asks whether it is UTF-8.
    let claims = decode(payload);
    let claims: Value =
        serde_json::from_str(&String::from_utf8_lossy(&claims)).expect("a good token's claims");
    assert_eq!(
        (&header["alg"], header.get("crit")),
        (&Value::from("HS256"), None),
        "{header}"
    );
    assert_eq!(claims["iss"], "directus", "{claims}");
    assert!(
        claims["exp"]
            .as_f64()
            .is_some_and(|expires| expires > 1_000_000.0),
        "{claims}"
    );
    let is_true = |name: &str| claims[name] == true || claims[name].as_f64() == Some(1.0);
    assert!(!claimed.who.admin || is_true("admin_access"), "{claims}");
    assert!(!claimed.who.app || is_true("app_access"), "{claims}");
    let user = claims["id"].as_str().filter(|user| !user.is_empty());
    assert_eq!(claimed.who.user.as_deref(), user);
    assert!(user.is_some() || !claimed.who.admin);
}

// ---- Manifests ----

/// A manifest that is accepted names one file, distinct variables, and allows nothing that it does not name.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    if let Some(library) = &manifest.library {
        let mut parts = Path::new(library).components();
        assert!(
            matches!(parts.next(), Some(std::path::Component::Normal(name)) if name == library.as_str())
        );
        assert!(
            parts.next().is_none() && !library.contains('\\'),
            "{library}"
        );
    }
    let mut names: Vec<_> = manifest.env.all().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|name| manifest.env.declares(name)));
    let env = Env::from_pairs(
        names
            .iter()
            .map(|name| (*name, "https://of-a-variable.example/path")),
    );
    manifest
        .check_variables(&env)
        .expect("each variable is set");
    let allowed = manifest
        .allowed_origins(&env)
        .expect("each variable holds a URL");
    let origin = |url| Origin::of_url(url).expect("an origin");
    let has_any = manifest.fetch.allow.contains(&Allow::Any);
    let has_variable = manifest
        .fetch
        .allow
        .iter()
        .any(|entry| matches!(entry, Allow::Variable(_)));
    if !text.contains("of-nobody") {
        assert_eq!(
            allowed.allows(&origin("https://of-nobody.example")),
            has_any
        );
    }
    if !text.contains("of-a-variable") {
        assert_eq!(
            allowed.allows(&origin("https://of-a-variable.example")),
            has_any || has_variable
        );
        assert_eq!(
            allowed.allows(&origin("http://of-a-variable.example")),
            has_any
        );
    }
}

// ---- Redaction ----

/// What a credential is in the inputs below; it stands nowhere else.
const TOKEN: &str = "T0PSECRET";

/// After redaction nobody finds a credential, however it was spelled, and everything else is as it was.
pub fn redaction(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 4 {
        0 => redacts_anything(input),
        1 => redacts_urls(input),
        2 => redacts_cookies(input),
        _ => redacts_headers(input),
    }
}

/// Any URL, then header lines: what the host itself would take for a token is gone, and redacting again changes nothing.
fn redacts_anything(input: Input<'_>) {
    let text = String::from_utf8_lossy(input.rest());
    let mut lines = text.split('\n');
    let url = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or(("cookie", line));
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    let url = redact_url(url);
    redact(&mut headers, false);
    assert_eq!(redact_url(&url), url);
    let query = url.split_once('?').map(|(_, query)| query);
    let facts = RequestFacts::of(&headers, query, false);
    assert!(
        matches!(presented(&headers, &facts, query), Ok(None)),
        "{url} {headers:?}"
    );
}

fn redact(headers: &mut HeaderMap, keep_basic: bool) {
    let facts = HeaderFacts::of(headers);
    redact_headers(headers, &facts, keep_basic);
}

fn redacts_urls(mut input: Input<'_>) {
    let path = input.one(&["/", "/a", "//a/access_token=b", "/%3Faccess_token=b"]);
    let (mut all, mut harmless) = (Vec::new(), Vec::new());
    for number in 0..input.byte() % 8 {
        if input.flag() {
            all.push(token_parameter(&mut input));
        } else {
            let name = input.one(&[
                "a",
                "",
                "xaccess_token",
                "access_tokens",
                "ACCESS_TOKEN",
                "access%255Ftoken",
                "a%5b",
                "%",
            ]);
            let parameter = format!("{name}={number}?access_token=b");
            all.push(parameter.clone());
            harmless.push(parameter);
        }
    }
    let join = |parameters: &[String]| match parameters {
        [] => path.to_owned(),
        _ => format!("{path}?{}", parameters.join("&")),
    };
    let url = join(&all);
    assert_eq!(redact_url(&url), join(&harmless), "{url}");
    // The same in the header that tells where a link was followed.
    let mut headers = HeaderMap::new();
    let referer = format!(
        "{}{}",
        input.one(&["https://x", "", "/?next="]),
        token_parameter(&mut input)
    );
    let value = HeaderValue::from_str(&referer).expect("a header");
    headers.append(header::REFERER, value);
    redact(&mut headers, true);
    assert!(headers.is_empty(), "{referer}");
}

/// `access_token=…` in one of its spellings.
fn token_parameter(input: &mut Input<'_>) -> String {
    let mut spelled = String::new();
    for byte in "access_token".bytes() {
        let _ = match input.byte() % 4 {
            0 => write!(spelled, "%{byte:02x}"),
            1 => write!(spelled, "%{byte:02X}"),
            _ => write!(spelled, "{}", char::from(byte)),
        };
    }
    spelled += input.one(&["", "[]", "[a][b]", "%5B%5D", "%5b0", "["]);
    format!("{spelled}={TOKEN}")
}

fn redacts_cookies(mut input: Input<'_>) {
    let mut headers = HeaderMap::new();
    let mut harmless = Vec::new();
    for line in 0..1 + input.byte() % 3 {
        let mut value = String::new();
        for number in 0..1 + input.byte() % 5 {
            if number > 0 {
                value += input.one(&["; ", ";", ";  ", " ; ", ";\t"]);
            }
            if input.flag() {
                let name = input.one(&["directus_session_token", "directus_refresh_token"]);
                let (before, behind) = (
                    input.one(&["", " ", "\t"]),
                    input.one(&["=", " =", "= ", "\t=", "=\""]),
                );
                let _ = write!(value, "{before}{name}{behind}{TOKEN}");
            } else {
                let name = input.one(&[
                    "a",
                    "xdirectus_session_token",
                    "directus_session_token2",
                    "Directus_Session_Token",
                    "directus",
                ]);
                let cookie = format!("{name}=v{line}.{number}");
                value += &cookie;
                harmless.push(cookie);
            }
        }
        let value = HeaderValue::from_str(&value).expect("a header");
        headers.append(header::COOKIE, value);
    }
    let before = format!("{headers:?}");
    redact(&mut headers, false);
    let left: Vec<_> = headers
        .get_all(header::COOKIE)
        .flat_map(|value| value.to_str().expect("text").split(';'))
        .map(|cookie| cookie.trim().to_owned())
        .filter(|cookie| !cookie.is_empty())
        .collect();
    assert_eq!(left, harmless, "{before}");
}

fn redacts_headers(mut input: Input<'_>) {
    let mut headers = HeaderMap::new();
    let mut basic = 0;
    for _ in 0..1 + input.byte() % 4 {
        let scheme = input.one(&[
            "Bearer ", "bearer  ", "Basic ", "bAsic ", "Basic", "", "Token ", "Basic\t", "Digest ",
        ]);
        let value = HeaderValue::from_str(&format!("{scheme}{TOKEN}")).expect("a header");
        basic += usize::from(scheme.eq_ignore_ascii_case("basic "));
        headers.append(header::AUTHORIZATION, value);
    }
    headers.append(header::ACCEPT, HeaderValue::from_static("access_token=1"));
    let keeps_basic = input.flag();
    redact(&mut headers, keeps_basic);
    let left = headers.get_all(header::AUTHORIZATION).count();
    assert_eq!(left, if keeps_basic { basic } else { 0 });
    assert!(headers.contains_key(header::ACCEPT));
}

// ---- Bases and targets ----

/// A target stays on its base, as a browser would read the two, and is one line of a request, whatever a caller puts into it.
pub fn target(bytes: &[u8]) {
    let mut input = Input(bytes);
    let of_fuzzer = input.text(40);
    let url = match input.byte() % 6 {
        0 => "https://api.example",
        1 => "http://127.0.0.1:8080/v1",
        2 => "https://api.example:8443/a/b/",
        3 => "http://[::1]:81/x",
        _ => &of_fuzzer,
    };
    let method = input.one(&[Method::GET, Method::POST].each_ref()).clone();
    let target = String::from_utf8_lossy(input.rest());
    let Ok(base) = Base::parse(url) else { return };
    let mut line = Vec::new();
    let is_taken = base.write_target(&mut line, &target).is_some();
    let head = RequestHead::new(&method, &base, &target);
    assert_eq!(head.is_some(), is_taken);
    let Some(head) = head else { return };

    // One line, and nothing of the caller's after it.
    let written = String::from_utf8(head.finish(BodySize::None)).expect("text");
    let line = String::from_utf8(line).expect("text");
    let host = base.host().to_str().expect("text");
    let length = if method == Method::POST {
        "content-length: 0\r\n"
    } else {
        ""
    };
    assert_eq!(
        written,
        format!("{method} {line} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n")
    );
    assert!(
        line.starts_with('/') && !line.contains([' ', '\t', '\r', '\n', '#', '\0', '\u{7f}']),
        "{line:?}"
    );
    assert!(line.ends_with(target.as_ref()));

    // On the base, as another program reads it.
    let Ok(base_read) = Url::parse(url.trim_end_matches('/')) else {
        return;
    };
    let whole = format!("{}{line}", &base.url().to_string().trim_end_matches('/'));
    let read = Url::parse(&whole).unwrap_or_else(|error| panic!("{whole}: {error}"));
    assert_eq!(read.host(), base_read.host(), "{whole}");
    assert_eq!(
        (read.port_or_known_default(), read.username()),
        (base_read.port_or_known_default(), ""),
        "{whole}"
    );
    // A base that itself climbs is its author's affair.
    let path = base_read.path().trim_end_matches('/');
    if !path.is_empty() && url.contains(path) && !path.contains("//") {
        let rest = read.path().strip_prefix(path);
        assert!(
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            "{whole} is read as {read}"
        );
        let decoded = read
            .path()
            .to_ascii_lowercase()
            .replace("%2f", "/")
            .replace("%5c", "/")
            .replace("%2e", ".");
        assert!(
            !decoded.split('/').any(|segment| segment == ".."),
            "{whole}"
        );
    }
}

// ---- Forms ----

/// A form is read and written as the URL standard says, and a JSON object loses nothing by becoming one.
pub fn form(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => {
            let text = String::from_utf8_lossy(input.rest());
            let form = Form::from_encoded(text.as_ref());
            let standard: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
            assert_eq!(form.pairs().collect::<Vec<_>>(), standard, "{text}");
        }
        1 => {
            let (mut form, mut standard) =
                (Form::new(), form_urlencoded::Serializer::new(String::new()));
            let mut pairs = Vec::new();
            while !input.0.is_empty() {
                let (name, value) = (input.text(20), input.text(20));
                form = form.field(&name, &value);
                standard.append_pair(&name, &value);
                pairs.push((name, value));
            }
            assert_eq!(form.as_str(), standard.finish());
            assert_eq!(form.pairs().collect::<Vec<_>>(), pairs);
        }
        _ => of_json(input.rest()),
    }
}

fn of_json(json: &[u8]) {
    let form = match (
        serde_json::from_slice::<Form>(json),
        serde_json::from_slice::<Entries>(json),
    ) {
        (Ok(form), Ok(entries)) => (form, entries),
        // A number that no double holds is text to the one and a fault to the other.
        (_, Err(_)) => return,
        (Err(error), Ok(entries)) => panic!("{error}: {:?}", entries.0),
    };
    let (form, entries) = form;
    let mut pairs = form.pairs();
    let flat = entries.0.iter().flat_map(|(name, value)| match value {
        Value::Array(values) => values.iter().map(|value| (name, value)).collect::<Vec<_>>(),
        value => vec![(name, value)],
    });
    for (name, value) in flat.filter(|(_, value)| !value.is_null()) {
        let (found, text) = pairs.next().unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(&found, name);
        match value {
            Value::String(string) => assert_eq!(&text, string),
            value => assert_eq!(
                &serde_json::from_str::<Value>(&text).expect("JSON"),
                value,
                "{text}"
            ),
        }
    }
    assert_eq!(pairs.next(), None);
}

/// A JSON object with its names in their order, each as often as it stands there.
struct Entries(Vec<(String, Value)>);

impl<'de> serde::de::Deserialize<'de> for Entries {
    fn deserialize<D: serde::de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Entries, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

// ---- Answers of upstreams ----

/// An answer means the same however its bytes arrive, and a well-made one is read to its exact end.
pub fn answer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (kind, is_head) = (input.byte(), input.byte() % 8 == 0);
    let pieces = usize::from(input.byte());
    let (bytes, expected) = match kind % 2 {
        0 => (input.rest().to_vec(), None),
        _ => {
            let (bytes, body) = well_made(&mut input, is_head);
            (bytes, Some(body))
        }
    };
    let at_once = Outcome::of([Bytes::from(bytes.clone())].into(), is_head);
    let in_pieces = bytes
        .chunks(1 + pieces % 64)
        .map(Bytes::copy_from_slice)
        .collect();
    assert_eq!(
        Outcome::of(in_pieces, is_head),
        at_once,
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    if let Some(body) = expected {
        assert_eq!(
            (at_once.body, at_once.failed),
            (body, None),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// An answer as a server may send it, and its body.
fn well_made(input: &mut Input<'_>, is_head: bool) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    for _ in 0..input.byte() % 3 {
        bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }
    let status = input.one(&[
        "200 OK",
        "200",
        "204 No Content",
        "304 Not Modified",
        "404 Not Found",
        "599 ",
    ]);
    let has_body = !is_head && !["204 No Content", "304 Not Modified"].contains(&status);
    let connection = input.one(&["", "Connection: close\r\n", "Connection: keep-alive\r\n"]);
    bytes.extend_from_slice(
        format!("HTTP/1.1 {status}\r\n{connection}X-Name:  value \r\n").as_bytes(),
    );
    let mut body = Vec::new();
    match input.byte() % 3 {
        0 => {
            body.extend_from_slice(input.bytes(255));
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            if has_body {
                bytes.extend_from_slice(&body);
            }
        }
        1 => {
            let name = input.one(&[
                "Transfer-Encoding: chunked",
                "transfer-encoding:chunked",
                "Transfer-Encoding: Chunked",
            ]);
            bytes.extend_from_slice(format!("{name}\r\n\r\n").as_bytes());
            for _ in 0..input.byte() % 6 {
                let chunk = input.bytes(40);
                if chunk.is_empty() || !has_body {
                    continue;
                }
                let size = match input.byte() % 4 {
                    0 => format!("{:X}", chunk.len()),
                    1 => format!("00{:x}", chunk.len()),
                    2 => format!("{:x};name=value", chunk.len()),
                    _ => format!("{:x}", chunk.len()),
                };
                body.extend_from_slice(chunk);
                bytes.extend_from_slice(format!("{size}\r\n").as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            if has_body {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        _ => {
            bytes.extend_from_slice(b"\r\n");
            if has_body {
                body.extend_from_slice(input.bytes(255));
                bytes.extend_from_slice(&body);
            }
        }
    }
    if !has_body {
        body.clear();
    }
    (bytes, body)
}

/// What the host makes of an answer.
#[derive(Debug, PartialEq, Default)]
struct Outcome {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    declared: Option<u64>,
    body: Vec<u8>,
    /// A status of the ABI.
    failed: Option<i32>,
}

impl Outcome {
    fn of(pieces: VecDeque<Bytes>, is_head: bool) -> Self {
        thread_local! {
            static SYSTEM: actix_rt::SystemRunner = actix_rt::System::new();
            static POOL: RefCell<Option<Rc<ConnectionPool>>> = RefCell::default();
        }
        let read = async {
            let pool = POOL.with_borrow_mut(|pool| {
                pool.get_or_insert_with(|| Rc::new(ConnectionPool::new(&Default::default())))
                    .clone()
            });
            let base = Base::parse("http://upstream.example").expect("a base");
            let method = if is_head { Method::HEAD } else { Method::GET };
            let head = RequestHead::new(&method, &base, "/").expect("a head");
            let mut exchange = Exchange::new(
                Lease::of(&pool, Box::new(Memory(pieces))),
                head,
                OutgoingBody::Empty,
            );
            let mut outcome = Self::default();
            match poll_fn(|cx| exchange.poll_head(cx)).await {
                Err(failed) => outcome.failed = Some(failed.status),
                Ok(head) => {
                    outcome.status = head.status.as_u16();
                    outcome.headers = head
                        .headers
                        .iter()
                        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                        .collect();
                    outcome.headers.sort();
                    outcome.declared = exchange.declared();
                    while let Some(chunk) = poll_fn(|cx| exchange.poll_chunk(cx)).await {
                        match chunk {
                            Ok(chunk) => outcome.body.extend_from_slice(&chunk),
                            Err(status) => outcome.failed = Some(status),
                        }
                    }
                }
            }
            outcome
        };
        SYSTEM.with(|system| system.block_on(read))
    }
}

/// A connection whose other end has sent all it will.
struct Memory(VecDeque<Bytes>);

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let part = piece.split_to(piece.len().min(to.remaining()));
            to.put_slice(&part);
            if !piece.is_empty() {
                self.0.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
