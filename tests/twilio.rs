//! The Twilio proxy in the real host, against an upstream that records what Twilio would see; and against the stand-in, with
//! the host calling itself.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::host::{Plan, request};
use crate::support::upstream::{Call, Then, ok};
use crate::support::{ADMIN_TOKEN, Answer, DEADLINE, Extension, Host, Upstream, built};

const SID: &str = "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TOKEN: &str = "the-auth-token-of-the-account";

/// An extension of this checkout: its own manifest, and its library.
fn of_checkout(name: &str) -> Extension {
    let folder = built::checkout().join("extensions").join(name);
    let manifest = fs::read_to_string(folder.join("extension.toml")).expect("a manifest");
    Extension::of(name, built::library(&name.replace('-', "_"))).manifest(&manifest)
}

fn twilio() -> Extension {
    of_checkout("directus-extension-endpoint-twilio")
}

fn plan(base: &str) -> Plan {
    Host::plan()
        .extensions(&[&twilio()])
        .dotenv("TWILIO_ACCOUNT_SID", SID)
        .dotenv("TWILIO_AUTH_TOKEN", TOKEN)
        .dotenv("TWILIO_API_BASE", base)
}

fn host(upstream: &Upstream) -> Host {
    plan(&upstream.url()).start()
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{SID}:{TOKEN}")))
}

/// Sends as the administrator.
#[track_caller]
fn ask(host: &Host, head: &str, body: impl AsRef<[u8]>) -> Answer {
    host.ask(
        &format!("{head}\nAuthorization: Bearer {ADMIN_TOKEN}"),
        body,
    )
}

/// Exactly one Authorization, which is the account's.
#[track_caller]
fn is_authorized(call: &Call) {
    assert_eq!(call.headers_named("authorization"), [basic()], "{call:#?}");
    assert!(!call.whole().contains(ADMIN_TOKEN), "{call:#?}");
}

/// Neither the account's token nor what is made of it.
#[track_caller]
fn is_free_of_secrets(text: &str) {
    for secret in [TOKEN, ADMIN_TOKEN, basic().trim_start_matches("Basic ")] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

// ---- Who may ----

#[test]
fn anonymous_requests_never_reach_twilio() {
    let upstream = Upstream::saying("never");
    let host = host(&upstream);
    for head in [
        "GET /twilio",
        "GET /twilio/2010-04-01/Accounts.json",
        "POST /twilio/2010-04-01/Accounts.json",
        "DELETE /twilio/x",
        "GET /twilio/x\nAuthorization: Basic dTpw",
        "GET /twilio/x\nAuthorization: Token x",
    ] {
        let answer = host.ask(head, "");
        assert_eq!(answer.status, 403, "{head}");
        assert_eq!(answer.text(), "You don't have permission to access this.");
        let content_type = answer.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("text/plain"), "{content_type}");
    }
    assert_eq!(
        host.get("/twilio/x\nAuthorization: Bearer wrong").status,
        401
    );
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_signed_in_caller_reaches_twilio_with_the_accounts_credentials_alone() {
    let upstream = Upstream::saying("hello");
    let host = host(&upstream);
    for head in [
        format!("GET /twilio/x\nAuthorization: Bearer {ADMIN_TOKEN}"),
        format!("GET /twilio/x?access_token={ADMIN_TOKEN}"),
        format!("GET /twilio/x\nCookie: directus_session_token={ADMIN_TOKEN}"),
        format!("GET /twilio/x?access_token={ADMIN_TOKEN}\nAuthorization: Basic dTpw"),
    ] {
        let before = upstream.calls().len();
        let answer = host.ask(&head, "");
        assert_eq!((answer.status, answer.text()), (200, "hello"), "{head}");
        let call = upstream.calls().remove(before);
        is_authorized(&call);
        assert_eq!(call.target, "/x");
        assert_eq!(call.headers_named("host"), [upstream.address().to_string()]);
    }
}

#[test]
fn a_missing_variable_is_named() {
    let host = Host::plan()
        .extensions(&[&twilio(), &Extension::good()])
        .dotenv("TWILIO_ACCOUNT_SID", SID)
        .start();
    let entry = host.said_of("directus-extension-endpoint-twilio").remove(0);
    assert_eq!(entry["error"]["code"], "VARIABLE_MISSING");
    let sentence = entry["error"]["message"].as_str().expect("a sentence");
    assert!(
        sentence.contains("environment variable TWILIO_AUTH_TOKEN is not set"),
        "{sentence}"
    );
    assert_eq!(host.get("/c-sample/now").status, 200);
}

// ---- What goes on ----

#[test]
fn all_197_operations_of_the_official_document_pass_through_unchanged() {
    let upstream = Upstream::saying("done");
    let host = host(&upstream);
    let operations = fs::read_to_string(built::fixtures().join("twilio_operations.txt"));
    let operations = operations.expect("the list of operations");
    let mut connection = host.connect();
    let mut count = 0;
    for line in operations.lines() {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        // Parameters get a value of the kind that Twilio takes.
        let path: String = path
            .split('/')
            .map(|segment| match segment.split_once('}') {
                Some((_, rest)) => format!("CA0123456789abcdef0123456789abcdef{rest}"),
                None => segment.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("/");
        let body = if method == "POST" {
            "FriendlyName=a+b%26c"
        } else {
            ""
        };
        let head = format!(
            "{method} /twilio{path}?PageSize=5\nAuthorization: Bearer {ADMIN_TOKEN}\nContent-Type: application/x-www-form-urlencoded"
        );
        connection.send(request(&head, body.as_bytes()));
        assert_eq!(connection.answer().text(), "done", "{line}");
        let call = upstream.calls().remove(count);
        assert_eq!(
            (call.method.as_str(), call.target.clone()),
            (method, format!("{path}?PageSize=5"))
        );
        assert_eq!(call.body, body.as_bytes(), "{line}");
        assert_eq!(call.headers_named("authorization"), [basic()]);
        count += 1;
    }
    assert_eq!((count, upstream.calls().len()), (197, 197));
}

#[test]
fn path_and_query_go_on_exactly_as_sent() {
    let upstream = Upstream::saying("here");
    let host = host(&upstream);
    for target in [
        "/",
        "/2010-04-01/Accounts/AC1/Messages.json?DateSent%3E=2020-01-01&To=%2B1555&To=%2B1556&Body=a+b%20c",
        "/a%2Fb/c%3Ed?%3C=%26",
        "/a//b///c",
        "/a/?",
        "/?x=1",
        "/a;b=c,d:e@f!$&'()*+=~?/?:@",
        "/%E2%82%AC",
    ] {
        let before = upstream.calls().len();
        ask(&host, &format!("GET /twilio{target}"), "");
        assert_eq!(upstream.calls()[before].target, target);
    }
}

#[test]
fn no_target_leads_anywhere_else() {
    let upstream = Upstream::saying("here");
    let other = Upstream::saying("elsewhere");
    let host = host(&upstream);
    let elsewhere = other.address();
    for target in [
        format!("//{elsewhere}/x"),
        format!("/\\{elsewhere}/x"),
        format!("/@{elsewhere}/x"),
        format!("@{elsewhere}/x"),
        format!(":x@{elsewhere}/x"),
        format!(".{elsewhere}/x"),
        format!("/http://{elsewhere}/"),
        format!("http://{elsewhere}/"),
        format!("/%2F{elsewhere}/x"),
        format!("/%5C{elsewhere}/x"),
        format!("/..//{elsewhere}/x"),
        format!("/%2e%2e/%2f{elsewhere}/x"),
        format!("/x?//{elsewhere}/"),
        format!("?@{elsewhere}/"),
        "/../../x".to_owned(),
        "/%2e%2e/x".to_owned(),
    ] {
        let answer = ask(&host, &format!("GET /twilio{target}"), "");
        assert!(
            answer.status == 200 || answer.status >= 400,
            "{target}: {answer:?}"
        );
    }
    // The absolute form of a request, as proxies take it.
    let mut connection = host.connect();
    connection.send(format!(
        "GET http://{elsewhere}/twilio/x HTTP/1.1\r\nHost: {elsewhere}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n"
    ));
    assert_eq!(connection.answer().text(), "here");
    assert_eq!(other.connections(), 0);
    let own = upstream.address().to_string();
    for call in upstream.calls() {
        assert_eq!(call.headers_named("host"), [own.as_str()], "{call:#?}");
        assert!(call.target.starts_with('/'), "{call:#?}");
    }
    assert!(
        upstream.calls().len() > 8,
        "most of these are paths as good as any"
    );
}

#[test]
fn a_json_object_goes_on_as_the_form_that_twilio_takes() {
    let upstream = Upstream::saying("sent");
    let host = host(&upstream);
    let body = r#"{"To": "+15551234", "Body": "a & b = c + d \u20ac\n", "MediaUrl": ["https://a/1", "https://a/2"],
        "MaxPrice": 1.50, "Attempt": 1, "Smart": true, "Force": false, "None": null, "Empty": "",
        "Nested": {"a": [1, "b c"]}}"#;
    let answer = ask(
        &host,
        "POST /twilio/Messages.json\nContent-Type: application/json; charset=utf-8",
        body,
    );
    assert_eq!(answer.text(), "sent");
    let call = upstream.call();
    is_authorized(&call);
    assert_eq!(
        call.headers_named("content-type"),
        ["application/x-www-form-urlencoded"]
    );
    assert_eq!(
        call.headers_named("content-length"),
        [call.body.len().to_string()]
    );
    assert_eq!(
        String::from_utf8(call.body).expect("text"),
        "To=%2B15551234&Body=a+%26+b+%3D+c+%2B+d+%E2%82%AC%0A&MediaUrl=https%3A%2F%2Fa%2F1&MediaUrl=https%3A%2F%2Fa%2F2\
         &MaxPrice=1.50&Attempt=1&Smart=true&Force=false&Empty=&Nested=%7B%22a%22%3A%5B1%2C%22b+c%22%5D%7D"
    );
}

#[test]
fn json_that_is_no_object_is_400_and_never_reaches_twilio() {
    let upstream = Upstream::saying("never");
    let host = host(&upstream);
    for body in ["[1]", "\"a\"", "7", "{\"a\":", "{\"a\": 1} x", "\u{ff}"] {
        let answer = ask(
            &host,
            "POST /twilio/x\nContent-Type: application/json",
            body,
        );
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        is_free_of_secrets(answer.text());
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_form_and_any_other_body_go_on_byte_for_byte() {
    let upstream = Upstream::saying("sent");
    let host = host(&upstream);
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (content_type, body) in [
        (
            "application/x-www-form-urlencoded",
            b"To=%2b1555&Body=a+b&Body=&x".to_vec(),
        ),
        ("text/plain", b"{\"a\": 1}".to_vec()),
        ("audio/x-wav", binary.clone()),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\n\r\na\r\n--x--".to_vec(),
        ),
    ] {
        let before = upstream.calls().len();
        ask(
            &host,
            &format!("POST /twilio/x\nContent-Type: {content_type}"),
            &body,
        );
        let call = upstream.calls().remove(before);
        assert_eq!(call.body, body, "{content_type}");
        assert_eq!(call.headers_named("content-type"), [content_type]);
    }
    let before = upstream.calls().len();
    ask(
        &host,
        "PUT /twilio/x\nContent-Type: application/json",
        "{\"a\": 1}",
    );
    assert_eq!(
        upstream.calls()[before].body,
        b"{\"a\": 1}",
        "only a POST is made a form"
    );
}

#[test]
fn json_goes_on_as_json_where_the_operator_says_so() {
    let upstream = Upstream::saying("sent");
    let host = plan(&upstream.url())
        .dotenv("TWILIO_BODY_FORMAT", "json")
        .start();
    let body = "{ \"a\" : [1.0, null] }";
    ask(
        &host,
        "POST /twilio/x\nContent-Type: application/json",
        body,
    );
    let call = upstream.call();
    assert_eq!(call.body, body.as_bytes());
    assert_eq!(call.header("content-type"), Some("application/json"));
}

#[test]
fn end_to_end_headers_go_on_and_those_of_the_connection_do_not() {
    let upstream = Upstream::saying("hello");
    let host = host(&upstream);
    ask(
        &host,
        "GET /twilio/x\nUser-Agent: twilio-node/5\nAccept: application/json\nAccept-Encoding: gzip, br\n\
         X-Twilio-Custom: one\nX-Twilio-Custom: two\nI-Twilio-Idempotency-Token: t\nConnection: close, X-Hop\nX-Hop: 1\n\
         Keep-Alive: timeout=5\nTE: trailers\nUpgrade: h2c\nProxy-Authorization: Basic x",
        "",
    );
    let call = upstream.call();
    is_authorized(&call);
    assert_eq!(call.header("user-agent"), Some("twilio-node/5"));
    assert_eq!(call.header("accept-encoding"), Some("gzip, br"));
    assert_eq!(call.header("i-twilio-idempotency-token"), Some("t"));
    assert_eq!(call.headers_named("x-twilio-custom"), ["one", "two"]);
    for name in [
        "x-hop",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
        "transfer-encoding",
    ] {
        assert_eq!(call.header(name), None, "{name}");
    }
}

// ---- What comes back ----

#[test]
fn status_headers_and_body_come_back_unchanged() {
    let cases: Vec<(u16, &str, &str, Vec<u8>)> = vec![
        (200, "OK", "application/json", br#"{"sid":"SM1"}"#.to_vec()),
        (
            201,
            "Created",
            "application/json;charset=utf-8",
            b"{ }".to_vec(),
        ),
        (
            307,
            "Temporary Redirect",
            "text/plain",
            b"elsewhere".to_vec(),
        ),
        (
            400,
            "Bad Request",
            "application/json",
            br#"{"code": 21211, "message": "Invalid 'To'"}"#.to_vec(),
        ),
        (
            404,
            "Not Found",
            "application/xml",
            b"<TwilioResponse/>".to_vec(),
        ),
        (
            429,
            "Too Many Requests",
            "application/json",
            br#"{"code": 20429}"#.to_vec(),
        ),
        (
            500,
            "Internal Server Error",
            "text/html",
            b"<h1>oops</h1>".to_vec(),
        ),
        (503, "Service Unavailable", "text/plain", b"".to_vec()),
        (
            200,
            "OK",
            "audio/x-wav",
            (0..=255).cycle().take(200_000).collect(),
        ),
    ];
    for (status, reason, content_type, body) in cases {
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nRetry-After: 7\r\nTwilio-Request-Id: RQ1\r\n\
             Twilio-Concurrent-Requests: 1\r\nLocation: http://elsewhere.example/\r\nConnection: keep-alive, X-Hop\r\n\
             X-Hop: 1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let upstream = Upstream::answering([head.as_bytes(), &body].concat());
        let host = host(&upstream);
        let answer = ask(&host, "GET /twilio/x", "");
        assert_eq!(answer.status, status);
        assert_eq!(answer.body, body);
        assert_eq!(
            answer.headers_named("content-type").collect::<Vec<_>>(),
            [content_type]
        );
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(answer.header("twilio-request-id"), Some("RQ1"));
        assert_eq!(answer.header("twilio-concurrent-requests"), Some("1"));
        assert_eq!(answer.header("location"), Some("http://elsewhere.example/"));
        assert_eq!(answer.header("x-hop"), None);
        assert_eq!(upstream.calls().len(), 1);
    }
}

#[test]
fn no_content_comes_back_as_no_content_and_the_connection_lives_on() {
    let upstream = Upstream::answering("HTTP/1.1 204 No Content\r\nTwilio-Request-Id: RQ1\r\n\r\n");
    let host = host(&upstream);
    let mut connection = host.connect();
    for _ in 0..3 {
        let head = format!("DELETE /twilio/Messages/SM1.json\nAuthorization: Bearer {ADMIN_TOKEN}");
        connection.send(request(&head, b""));
        let answer = connection.answer();
        assert_eq!(
            (answer.status, answer.header("twilio-request-id")),
            (204, Some("RQ1"))
        );
    }
}

#[test]
fn a_compressed_body_comes_back_compressed() {
    let body = [0x1f, 0x8b, 8, 0, 1, 2, 3, 255];
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let upstream = Upstream::answering([head.as_bytes(), &body].concat());
    let answer = ask(&host(&upstream), "GET /twilio/x\nAccept-Encoding: gzip", "");
    assert_eq!(
        (answer.header("content-encoding"), answer.body.as_slice()),
        (Some("gzip"), body.as_slice())
    );
}

// ---- When Twilio fails ----

#[test]
fn an_upstream_that_is_down_is_502_without_secrets() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("a bound socket"))
    };
    let host = plan(&gone).option("--log-level=trace").start();
    let answer = ask(&host, "POST /twilio/x", "To=1");
    assert_eq!(answer.error(), (502, "BAD_GATEWAY".into()));
    is_free_of_secrets(answer.text());
    let line = host.said("an upstream of the extension failed");
    assert_eq!(line["extension"], "directus-extension-endpoint-twilio");
    let cause = line["cause"].as_str().expect("a cause");
    assert!(
        cause.contains(&format!("{gone}: Connection refused")),
        "{cause}"
    );
    is_free_of_secrets(&format!("{:?}", host.stop().log));
}

#[test]
fn an_upstream_that_does_not_answer_is_504_without_secrets() {
    let silent = Upstream::start(|_, _| Then::Watch);
    let host = plan(&silent.url())
        .config("[fetch]\nfirst_byte_timeout_ms = 200")
        .option("--log-level=debug")
        .start();
    let answer = ask(&host, "POST /twilio/x", "To=1");
    assert_eq!(answer.error(), (504, "GATEWAY_TIMEOUT".into()));
    is_free_of_secrets(answer.text());
    silent.wait_for_close();
    let line = host.said("an upstream of the extension failed");
    let limit = "sent no answer within 200 ms (first_byte_timeout_ms under [fetch])";
    let cause = line["cause"].as_str().expect("a cause");
    assert!(
        cause.contains(&format!("{} {limit}", silent.url())),
        "{cause}"
    );
    is_free_of_secrets(&format!("{:?}", host.stop().log));
    assert_eq!(silent.calls().len(), 1);
}

#[test]
fn a_post_is_never_repeated() {
    let closing = Upstream::start(|_, _| Then::Close);
    let host = host(&closing);
    for body in ["To=1", ""] {
        let before = closing.calls().len();
        let answer = ask(&host, "POST /twilio/Messages.json", body);
        assert_eq!(answer.error(), (502, "BAD_GATEWAY".into()));
        is_free_of_secrets(answer.text());
        assert_eq!(closing.calls().len(), before + 1);
    }
    // Also on a connection that has served before.
    let once = Upstream::raw(|line| {
        for turn in 0..2 {
            let Some(mut call) = line.head() else { return };
            line.body(&mut call);
            line.record(call);
            if turn == 0 {
                line.send(ok("first"));
            }
        }
    });
    let host = plan(&once.url()).option("--workers=1").start();
    assert_eq!(ask(&host, "GET /twilio/x", "").text(), "first");
    assert_eq!(ask(&host, "POST /twilio/x", "To=1").status, 502);
    let posts = once
        .calls()
        .iter()
        .filter(|call| call.method == "POST")
        .count();
    assert_eq!((posts, once.connections()), (1, 1));
}

#[test]
fn a_client_that_leaves_ends_the_call_to_twilio() {
    let silent = Upstream::start(|_, _| Then::Watch);
    let host = host(&silent);
    let mut client = host.connect();
    let head = format!("GET /twilio/x\nAuthorization: Bearer {ADMIN_TOKEN}");
    client.send(request(&head, b""));
    silent.wait_for_calls(1);
    drop(client);
    silent.wait_for_close();
}

#[test]
fn a_recording_is_streamed_as_it_arrives() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, line| {
        line.send("HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 6\r\n\r\nabc");
        let _ = wait.lock().expect("a lock").recv_timeout(DEADLINE);
        line.send("def");
        Then::Keep
    });
    let host = host(&upstream);
    let mut client = host.connect();
    let head = format!("GET /twilio/Recordings/RE1.mp3\nAuthorization: Bearer {ADMIN_TOKEN}");
    client.send(request(&head, b""));
    assert_eq!(client.head().header("content-length"), Some("6"));
    assert_eq!(client.take(3), b"abc");
    go.send(()).expect("the upstream waits");
    assert_eq!(client.take(3), b"def");
}

// ---- The stand-in ----

/// A host whose proxy calls the stand-in in the same host.
fn with_standin() -> Host {
    // Below the ports that the system hands out, so that no other test can be given it meanwhile.
    let port = (20_000..30_000)
        .skip(std::process::id() as usize % 5_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port");
    plan(&format!("http://127.0.0.1:{port}/twilio-standin"))
        .extensions(&[&of_checkout("directus-extension-endpoint-twilio-standin")])
        .dotenv("TWILIO_STANDIN", "on")
        .port(port)
        .start()
}

#[test]
fn messages_are_sent_listed_fetched_changed_and_deleted_with_the_host_calling_itself() {
    let host = with_standin();
    let messages = format!("/twilio/2010-04-01/Accounts/{SID}/Messages");
    let mut sids = Vec::new();
    for number in 0..3 {
        let answer = if number == 0 {
            let body = json!({"To": "+15550001", "From": "+15550002", "Body": "a & b"}).to_string();
            ask(
                &host,
                &format!("POST {messages}.json\nContent-Type: application/json"),
                body,
            )
        } else {
            let head =
                format!("POST {messages}.json\nContent-Type: application/x-www-form-urlencoded");
            ask(
                &host,
                &head,
                format!("To=%2B15550001&From=%2B15550002&Body=number+{number}"),
            )
        };
        assert_eq!(answer.status, 201, "{answer:?}");
        let message = answer.json();
        assert_eq!(
            (&message["to"], &message["account_sid"]),
            (&json!("+15550001"), &json!(SID))
        );
        sids.push(message["sid"].as_str().expect("a sid").to_owned());
    }

    let mut found = Vec::new();
    let mut page = ask(&host, &format!("GET {messages}.json?PageSize=2"), "").json();
    loop {
        let list = page["messages"].as_array().expect("messages");
        assert!(list.len() <= 2);
        found.extend(list.iter().map(|message| message["sid"].clone()));
        let Value::String(next) = &page["next_page_uri"] else {
            break;
        };
        // Twilio's own is below its host; the stand-in's is below its mount.
        let next = next.trim_start_matches("/twilio-standin");
        page = ask(&host, &format!("GET /twilio{next}"), "").json();
    }
    assert_eq!(found.len(), 3, "{found:?}");

    let one = format!("{messages}/{}.json", sids[0]);
    let fetched = ask(&host, &format!("GET {one}"), "").json();
    assert_eq!(fetched["body"], "a & b");
    let head = format!("POST {one}\nContent-Type: application/x-www-form-urlencoded");
    assert_eq!(ask(&host, &head, "Body=").json()["body"], "");
    assert_eq!(ask(&host, &format!("DELETE {one}"), "").status, 204);
    let gone = ask(&host, &format!("GET {one}"), "");
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!(20404)));

    let bad = ask(
        &host,
        &format!("POST {messages}.json\nContent-Type: application/x-www-form-urlencoded"),
        "Body=x",
    );
    assert_eq!(bad.status, 400);
    assert!(
        bad.json()["code"].is_number(),
        "Twilio's own shape of an error"
    );
    assert_eq!(
        host.get(&format!("{messages}.json")).status,
        403,
        "without a token"
    );
    let direct = host.get(&format!(
        "/twilio-standin/2010-04-01/Accounts/{SID}/Messages.json"
    ));
    assert_eq!(
        direct.status, 401,
        "the stand-in wants the account's credentials"
    );
}

#[test]
fn the_stand_in_is_off_unless_it_is_switched_on() {
    let host = plan("http://127.0.0.1:1")
        .extensions(&[&of_checkout("directus-extension-endpoint-twilio-standin")])
        .start();
    assert_eq!(host.get("/twilio-standin/x").status, 404);
    assert_eq!(ask(&host, "GET /twilio-standin/x", "").status, 404);
}
