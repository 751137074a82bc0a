//! HTTP itself: methods, paths, framing, limits, and requests that are none.

use crate::support::host::request;
use crate::support::upstream::{Then, ok};
use crate::support::{ADMIN_TOKEN, Connection, Extension, Host, Upstream};

fn host() -> Host {
    Host::with(&[&Extension::probe(), &Extension::good()])
}

/// The line of what the extension saw that begins so.
fn seen(text: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map(str::to_owned)
}

/// Whatever was sent before, the host serves others.
#[track_caller]
fn serves_on(host: &Host) {
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
}

// ---- Paths ----

#[test]
fn an_unknown_route_is_404_as_directus_says_it() {
    let host = host();
    let answer = host.get("/nowhere");
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(
        answer.text(),
        r#"{"errors":[{"message":"Route /nowhere doesn't exist.","extensions":{"path":"/nowhere","code":"ROUTE_NOT_FOUND"}}]}"#
    );
    for path in [
        "/",
        "/nowhere?a=b",
        "/probex",
        "/prob",
        "/Probe/seen",
        "/probe/no/such",
        "//probe/seen",
        "/c-sample",
    ] {
        assert_eq!(
            host.get(path).error(),
            (404, "ROUTE_NOT_FOUND".into()),
            "{path}"
        );
    }
    let answer = host.get("/no%22where'?secret=1");
    assert!(!answer.text().contains("secret"));
    assert_eq!(
        answer.json()["errors"][0]["extensions"]["path"],
        "/no%22where'"
    );
}

#[test]
fn a_mount_is_cut_off_and_the_rest_stays_as_sent() {
    let host = host();
    for (sent, url) in [
        ("/probe", "/"),
        ("/probe/", "/"),
        ("/probe?x=1", "/?x=1"),
        ("/probe/?x=1", "/?x=1"),
        ("/probe?", "/?"),
        ("/probe/seen", "/seen"),
        ("/probe/seen/", "/seen/"),
        ("/probe/seen//a//", "/seen//a//"),
        (
            "/probe/seen/a%2Fb%3E%20c?d=%26+e&d=f",
            "/seen/a%2Fb%3E%20c?d=%26+e&d=f",
        ),
        ("/probe/seen/../x", "/seen/../x"),
        ("/probe/seen/%2e%2e/x", "/seen/%2e%2e/x"),
        ("/probe/seen?a?b", "/seen?a?b"),
        ("/probe/seen/;a=b:@!$&'()*+,=~", "/seen/;a=b:@!$&'()*+,=~"),
    ] {
        let answer = host.get(sent);
        assert_eq!(answer.status, 200, "{sent}: {answer:?}");
        assert_eq!(seen(answer.text(), "url").as_deref(), Some(url), "{sent}");
    }
}

#[test]
fn path_and_query_are_told_apart_and_parameters_are_named() {
    let host = host();
    let answer = host.get("/probe/items/a%20b/parts/2?c=d");
    let text = answer.text();
    assert_eq!(seen(text, "path").as_deref(), Some("/items/a%20b/parts/2"));
    assert_eq!(seen(text, "query").as_deref(), Some("c=d"));
    assert!(text.contains("param id=a%20b\nparam part=2\n"), "{text}");
    let rest = host.get("/probe/seen/a/b/c");
    assert!(rest.text().contains("param *=a/b/c\n"), "{}", rest.text());
    assert_eq!(seen(rest.text(), "query"), None);
    let empty = host.get("/probe/seen/");
    assert!(empty.text().contains("param *=\n"), "{}", empty.text());
}

// ---- Methods ----

#[test]
fn head_is_served_by_the_route_for_get_without_its_body() {
    let host = host();
    let mut connection = host.connect();
    for _ in 0..2 {
        connection.send(request("HEAD /probe/get-only", b""));
        let head = connection.answer_to_head();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("3"))
        );
    }
    connection.send(request("GET /probe/get-only", b""));
    assert_eq!(connection.answer().text(), "now");
    connection.send(request("HEAD /nowhere", b""));
    assert_eq!(connection.answer_to_head().status, 404);
    connection.send(request("HEAD /server/ping", b""));
    assert_eq!(
        connection.answer_to_head().header("content-length"),
        Some("4")
    );
    connection.send(request("HEAD /probe/stream\nX-Chunks: 2", b""));
    assert_eq!(connection.answer_to_head().status, 200);
    connection.send(request("GET /probe/get-only", b""));
    assert_eq!(connection.answer().text(), "now", "a body came after HEAD");
}

#[test]
fn options_answers_allow_and_other_methods_405() {
    let host = host();
    let options = host.ask("OPTIONS /probe/get-only", "");
    assert_eq!((options.status, options.body.len()), (200, 0));
    let allow: Vec<&str> = options
        .header("allow")
        .expect("Allow")
        .split(", ")
        .collect();
    assert_eq!(allow, ["GET", "HEAD", "OPTIONS"]);
    for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get"] {
        let answer = host.ask(&format!("{method} /probe/get-only"), "");
        assert_eq!(
            answer.error(),
            (405, "METHOD_NOT_ALLOWED".into()),
            "{method}"
        );
        assert_eq!(
            answer.header("allow"),
            Some("GET, HEAD, OPTIONS"),
            "{method}"
        );
    }
    let own = host.ask("POST /server/ping", "");
    assert_eq!(
        (own.status, own.header("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
    assert_eq!(host.ask("OPTIONS /nowhere", "").status, 404);
}

#[test]
fn a_route_for_every_method_has_every_method() {
    let host = host();
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH",
    ] {
        let answer = host.ask(&format!("{method} /probe/seen"), "");
        assert_eq!(seen(answer.text(), "method").as_deref(), Some(method));
    }
}

// ---- The request id ----

#[test]
fn every_answer_has_a_request_id_of_its_own_which_the_log_knows() {
    let host = host();
    let mut ids = Vec::new();
    for head in [
        "GET /probe/now",
        "GET /nowhere",
        "GET /server/ping",
        "POST /probe/get-only",
        "GET /probe/drop",
        "GET /probe/now\nAuthorization: Bearer wrong",
        "OPTIONS /probe/get-only",
    ] {
        let answer = host.ask(head, "");
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let line = host.logged(head, |line| {
            line["message"] == "answered" && line["request"] == id.as_str()
        });
        assert_eq!(line["status"], answer.status);
        ids.push(id);
    }
    let answer = host.get("/probe/seen\nX-Request-Id: mine");
    let own = answer.header("x-request-id").expect("an id");
    assert_eq!(seen(answer.text(), "id").as_deref(), Some(own));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7, "{ids:?}");
}

#[test]
fn every_answer_names_its_request_once() {
    let upstream = Upstream::start(|call, line| {
        let named = b"HTTP/1.1 200 OK\r\nX-Request-Id: its own\r\nContent-Length: 0\r\n\r\n";
        line.send(match &*call.target {
            "/named" => named.to_vec(),
            _ => ok("unnamed"),
        });
        Then::Keep
    });
    let probe =
        Extension::probe().more_manifest("[limits]\ntimeout_ms = 1000\nbody_bytes_max = 10");
    let host = Host::plan()
        .extensions(&[&probe, &Extension::good()])
        .dotenv("UPSTREAM", upstream.url())
        .start();
    for (head, status) in [
        ("GET /probe/now", 200),
        ("GET /probe/thread", 200),
        ("GET /c-sample/blocking", 200),
        ("GET /probe/fail", 500),
        ("GET /probe/stream", 200),
        ("GET /probe/stream-with-body", 500),
        ("GET /probe/fetch", 200),
        ("GET /probe/fetch\nX-Target: /named", 200),
        ("GET /probe/header\nX-Value: a|b", 500),
        ("GET /probe/never", 504),
        ("POST /probe/whole", 413),
        ("POST /probe/count", 413),
        ("GET /probe/drop", 500),
        ("HEAD /probe/now", 200),
        ("GET /nowhere", 404),
        ("GET /server/ping", 200),
        ("GET /users/me\nAuthorization: Bearer wrong", 401),
        ("POST /auth/login", 400),
    ] {
        let body = if head.starts_with("POST") {
            "longer than ten"
        } else {
            ""
        };
        let answer = host.ask(head, body);
        assert_eq!(answer.status, status, "{head}");
        assert_eq!(answer.headers_named("x-request-id").count(), 1, "{head}");
    }
}

#[test]
fn an_extension_may_name_the_request_in_its_answer_itself() {
    let answer = host().get("/probe/header\nX-Value: X-Request-Id\nX-In-Name: 1");
    let ids: Vec<_> = answer.headers_named("x-request-id").collect();
    assert_eq!(ids, ["value"]);
}

// ---- Connections ----

#[test]
fn a_connection_is_kept_and_pipelined_requests_are_answered_in_order() {
    let host = host();
    let mut connection = host.connect();
    let one = |n: usize| request(&format!("GET /probe/seen/{n}"), b"");
    let all: Vec<u8> = (0..20).flat_map(one).collect();
    connection.send(all);
    for n in 0..20 {
        let answer = connection.answer();
        assert_eq!(seen(answer.text(), "url"), Some(format!("/seen/{n}")));
    }
    // A slow one in front of a fast one.
    connection.send(request("GET /c-sample/blocking", b""));
    connection.send(request("GET /probe/now", b""));
    assert_eq!(connection.answer().text(), "slept");
    assert_eq!(connection.answer().text(), "now");
}

#[test]
fn a_connection_is_closed_where_that_is_asked_for() {
    let host = host();
    let mut connection = host.connect();
    connection.send(request("GET /probe/now\nConnection: close", b""));
    let answer = connection.answer();
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("now", Some("close"))
    );
    assert!(connection.ends());
}

#[test]
fn http_1_0_is_served_without_chunks() {
    let host = host();
    let mut connection = host.connect();
    connection.send("GET /probe/now HTTP/1.0\r\n\r\n");
    assert_eq!(connection.answer().text(), "now");
    assert!(connection.ends());
    let mut connection = host.connect();
    connection.send("GET /probe/stream HTTP/1.0\r\nX-Chunks: 3\r\nX-Size: 5\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.body, b"xxxxxxxxxxxxxxx");
    let mut connection = host.connect();
    connection.send("GET /probe/now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(connection.answer().text(), "now");
    connection.send("GET /probe/now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(connection.answer().text(), "now");
}

#[test]
fn a_body_that_no_handler_reads_does_not_spoil_the_next_request() {
    let host = host();
    for path in ["/probe/get-only", "/nowhere", "/probe/seen"] {
        let mut connection = host.connect();
        let body = format!(
            "POST /probe/seen/smuggled HTTP/1.1\r\nHost: a\r\n\r\n{}",
            "x".repeat(50_000)
        );
        let _ = connection.try_send(request(&format!("POST {path}"), body.as_bytes()));
        connection.answer();
        if connection
            .try_send(request("GET /probe/seen/next", b""))
            .is_err()
            || connection.ends()
        {
            continue;
        }
        let answer = connection.answer();
        assert_eq!(
            seen(answer.text(), "url").as_deref(),
            Some("/seen/next"),
            "{path}"
        );
    }
}

#[test]
fn an_answer_before_the_body_is_read_is_delivered() {
    // A megabyte that is refused at once: the answer must not be lost in a reset.
    let host = host();
    for _ in 0..10 {
        let mut connection = host.connect();
        connection.send("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let _ = connection.try_send("x".repeat(1_000_000));
        assert_eq!(connection.answer().status, 404);
    }
}

#[test]
fn an_answer_that_has_no_body_has_no_bytes_behind_its_head() {
    let host = host();
    for status in [204, 304] {
        let mut connection = host.connect();
        connection.send(request(
            &format!("GET /probe/status\nX-Status: {status}"),
            b"",
        ));
        assert_eq!(connection.answer().status, status);
        connection.send(request("GET /probe/now", b""));
        assert_eq!(connection.answer().text(), "now", "{status}");
    }
}

// ---- Requests that are none ----

/// Sends bytes and finishes; gives the status of the answer, if there is one.
fn status_of(host: &Host, bytes: &[u8]) -> Option<u16> {
    let mut connection: Connection = host.connect();
    let _ = connection.try_send(bytes);
    connection.finish();
    if connection.ends() {
        None
    } else {
        Some(connection.answer().status)
    }
}

#[test]
fn malformed_requests_are_refused_and_do_no_harm() {
    let host = host();
    for bytes in [
        b"\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"GET /probe/now\r\n\r\n",
        b"GET /probe/now HTTP/9.9\r\n\r\n",
        b"G\x00T /probe/now HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /probe/now HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET /probe/now HTTP/1.1\r\nHost: a\r\nX\x00Y: b\r\n\r\n",
        b"GET /probe/now HTTP/1.1\r\nHost: a\r\nX-Y: b\x00c\r\n\r\n",
        b"GET /probe/now HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
        b"GET /probe/now HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /probe/count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let status = status_of(&host, bytes);
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{:?}: {status:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    serves_on(&host);
}

#[test]
fn a_body_in_broken_chunks_is_no_body() {
    let host = host();
    for chunks in [
        "x\r\n",
        "-1\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "3;\x00\r\nabc\r\n0\r\n\r\n",
    ] {
        for path in ["/probe/whole", "/probe/count"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            );
            let status = status_of(&host, head.as_bytes());
            assert!(
                status.is_none_or(|status| status >= 400),
                "{path} {chunks:?}: {status:?}"
            );
        }
    }
    serves_on(&host);
}

#[test]
fn a_truncated_body_is_no_body() {
    let host = host();
    for (framing, part) in [
        ("Content-Length: 10", "some"),
        ("Transfer-Encoding: chunked", "4\r\nsome\r\n"),
    ] {
        for path in ["/probe/whole", "/probe/count"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}");
            let status = status_of(&host, head.as_bytes());
            assert!(
                status.is_none_or(|status| status >= 400),
                "{path} {framing}: {status:?}"
            );
        }
    }
    serves_on(&host);
}

#[test]
fn huge_heads_are_refused() {
    let host = host();
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(300_000));
    let header = format!(
        "GET /probe/now HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n",
        "a".repeat(300_000)
    );
    let many = format!(
        "GET /probe/now HTTP/1.1\r\nHost: a\r\n{}\r\n",
        (0..5_000)
            .map(|n| format!("X-{n}: a\r\n"))
            .collect::<String>()
    );
    for head in [line, header, many] {
        let status = status_of(&host, head.as_bytes());
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{status:?}"
        );
    }
    let large = format!("/probe/seen\nX-Large: {}", "a".repeat(16_000));
    assert_eq!(host.get(&large).status, 200);
    serves_on(&host);
}

#[test]
fn bytes_that_are_no_utf_8_do_no_harm() {
    let host = host();
    for bytes in [
        b"GET /probe/seen/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(),
        b"GET /probe/seen?\xc3\x28=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let status = status_of(&host, bytes);
        assert!(
            status.is_none_or(|status| status == 200 || status >= 400),
            "{status:?}"
        );
    }
    let mut connection = host.connect();
    connection.send(
        b"GET /probe/seen HTTP/1.1\r\nHost: a\r\nX-Raw: \xff\xfe\xc3\r\nUser-Agent: \xff\r\n\r\n",
    );
    let answer = connection.answer();
    assert_eq!(answer.status, 200);
    let raw = b"header x-raw: \xff\xfe\xc3\n";
    assert!(answer.body.windows(raw.len()).any(|window| window == raw));
    connection
        .send(b"GET /probe/seen HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\n\r\n");
    assert_eq!(connection.answer().status, 401);
    connection.send(b"GET /probe/seen HTTP/1.1\r\nHost: a\r\nCookie: directus_session_token=\xff; \xfe=a\r\n\r\n");
    assert_eq!(connection.answer().status, 401);
    connection.send(b"GET /probe/seen?access_token=%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.answer().status, 401);
    serves_on(&host);
}

#[test]
fn a_target_that_is_absolute_or_odd_is_served_by_its_path() {
    let host = host();
    let mut connection = host.connect();
    connection
        .send("GET http://other.example/probe/seen?a=b HTTP/1.1\r\nHost: other.example\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(seen(answer.text(), "url").as_deref(), Some("/seen?a=b"));
    for target in ["*", "other.example:443", "?a", "http://"] {
        for method in ["GET", "OPTIONS", "CONNECT"] {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let status = status_of(&host, head.as_bytes());
            assert!(
                status.is_none_or(|status| status >= 400),
                "{head:?}: {status:?}"
            );
        }
    }
    serves_on(&host);
}

#[test]
fn half_a_request_is_not_waited_for_for_ever() {
    let host = Host::plan()
        .config("[limits]\nclient_request_timeout_ms = 1500")
        .extensions(&[&Extension::good()])
        .start();
    let mut connection = host.connect();
    connection.send("GET /c-sample/now HTTP/1.1\r\nHo");
    if !connection.ends() {
        assert_eq!(connection.answer().status, 408);
    }
    serves_on(&host);
}

// ---- The host's own routes ----

#[test]
fn the_host_says_what_it_is() {
    let host = host();
    assert_eq!(host.get("/server/ping").text(), "pong");
    assert_eq!(host.get("/server/health").json()["status"], "ok");
    let info = host.get("/server/info").json();
    assert_eq!(
        info["data"].as_object().map(serde_json::Map::len),
        Some(1),
        "{info}"
    );
    let info = host.get_as_admin("/server/info").json();
    assert_eq!(info["data"]["abi"], "1.0");
    assert_eq!(info["data"]["extensions"]["mounted"], 2);
    let text = info.to_string();
    assert!(!text.contains(ADMIN_TOKEN));
}

#[test]
fn the_list_of_extensions_says_what_each_serves() {
    let host = host();
    host.get("/probe/now");
    let list = host.get_as_admin("/extensions").json();
    let entries = list["data"].as_array().expect("a list");
    assert_eq!(entries.len(), 2);
    let probe = &entries[1];
    assert_eq!(
        (&probe["id"], &probe["state"]),
        (&"probe".into(), &"mounted".into())
    );
    assert_eq!(probe["folder"], "directus-extension-probe");
    let routes = probe["routes"].as_array().expect("routes");
    let is_items = |route: &&serde_json::Value| route["pattern"] == "/items/:id/parts/:part";
    assert_eq!(
        routes.iter().find(is_items).expect("it is there")["method"],
        "GET"
    );
    assert_eq!(probe["requests"]["total"], 1);
}
