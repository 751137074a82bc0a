//! The host's own users: their first start, their commands, how they sign in, and how fast what is taken from them is gone.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::identity_support::{
    add_user, command, database, done, execute, failed, me, new_token, plan, plan_on, post, run,
};
use crate::support::{ADMIN_TOKEN, Host, eventually};

/// After how long a change must have reached every host that shares the store.
const EVERYWHERE: Duration = Duration::from_secs(5);

fn log_in(host: &Host, email: &str, password: &str) -> Value {
    let answer = post(
        host,
        "/auth/login",
        "",
        &json!({"email": email, "password": password}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].clone()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().expect("a text").to_owned()
}

#[test]
fn the_first_start_makes_an_administrator_and_prints_what_it_generated_once() {
    let shared = database();
    let plan = plan_on(shared.as_deref());
    let folder = plan.folder().to_owned();
    fs::write(folder.join("config.toml"), "port = 0\n").unwrap();
    let env: String = match shared {
        Some(url) => format!("DATABASE_URL={url}\n"),
        None => String::new(),
    };
    fs::write(folder.join(".env"), env).unwrap();
    let start = || {
        let (out, log) = (folder.join("out"), folder.join("log"));
        let mut child = command(&folder, "--host 127.0.0.1 --log-style json")
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        eventually("the host listens", || {
            fs::read_to_string(&log).unwrap().contains("\"listening\"")
        });
        child.kill().unwrap();
        child.wait().unwrap();
        (
            fs::read_to_string(&out).unwrap(),
            fs::read_to_string(&log).unwrap(),
        )
    };
    let (out, log) = start();
    let word = |name: &str| {
        let line = out.lines().find(|line| line.trim().starts_with(name));
        let word = line.and_then(|line| line.split_whitespace().last());
        word.unwrap_or_else(|| panic!("{out}")).to_owned()
    };
    assert_eq!(word("administrator"), "admin@example.com");
    let (password, token) = (word("password"), word("static token"));
    assert!(password.len() >= 43 && token.len() >= 43);
    assert!(log.contains("SECRET is not set"), "{log}");
    for secret in [&password, &token] {
        assert!(!log.contains(secret.as_str()), "a secret stands in the log");
    }
    let (out, log) = start();
    assert_eq!(out, "");
    assert!(!log.contains("SECRET is not set") && !log.contains("first start"));
    // What was printed is good, and the secret that was generated outlives the process.
    let host = plan.start();
    assert_eq!(
        me(&host, &token).json()["data"]["email"],
        "admin@example.com"
    );
    log_in(&host, "admin@example.com", &password);
}

#[test]
fn the_first_administrator_is_the_one_that_was_asked_for() {
    let host = plan()
        .dotenv("ADMIN_EMAIL", "Boss@Example.com")
        .dotenv("ADMIN_PASSWORD", "of my own")
        .start();
    log_in(&host, "boss@example.com", "of my own");
    // ADMIN_TOKEN is kept nowhere, and stands for that administrator.
    assert_eq!(done(host.folder(), "token list --json", "").trim(), "[]");
    assert_eq!(
        me(&host, ADMIN_TOKEN).json()["data"]["email"],
        "boss@example.com"
    );
    let list: Value = serde_json::from_str(&done(host.folder(), "user list --json", "")).unwrap();
    assert_eq!(list[0]["role"], "Administrator");
    assert_eq!(list.as_array().unwrap().len(), 1);
}

#[test]
fn who_is_added_before_the_first_start_comes_after_the_administrator() {
    for line in ["user add ada@example.com", "role add editors"] {
        let plan = plan_on(None);
        fs::write(plan.folder().join("config.toml"), "").unwrap();
        let added = run(plan.folder(), line, "secret\n");
        assert!(added.status.success());
        let stdout = String::from_utf8(added.stdout).unwrap();
        assert!(
            stdout.starts_with("added ") && stdout.lines().count() == 1,
            "{stdout}"
        );
        let stderr = String::from_utf8(added.stderr).unwrap();
        let token = stderr.lines().find(|line| line.contains("static token"));
        let token = token.and_then(|line| line.split_whitespace().last());
        let token = token.unwrap_or_else(|| panic!("{stderr}"));
        let host = plan.start();
        assert_eq!(
            me(&host, token).json()["data"]["email"],
            "admin@example.com"
        );
    }
}

#[test]
fn a_first_start_that_must_fail_makes_no_administrator() {
    let plan = Host::plan().supervised();
    let extensions = plan.folder().join("extensions");
    if extensions.exists() {
        fs::remove_dir_all(&extensions).unwrap();
    }
    let ended = plan.fail();
    assert_eq!(ended.code, Some(1));
    let log = format!("{:?}", ended.log);
    assert!(log.contains("cannot read the extensions folder"), "{log}");
    assert!(!log.contains("first start"), "{log}");
}

#[test]
fn a_store_that_cannot_be_opened_ends_the_host_with_the_reason() {
    let plan = Host::plan();
    fs::create_dir_all(plan.folder().join("data/extension-host.db")).unwrap();
    let ended = plan.fail();
    assert_eq!(ended.code, Some(1));
    let line = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(line.contains("extension-host.db"), "{line}");
    let ended = Host::plan()
        .dotenv("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/x")
        .fail();
    let line = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        line.contains("cannot open the store postgres://127.0.0.1:1/x"),
        "{line}"
    );
    assert!(!line.contains("hunter2"));
    let host = Host::plan().dotenv("DATABASE_URL", "none").start();
    assert_eq!(me(&host, ADMIN_TOKEN).status, 200);
    assert!(!host.folder().join("data").exists());
    assert_eq!(post(&host, "/auth/login", "", &json!({})).status, 404);
}

#[test]
fn commands_keep_users_roles_and_tokens() {
    let host = plan().start();
    let folder = host.folder();
    assert_eq!(
        done(
            folder,
            "role add editors --app --ip 127.0.0.0/8,10.0.0.1",
            ""
        ),
        "added editors\n"
    );
    assert!(failed(folder, "role add editors", "").contains("there is a role \"editors\" already"));
    assert!(
        failed(folder, "role add x --ip nowhere", "")
            .contains("\"nowhere\" is no range of addresses")
    );
    assert_eq!(
        done(
            folder,
            "user add Ada@Example.com --role editors",
            "secret\n"
        ),
        "added ada@example.com\n"
    );
    assert!(
        failed(folder, "user add ada@example.com", "x\n")
            .contains("there is a user \"ada@example.com\" already")
    );
    assert!(
        failed(folder, "user add bob@example.com --role none", "x\n")
            .contains("there is no role \"none\"")
    );
    assert!(failed(folder, "user add bob", "x\n").contains("\"bob\" is no email address"));
    assert!(failed(folder, "user add bob@example.com", "").contains("the password is empty"));
    // A password is never taken from an argument.
    assert!(failed(folder, "user add bob@example.com --password x", "").contains("--password"));
    let table = done(folder, "user list", "");
    assert!(
        table.starts_with("EMAIL ") && table.contains("ada@example.com    active  editors"),
        "{table}"
    );
    let (id, token) = new_token(folder, "ada@example.com", " --expires 1d");
    let listed = done(folder, "token list ada@example.com --json", "");
    assert!(listed.contains(&id) && !listed.contains(&token));
    assert!(done(folder, "token list", "").starts_with("ID "));
    assert_eq!(me(&host, &token).json()["data"]["email"], "ada@example.com");
    assert_eq!(
        done(folder, "user passwd ada@example.com", "another\n"),
        "changed the password of ada@example.com\n"
    );
    log_in(&host, "ada@example.com", "another");
    assert_eq!(
        done(folder, "user role ada@example.com Administrator", ""),
        "ada@example.com now has Administrator\n"
    );
    let roles: Value = serde_json::from_str(&done(folder, "role list --json", "")).unwrap();
    assert_eq!(roles[0]["name"], "Administrator");
    assert_eq!(roles[0]["users"], 2);
    assert_eq!(roles[1]["ip_ranges"], json!(["127.0.0.0/8", "10.0.0.1"]));
    assert_eq!(done(folder, "role remove editors", ""), "removed editors\n");
    assert_eq!(
        done(folder, "user remove ada@example.com", ""),
        "removed ada@example.com\n"
    );
    assert!(
        failed(folder, "user suspend ada@example.com", "")
            .contains("there is no user \"ada@example.com\"")
    );
    assert!(failed(folder, &format!("token revoke {id}"), "").contains("there is no token"));
    eventually("the token is dead", || me(&host, &token).status == 401);
}

#[test]
fn nothing_secret_is_kept_as_it_is() {
    let host = plan_on(None).start();
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    let refresh = text(&log_in(&host, "ada@example.com", "secret"), "refresh_token");
    let data = host.folder().join("data");
    for file in fs::read_dir(&data).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = file.unwrap().path();
        let kept = fs::read(&path).unwrap();
        let kept = String::from_utf8_lossy(&kept);
        for secret in [&token, &refresh] {
            assert!(!kept.contains(secret.as_str()), "{}", path.display());
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for its owner alone", path.display());
    }
}

#[test]
fn a_sign_in_has_the_shape_of_directus_in_each_mode() {
    let host = plan().start();
    add_user(host.folder(), "ada@example.com", " --role Administrator");
    let body = |mode: &str| json!({"email": "Ada@example.com", "password": "secret", "mode": mode});
    let json_mode = post(&host, "/auth/login", "", &body("json"));
    assert_eq!(json_mode.json()["data"]["expires"], 900_000);
    assert_eq!(json_mode.header("set-cookie"), None);
    let access = text(&json_mode.json()["data"], "access_token");
    let who = host.get(&format!(
        "/users/me?fields=email,role.name\nAuthorization: Bearer {access}"
    ));
    assert_eq!(
        who.json()["data"],
        json!({"email": "ada@example.com", "role": {"name": "Administrator"}})
    );
    let cookie_mode = post(&host, "/auth/login", "", &body("cookie"));
    let cookie = cookie_mode
        .header("set-cookie")
        .expect("a cookie")
        .to_owned();
    assert!(
        cookie.starts_with("directus_refresh_token=")
            && cookie.contains("; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    assert!(cookie_mode.json()["data"]["refresh_token"].is_null());
    assert_eq!(
        me(&host, &text(&cookie_mode.json()["data"], "access_token")).status,
        200
    );
    let session_mode = post(&host, "/auth/login", "", &body("session"));
    assert_eq!(
        session_mode.json(),
        json!({"data": {"expires": 86_400_000}})
    );
    let session = session_mode.header("set-cookie").expect("a cookie");
    let session = session.split(';').next().unwrap();
    assert_eq!(
        host.get(&format!("/users/me\nCookie: {session}")).status,
        200
    );
    // Cookies are enough to go on and to end.
    let cookie = cookie.split(';').next().unwrap();
    let again = post(
        &host,
        "/auth/refresh",
        &format!("\nCookie: {cookie}"),
        &json!({"mode": "cookie"}),
    );
    assert_eq!(again.status, 200, "{}", again.text());
    let again = post(
        &host,
        "/auth/refresh",
        &format!("\nCookie: {session}"),
        &json!({"mode": "session"}),
    );
    let session = again
        .header("set-cookie")
        .expect("a cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let out = host.ask(
        &format!("POST /auth/logout\nCookie: {session}\nContent-Length: 0"),
        "",
    );
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(
        host.get(&format!("/users/me\nCookie: {session}")).status,
        401
    );
}

#[test]
fn a_refresh_token_counts_once_and_its_reuse_ends_the_session() {
    let host = plan().start();
    add_user(host.folder(), "ada@example.com", "");
    let first = text(&log_in(&host, "ada@example.com", "secret"), "refresh_token");
    let refresh = |token: &str| post(&host, "/auth/refresh", "", &json!({"refresh_token": token}));
    let second = text(&refresh(&first).json()["data"], "refresh_token");
    let third = text(&refresh(&second).json()["data"], "refresh_token");
    assert_ne!(second, third);
    assert_eq!(refresh(&first).error(), (401, "INVALID_CREDENTIALS".into()));
    assert_eq!(refresh(&third).status, 401, "the whole session has ended");
    host.said("a refresh token was used twice: its session has been ended");
    // Of many at once, one wins at most, and the session does not outlive the others.
    let token = text(&log_in(&host, "ada@example.com", "secret"), "refresh_token");
    let won: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| refresh(&token).status))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        won.iter().filter(|status| **status == 200).count() <= 1,
        "{won:?}"
    );
    assert!(
        won.iter().all(|status| matches!(status, 200 | 401)),
        "{won:?}"
    );
    let ended = log_in(&host, "ada@example.com", "secret");
    let token = text(&ended, "refresh_token");
    assert_eq!(
        post(&host, "/auth/logout", "", &json!({"refresh_token": token})).status,
        204
    );
    assert_eq!(refresh(&token).status, 401);
}

#[test]
fn what_is_taken_away_is_gone_at_once_here_and_within_seconds_elsewhere() {
    let shared = database();
    let here = plan_on(shared.as_deref()).start();
    let elsewhere = match &shared {
        Some(url) => plan_on(Some(url)).start(),
        // Two hosts on one machine may share the file.
        None => {
            let path = here.folder().join("data/extension-host.db");
            plan_on(Some(&format!("sqlite:{}", path.display()))).start()
        }
    };
    let folder = here.folder();
    done(folder, "role add bosses --admin", "");
    add_user(folder, "ada@example.com", " --role bosses");
    let (id, revoked) = new_token(folder, "ada@example.com", "");
    let (_, kept) = new_token(folder, "ada@example.com", "");
    let jwt = text(&log_in(&here, "ada@example.com", "secret"), "access_token");
    let gone = |host: &Host, what: &str, token: &str| {
        let since = Instant::now();
        eventually(what, || me(host, token).status == 401);
        let took = since.elapsed();
        assert!(took < EVERYWHERE, "{what} took {took:?}");
    };
    for token in [&revoked, &kept, &jwt] {
        for host in [&here, &elsewhere] {
            assert_eq!(me(host, token).status, 200);
        }
    }
    done(folder, &format!("token revoke {id}"), "");
    if shared.is_none() {
        // On one machine the file itself tells, and nobody waits.
        assert_eq!(me(&here, &revoked).status, 401);
        assert_eq!(me(&elsewhere, &revoked).status, 401);
    }
    gone(&here, "a revoked token", &revoked);
    gone(&elsewhere, "a revoked token elsewhere", &revoked);
    let is_admin = |host: &Host| {
        host.get(&format!("/extensions\nAuthorization: Bearer {kept}"))
            .status
            == 200
    };
    assert!(is_admin(&here) && is_admin(&elsewhere));
    done(folder, "role remove bosses", "");
    let since = Instant::now();
    eventually("a removed role", || {
        !is_admin(&here) && !is_admin(&elsewhere)
    });
    assert!(since.elapsed() < EVERYWHERE);
    assert_eq!(me(&here, &kept).status, 200);
    done(folder, "user suspend ada@example.com", "");
    for token in [&kept, &jwt] {
        gone(&here, "a suspended user", token);
        gone(&elsewhere, "a suspended user elsewhere", token);
    }
    done(folder, "user activate ada@example.com", "");
    eventually("the user is back", || me(&here, &kept).status == 200);
    assert_eq!(me(&here, &jwt).status, 200);
    done(folder, "user remove ada@example.com", "");
    // Signed by a host, for a user that is gone: no Directus's token.
    for token in [&kept, &jwt] {
        gone(&here, "a removed user", token);
        gone(&elsewhere, "a removed user elsewhere", token);
    }
}

#[test]
fn an_expired_token_and_a_wrong_address_are_refused() {
    let host = plan().config("[auth]\ntrust_proxy = true").start();
    let folder = host.folder();
    done(folder, "role add inside --ip 10.0.0.0/8", "");
    add_user(folder, "ada@example.com", " --role inside");
    add_user(folder, "bob@example.com", "");
    let (_, token) = new_token(folder, "ada@example.com", "");
    assert_eq!(me(&host, &token).error(), (401, "INVALID_IP".into()));
    let from = |ip: &str| {
        host.get(&format!(
            "/users/me\nX-Forwarded-For: {ip}\nAuthorization: Bearer {token}"
        ))
    };
    assert_eq!(from("10.1.2.3").status, 200);
    assert_eq!(from("11.1.2.3").status, 401);
    let (_, short) = new_token(folder, "bob@example.com", " --expires 2s");
    assert_eq!(me(&host, &short).status, 200);
    eventually("the token has expired", || me(&host, &short).status == 401);
}

#[test]
fn a_new_password_ends_what_the_old_one_began() {
    let host = plan().start();
    add_user(host.folder(), "ada@example.com", "");
    let before = log_in(&host, "ada@example.com", "secret");
    // Access tokens are dated to the second.
    std::thread::sleep(Duration::from_millis(1_100));
    done(host.folder(), "user passwd ada@example.com", "another\n");
    let since = Instant::now();
    eventually("the access token ends", || {
        me(&host, &text(&before, "access_token")).status == 401
    });
    assert!(since.elapsed() < EVERYWHERE);
    let refresh = json!({"refresh_token": before["refresh_token"]});
    assert_eq!(post(&host, "/auth/refresh", "", &refresh).status, 401);
    assert_eq!(
        me(
            &host,
            &text(&log_in(&host, "ada@example.com", "another"), "access_token")
        )
        .status,
        200
    );
}

#[test]
fn sign_ins_that_fail_are_counted_for_each_account() {
    let host = plan().config("[auth]\nlogin_failures_max = 3").start();
    add_user(host.folder(), "ada@example.com", "");
    add_user(host.folder(), "bob@example.com", "");
    let fail = |email: &str| {
        post(
            &host,
            "/auth/login",
            "",
            &json!({"email": email, "password": "no"}),
        )
    };
    for _ in 0..3 {
        assert_eq!(
            fail("ada@example.com").error(),
            (401, "INVALID_CREDENTIALS".into())
        );
    }
    let refused = fail("ADA@example.com");
    assert_eq!(refused.error(), (429, "REQUESTS_EXCEEDED".into()));
    assert!(refused.header("retry-after").is_some());
    log_in(&host, "bob@example.com", "secret");
    // Twelve for the address: three are used, and nobody is left unknown for free.
    for number in 0..9 {
        assert_eq!(fail(&format!("{number}@example.com")).status, 401);
    }
    assert_eq!(fail("another@example.com").status, 429);
}

#[test]
fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let host = plan().config("[auth]\nlogin_failures_max = 1000").start();
    add_user(host.folder(), "ada@example.com", "");
    let median = |email: &str| {
        let mut times: Vec<Duration> = (0..15)
            .map(|_| {
                let began = Instant::now();
                let body = json!({"email": email, "password": "wrong"});
                assert_eq!(post(&host, "/auth/login", "", &body).status, 401);
                began.elapsed()
            })
            .collect();
        times.sort();
        times[7].as_secs_f64()
    };
    median("nobody@example.com");
    let (known, unknown) = (median("ada@example.com"), median("nobody@example.com"));
    let ratio = known / unknown;
    assert!((0.5..2.0).contains(&ratio), "{known} s against {unknown} s");
}

#[test]
fn bad_input_is_400_or_401_and_writes_nothing() {
    let host = plan().start();
    let folder = host.folder();
    let before = done(folder, "user list", "") + &done(folder, "token list", "");
    let raw = |path: &str, content_type: &str, body: &[u8]| {
        host.ask(&format!("POST {path}\nContent-Type: {content_type}"), body)
    };
    let json = "application/json";
    for path in ["/auth/login", "/auth/refresh", "/auth/logout"] {
        for body in [
            &b"{"[..],
            b"[]",
            b"null",
            b"\"x\"",
            b"\xff\xfe",
            b"{\"email\":1}",
            b"{}",
            b"{\"mode\":\"x\",\"email\":\"a\",\"password\":\"b\"}",
            b"{\"email\":[],\"password\":{},\"refresh_token\":7}",
        ] {
            let answer = raw(path, json, body);
            assert_eq!(
                answer.error(),
                (400, "INVALID_PAYLOAD".into()),
                "{path} {}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(
            raw(
                path,
                "text/plain",
                b"{\"email\":\"a@b\",\"password\":\"c\"}"
            )
            .status,
            400
        );
        assert_eq!(raw(path, json, &vec![b' '; 20_000]).status, 413);
        assert_eq!(host.get(path).status, 405);
    }
    let email = format!("{}@example.com", "x".repeat(300));
    for body in [
        json!({"email": email, "password": "x"}),
        json!({"email": "a@b", "password": "x".repeat(2_000)}),
        json!({"email": "a\u{0}b@c", "password": "x"}),
        json!({"email": "' OR 1=1 --", "password": "' OR 1=1 --"}),
    ] {
        assert_eq!(post(&host, "/auth/login", "", &body).status, 401, "{body}");
    }
    for token in [
        "x".repeat(9_000),
        "x".repeat(255),
        "a.b.c".into(),
        "%00".into(),
        "é".into(),
        "' OR 1=1 --".replace(' ', ""),
    ] {
        assert_eq!(me(&host, &token).status, 401, "{token}");
        let refresh = post(&host, "/auth/refresh", "", &json!({"refresh_token": token}));
        assert!(matches!(refresh.status, 400 | 401), "{token}");
    }
    let twice = host.get("/users/me\nCookie: directus_session_token=a; directus_session_token=b");
    assert_eq!(twice.status, 401);
    assert_eq!(host.get("/users/me").status, 403);
    assert_eq!(
        done(folder, "user list", "") + &done(folder, "token list", ""),
        before
    );
}

#[test]
fn an_operator_closes_an_extension_by_the_name_of_a_role() {
    let host = plan()
        .config("[extensions.probe]\nrequire = [\"editors\"]")
        .start();
    let folder = host.folder();
    done(folder, "role add editors", "");
    done(folder, "role add readers", "");
    for role in ["editors", "readers"] {
        add_user(
            folder,
            &format!("{role}@example.com"),
            &format!(" --role {role}"),
        );
    }
    let status = |role: &str| {
        let (_, token) = new_token(folder, &format!("{role}@example.com"), "");
        host.get(&format!("/probe/seen\nAuthorization: Bearer {token}"))
            .status
    };
    assert_eq!(status("readers"), 403);
    assert_ne!(status("editors"), 403);
}

#[test]
fn a_killed_command_leaves_the_old_state_or_the_new_one() {
    let host = plan().start();
    let folder = host.folder();
    let (mut killed, mut ended) = (0, 0);
    for round in 0..40_u64 {
        let email = format!("user{round}@example.com");
        add_user_quickly(folder, &email);
        let (id, token) = new_token(folder, &email, "");
        let line = match round % 4 {
            0 => format!("token revoke {id}"),
            1 => format!("user suspend {email}"),
            2 => format!("user remove {email}"),
            _ => format!("token create {email} --name second"),
        };
        let mut child = command(folder, &line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From before it has opened the store to after it has ended.
        std::thread::sleep(Duration::from_micros(round * 1_500));
        child.kill().unwrap();
        match child.wait().unwrap().code() {
            Some(_) => ended += 1,
            None => killed += 1,
        }
        let users: Value = serde_json::from_str(&done(folder, "user list --json", "")).unwrap();
        let tokens: Value = serde_json::from_str(&done(folder, "token list --json", "")).unwrap();
        let user = users
            .as_array()
            .unwrap()
            .iter()
            .find(|user| user["email"] == *email);
        let count = tokens
            .as_array()
            .unwrap()
            .iter()
            .filter(|token| token["user"] == *email)
            .count();
        let is_let_in = me(&host, &token).status == 200;
        match (
            round % 4,
            user.map(|user| user["status"].as_str().unwrap()),
            count,
        ) {
            (0, Some("active"), 1)
            | (1, Some("active"), 1)
            | (2, Some("active"), 1)
            | (3, Some("active"), 1 | 2) => {}
            (0, Some("active"), 0) | (1, Some("suspended"), 1) | (2, None, 0) => {
                eventually("the token is dead", || me(&host, &token).status == 401);
                continue;
            }
            state => panic!("{line}: neither old nor new: {state:?}"),
        }
        assert!(is_let_in, "{line}: nothing was changed");
    }
    assert!(
        killed >= 5 && ended >= 1,
        "{killed} killed, {ended} ended before that"
    );
    if host.folder().join("data/extension-host.db").exists() {
        let url = format!(
            "sqlite:{}",
            host.folder().join("data/extension-host.db").display()
        );
        execute(
            &url,
            &["PRAGMA integrity_check", "PRAGMA foreign_key_check"],
        );
    }
}

/// Without a password, which takes most of the time.
fn add_user_quickly(folder: &std::path::Path, email: &str) {
    let output = run(folder, &format!("user add {email} --no-password"), "");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn several_hosts_may_meet_at_an_empty_store() {
    let shared = database();
    let first = plan_on(shared.as_deref());
    let url =
        shared.unwrap_or_else(|| format!("sqlite:{}", first.folder().join("shared.db").display()));
    let hosts: Vec<Host> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| plan_on(Some(&url)).start()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let list: Value =
        serde_json::from_str(&done(hosts[0].folder(), "user list --json", "")).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
}
