//! Sockets that systemd has opened and hands over (`LISTEN_FDS`): they are served, and no others; what cannot be served is refused.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::support::host::Plan;
use crate::support::{Connection, Extension, Host, built, eventually};

/// A host that is started with such sockets, meant for the process `pid`, and where their ports are written.
fn plan(pid: &str, kinds: &[&str]) -> (Plan, PathBuf) {
    let plan = Host::plan().extensions(&[&Extension::good()]);
    let ports = plan.folder().join("ports");
    let program = built::c_program("hands_over.c");
    let path = ports.to_str().expect("a path that is text");
    let arguments = [&[path, pid], kinds, &["--"]].concat();
    let program = program.to_str().expect("a path that is text");
    (plan.through(program, &arguments), ports)
}

fn handed_over(ports: &PathBuf) -> Vec<SocketAddr> {
    let ports = fs::read_to_string(ports).expect("they were written");
    let address = |port: &str| SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")));
    ports.lines().map(address).collect()
}

/// Where the host says that it listens, in the words of all its servers.
fn listening(host: &Host) -> Vec<SocketAddr> {
    let lines = host.log().into_iter();
    let lines = lines.filter(|line| line["message"] == "listening");
    let address = |line: serde_json::Value| line["address"].as_str().expect("one").parse();
    lines.map(|line| address(line).expect("one")).collect()
}

#[track_caller]
fn serves(address: SocketAddr) {
    let mut client = Connection::open(address);
    client.send("GET /c-sample/now HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "hello from C");
}

#[test]
fn sockets_that_are_handed_over_are_served_and_no_others() {
    for is_supervised in [false, true] {
        let (plan, ports) = plan("own", &["tcp", "tcp"]);
        let plan = match is_supervised {
            true => plan.supervised(),
            false => plan,
        };
        let host = plan.start();
        let handed_over = handed_over(&ports);
        eventually("it listens on both", || listening(&host).len() == 2);
        assert_eq!(listening(&host), handed_over);
        handed_over.into_iter().for_each(serves);
        assert_eq!(host.stop().code, Some(0));
    }
}

#[test]
fn sockets_that_are_handed_over_outlive_servers() {
    let (plan, ports) = plan("own", &["tcp", "tcp"]);
    let host = plan.supervised().start();
    let upgraded = host.command(&["upgrade"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    handed_over(&ports).into_iter().for_each(serves);
    eventually("both have said so", || listening(&host).len() == 4);
    let server = host.server_pid();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &server.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    // They wait for the next server.
    handed_over(&ports).into_iter().for_each(serves);
    assert_ne!(host.server_pid(), server);
    eventually("the third has said so", || listening(&host).len() == 6);
    assert_eq!(listening(&host), handed_over(&ports).repeat(3));
}

#[test]
fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let (plan, ports) = plan("1", &["tcp"]);
    let host = plan.start();
    serves(host.address());
    assert!(!handed_over(&ports).contains(&host.address()));
    assert_eq!(listening(&host).len(), 1);
}

#[test]
fn what_is_handed_over_and_cannot_be_served_is_refused_with_its_reason() {
    for (kind, cause) in [
        ("udp", "fd 4 is not a valid tcp socket"),
        ("unix", "fd 4 is not a valid tcp socket"),
        ("a-file", "fd 4 is not a socket"),
        ("tcp-that-does-not-listen", "a socket does not listen"),
    ] {
        for is_supervised in [false, true] {
            let (plan, _) = plan("own", &["tcp", kind]);
            let plan = match is_supervised {
                true => plan.supervised(),
                false => plan,
            };
            let ended = plan.fail();
            assert_eq!(ended.code, Some(1), "{kind}");
            let sentence = format!(
                "cannot use a socket that systemd has handed over; it has to be a listening TCP socket: {cause}"
            );
            assert!(ended.said(&sentence), "{kind}: {:?}", ended.log);
        }
    }
}
