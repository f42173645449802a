// SPDX-License-Identifier: GPL-2.0

//! The harness against itself on loopback: what it reports must be true where nothing is lost.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

const HARNESS: &str = env!("CARGO_BIN_EXE_harness");

/// A real server that ends with the test.
struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(name: &str, protos: &[&str]) -> Option<Self> {
        Self::start_with(name, protos, &[])
    }

    /// A sink for UDP datagrams.
    fn start_sink() -> Self {
        let addr = free_addr();
        let mut command = Command::new(HARNESS);
        command.args(["sink", "--listen", &addr.to_string()]);
        Self::spawn(command, addr).unwrap()
    }

    fn start_with(name: &str, protos: &[&str], args: &[&str]) -> Option<Self> {
        let addr = free_addr();
        let mut command = Command::new(HARNESS);
        command.args(["serve", "--name", name, "--listen", &addr.to_string()]);
        command.args(protos.iter().flat_map(|proto| ["--proto", proto]));
        command.args(args);
        Self::spawn(command, addr)
    }

    /// Starts `command`, which listens on `addr`, and waits until it is ready.
    fn spawn(mut command: Command, addr: SocketAddr) -> Option<Self> {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let server = Self { process, addr };
        (line == "READY\n").then_some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// An address with a port that is free now. A server binds it a moment later.
fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A client address of its own for each test, below the ports that the kernel gives away.
fn client_addr() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    format!("127.0.0.1:{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn harness(args: &[&str]) -> Output {
    Command::new(HARNESS).args(args).output().unwrap()
}

fn reconnect(server: &Server, args: &[&str]) -> Output {
    let (from, to) = (client_addr(), server.addr.to_string());
    harness(&[&["reconnect", "--from", &from, "--to", &to], args].concat())
}

fn bash(command: &str) {
    let status = Command::new("bash").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

fn report(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn assert_nothing_lost(report: &Value, end: &str) {
    assert_eq!(report["first"], "rs1", "{end}: {report}");
    assert_eq!(report["second"], "rs1", "{end}: {report}");
    assert_eq!(report["seen_as"], "127.0.0.1", "{end}: {report}");
    assert_eq!(report["syn_retransmits"], 0, "{end}: {report}");
    assert_eq!(report["connected"], true, "{end}: {report}");
    assert_eq!(report["timed_out"], false, "{end}: {report}");
}

/// Whether this process may do what the kernel gives only to the administrator of a network.
fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .contains("\nUid:\t0\t")
}

#[test]
fn the_same_port_connects_again_at_once_after_each_end() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    for end in ["fin", "server-rst", "client-rst"] {
        assert_nothing_lost(&report(&reconnect(&server, &["--end", end])), end);
    }
}

/// The client closed: it waits in TIME_WAIT for a second, the least before Linux reuses a port.
#[test]
fn the_same_port_connects_again_after_the_clients_fin() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    for end in ["client-fin", "both-fin"] {
        assert_nothing_lost(&report(&reconnect(&server, &["--end", end])), end);
    }
}

#[test]
fn a_connection_that_never_began_has_no_first_server() {
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (from, to) = (client_addr(), addr.to_string());
    let args = [
        "reconnect",
        "--from",
        &from,
        "--to",
        &to,
        "--end",
        "refused",
    ];
    let report = report(&harness(&args));
    assert!(report["first"].is_null(), "{report}");
    assert_eq!(report["refused"], true, "{report}");
    assert_eq!(report["syn_retransmits"], 0, "{report}");
}

#[test]
fn a_flow_survives_a_stray_syn() {
    if !is_root() {
        eprintln!("skipped: raw sockets need root");
        return;
    }
    let server = Server::start("rs1", &["tcp"]).unwrap();
    assert_nothing_lost(
        &report(&reconnect(&server, &["--end", "stray-syn"])),
        "stray-syn",
    );
}

#[test]
fn a_live_flow_is_asked_again() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    assert_nothing_lost(&report(&reconnect(&server, &["--end", "live"])), "live");
}

#[test]
fn another_client_may_have_the_port_next() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let args = ["--end", "server-rst", "--then-from", "127.0.0.2"];
    let report = report(&reconnect(&server, &args));
    assert_eq!(report["connected"], true, "{report}");
    assert_eq!(report["seen_as"], "127.0.0.2", "{report}");
}

/// The server still has the vanished client's connection and answers the second SYN with an
/// acknowledgment of the first. That the client must send its SYN again shows that it sent
/// neither FIN nor RST when it vanished.
#[test]
fn a_vanished_client_leaves_its_connection_behind() {
    if !is_root() {
        eprintln!("skipped: TCP_REPAIR needs root");
        return;
    }
    let server = Server::start("rs1", &["tcp"]).unwrap();
    for end in ["hold", "half-close"] {
        let report = report(&reconnect(&server, &["--end", end]));
        assert_eq!(report["connected"], true, "{end}: {report}");
        assert_eq!(report["syn_retransmits"], 1, "{end}: {report}");
        assert_eq!(report["challenged"], true, "{end}: {report}");
    }
}

#[test]
fn datagrams_are_answered() {
    let server = Server::start("rs1", &["udp"]).unwrap();
    for size in ["1", "2000"] {
        let output = reconnect(
            &server,
            &["--proto", "udp", "--end", "hold", "--size", size],
        );
        assert_nothing_lost(&report(&output), size);
    }
}

#[test]
fn a_sip_request_is_answered_like_any_datagram() {
    let server = Server::start("rs1", &["udp"]).unwrap();
    let args = ["--proto", "udp", "--end", "hold", "--call-id", "a@b"];
    assert_nothing_lost(&report(&reconnect(&server, &args)), "sip");
}

#[test]
fn a_data_connection_is_made_known() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    // Elsewhere: the server listens on the client's port.
    let (from, to) = (
        client_addr().replace("127.0.0.1", "127.0.0.2"),
        server.addr.to_string(),
    );
    let end = ["--end", "server-rst", "--passive"];
    let output = harness(&[&["reconnect", "--from", &from, "--to", &to], &end[..]].concat());
    let report = report(&output);
    assert_eq!(report["connected"], true, "{report}");
    assert_eq!(report["syn_retransmits"], 0, "{report}");
}

#[test]
fn an_unanswered_datagram_is_counted_and_sent_again() {
    let server = Server::start("rs1", &["udp"]).unwrap();
    let pid = server.process.id();
    let (from, to) = (client_addr(), server.addr.to_string());
    let mut client = Command::new(HARNESS)
        .args(["reconnect", "--from", &from, "--to", &to, "--proto", "udp"])
        .args(["--end", "hold", "--pause"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), r#"{"first":"rs1"}"#);
    // The server sleeps over the first datagram of the second flow, and answers it late.
    bash(&format!("kill -STOP {pid}"));
    writeln!(client.stdin.take().unwrap()).unwrap();
    bash(&format!("sleep 1.5; kill -CONT {pid}"));
    let report: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
    assert!(client.wait().unwrap().success(), "{report}");
    assert_eq!(report["connected"], true, "{report}");
    assert_eq!(report["syn_retransmits"], 1, "{report}");
}

#[test]
fn sctp_connects_again_after_shutdown_and_abort() {
    let Some(server) = Server::start("rs1", &["sctp"]) else {
        eprintln!("skipped: no SCTP");
        return;
    };
    for end in ["fin", "server-rst", "client-rst"] {
        let output = reconnect(&server, &["--proto", "sctp", "--end", end]);
        assert_nothing_lost(&report(&output), end);
    }
}

#[test]
fn a_console_does_line_by_line_what_a_command_line_does() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let mut console = Command::new(HARNESS)
        .arg("console")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tell = console.stdin.take().unwrap();
    let mut said = BufReader::new(console.stdout.take().unwrap()).lines();
    let mut hear = || said.next().unwrap().unwrap();

    writeln!(tell, "recollect").unwrap();
    assert!(hear().starts_with(r#"{"error":"#));

    // A pause ends with a line, too, and that is no command.
    let to = server.addr;
    for _ in 0..2 {
        let from = client_addr();
        writeln!(tell, "reconnect --from {from} --to {to} --end fin --pause").unwrap();
        assert_eq!(hear(), r#"{"first":"rs1"}"#);
        writeln!(tell).unwrap();
        assert_nothing_lost(&serde_json::from_str(&hear()).unwrap(), "fin");
    }

    // Connections that fail are in the report, and no error follows it.
    let nobody = free_addr();
    for _ in 0..2 {
        writeln!(tell, "burst --from 127.0.0.1 --to {nobody} --connections 2").unwrap();
        assert!(hear().starts_with(r#"{"connections":0,"failed":2,"#));
    }

    drop(tell);
    assert!(console.wait().unwrap().success());
}

#[test]
fn without_a_first_connection_there_is_no_report() {
    let nobody = free_addr().to_string();
    let from = client_addr();
    let output = harness(&[
        "reconnect",
        "--from",
        &from,
        "--to",
        &nobody,
        "--end",
        "fin",
    ]);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the service up?"));
}

#[test]
fn a_load_is_steady_and_complete() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let to = server.addr.to_string();
    // Fewer ports than connections: each is used about three times.
    let output = harness(&[
        "load",
        "--to",
        &to,
        "--from",
        "127.0.0.1,127.0.0.2",
        "--ports",
        "21000-21049",
        "--rate",
        "100",
        "--seconds",
        "3",
        "--hold",
        "100ms",
        "--end",
        "server-rst",
    ]);
    let lines = lines(&output);
    let (last, seconds) = lines.split_last().unwrap();
    let summary = &last["summary"];
    assert!(output.status.success(), "{summary}");
    for key in ["opened", "connected"] {
        assert_eq!(summary[key], 300, "{summary}");
    }
    assert_eq!(summary["servers"]["rs1"], 300, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    for (n, second) in seconds[..3].iter().enumerate() {
        assert_eq!(second["t"], n + 1);
        assert!(
            (50..=150).contains(&second["rs1"].as_u64().unwrap()),
            "{second}"
        );
    }
    let told: u64 = seconds.iter().filter_map(|it| it["rs1"].as_u64()).sum();
    assert_eq!(told, 300, "{seconds:?}");
}

#[test]
fn a_load_says_when_it_has_too_few_ports() {
    let output = harness(&[
        "load",
        "--to",
        "127.0.0.1:1",
        "--from",
        "127.0.0.1",
        "--ports",
        "21100-21109",
        "--rate",
        "100",
        "--seconds",
        "1",
        "--hold",
        "1s",
    ]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--ports"));
}

#[test]
fn a_load_counts_connections_that_fail() {
    let nobody = free_addr().to_string();
    let output = harness(&[
        "load",
        "--to",
        &nobody,
        "--from",
        "127.0.0.1",
        "--ports",
        "21200-21299",
        "--rate",
        "100",
        "--seconds",
        "1",
        "--hold",
        "0s",
        "--connections",
        "5",
    ]);
    assert!(!output.status.success());
    let lines = lines(&output);
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["failed"], 5, "{summary}");
    let refused = summary["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 5, "{summary}");
    for times in refused {
        assert!(times[0].as_u64() <= times[1].as_u64(), "{summary}");
    }
}

#[test]
fn a_burst_holds_all_of_its_connections_at_once() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let to = server.addr.to_string();
    let output = harness(&[
        "burst",
        "--to",
        &to,
        "--from",
        "127.0.0.1",
        "--ports",
        "22000-23999",
        "--connections",
        "2000",
        "--end",
        "client-rst",
    ]);
    let report = report(&output);
    assert_eq!(report["connections"], 2000, "{report}");
    assert_eq!(report["servers"]["rs1"], 2000, "{report}");
    assert_eq!(report["max_over_mean"], 1.0, "{report}");
}

#[test]
fn a_storm_reopens_its_ports_and_loses_nothing() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let to = server.addr.to_string();
    for end in ["fin", "server-rst"] {
        let args = [
            "storm",
            "--from",
            "127.0.0.1",
            "--ports",
            "19000-19039",
            "--to",
            &to,
            "--concurrency",
            "8",
            "--seconds",
            "10",
            "--connections",
            "400",
            "--every",
            "1ms",
            "--end",
            end,
        ];
        let lines = lines(&harness(&args));
        let (report, intervals) = lines.split_last().unwrap();
        assert!(report["connections"].as_u64() >= Some(400), "{report}");
        assert_eq!(report["failed"], 0, "{report}");
        assert_eq!(report["syn_retransmits"], 0, "{report}");
        assert!(
            report["p50_ms"].as_f64() <= report["max_ms"].as_f64(),
            "{report}"
        );
        let told: u64 = (intervals.iter())
            .filter_map(|interval| interval["servers"]["rs1"].as_u64())
            .sum();
        assert_eq!(report["servers"]["rs1"].as_u64(), Some(told), "{report}");
    }
}

#[test]
fn a_server_may_tell_its_ports_apart() {
    let server = Server::start_with("rs1", &["tcp"], &["--with-port"]).unwrap();
    let (to, port) = (server.addr.to_string(), server.addr.port());
    let output = harness(&[
        "burst",
        "--to",
        &to,
        "--from",
        "127.0.0.1",
        "--ports",
        "24000-24099",
        "--connections",
        "10",
    ]);
    let report = report(&output);
    assert_eq!(report["servers"][format!("rs1:{port}")], 10, "{report}");
}

#[test]
fn datagrams_are_sent_and_timed() {
    let server = Server::start("rs1", &["udp"]).unwrap();
    let (from, to) = (client_addr(), server.addr.to_string());
    let sent = report(&harness(&[
        "datagrams",
        "--from",
        &from,
        "--to",
        &to,
        "--count",
        "10",
    ]));
    assert_eq!(sent["datagrams"], 10, "{sent}");
    assert!(sent["ns_each"].as_u64() > Some(0), "{sent}");
}

/// Asserts that a report is about `count` things, and that each took some time.
fn assert_timed(report: &Value, count: u32) {
    assert_eq!(report["count"], count, "{report}");
    assert!(report["ns_each"].as_u64() > Some(0), "{report}");
    assert!(report["ns_trimmed"].as_f64() > Some(0.0), "{report}");
}

/// How many datagrams the socket at `addr` has dropped.
fn dropped(addr: SocketAddr) -> u32 {
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let port = format!(":{:04X}", addr.port());
    let line = (sockets.lines())
        .find(|line| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|a| a.ends_with(&port))
        })
        .expect("the socket is open");
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn a_sink_discards_each_datagram_of_a_stream() {
    let sink = Server::start_sink();
    let (from, to) = (client_addr(), sink.addr.to_string());
    let args = ["stream", "--from", &from, "--to", &to];
    assert_timed(
        &report(&harness(&[&args[..], &["--count", "100"]].concat())),
        100,
    );
    assert_eq!(dropped(sink.addr), 100);
    // More than a receive buffer holds, were it not for the filter
    let large = ["--count", "1000", "--size", "1400"];
    assert_timed(&report(&harness(&[&args[..], &large].concat())), 1000);
    assert_eq!(dropped(sink.addr), 1100);
}

#[test]
fn a_stream_without_a_sink_fails() {
    let (from, to) = (client_addr(), free_addr().to_string());
    let output = harness(&["stream", "--from", &from, "--to", &to, "--count", "10"]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("is a sink there?"), "{error}");
}

#[test]
fn queries_and_connections_are_timed() {
    let server = Server::start("rs1", &["udp", "tcp"]).unwrap();
    let (from, to) = (client_addr(), server.addr.to_string());
    let args = ["queries", "--from", &from, "--to", &to, "--count", "10"];
    assert_timed(&report(&harness(&args)), 10);

    let first: u16 = from.rsplit(':').next().unwrap().parse().unwrap();
    let ports = format!("{}-{}", first + 1000, first + 1009);
    let mut args = vec!["connections", "--from", "127.0.0.1", "--to", &to];
    args.extend(["--ports", &ports, "--count"]);
    assert_timed(&report(&harness(&[&args[..], &["10"]].concat())), 10);
    let output = harness(&[&args[..], &["11"]].concat());
    assert!(!output.status.success(), "11 connections from 10 ports");
}

#[test]
fn questions_go_on_until_a_line_comes() {
    let server = Server::start("rs1", &["udp"]).unwrap();
    let (from, to) = (client_addr(), server.addr.to_string());
    let mut client = Command::new(HARNESS)
        .args(["questions", "--from", &from, "--to", &to, "--every", "1ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut hear = || said.next().unwrap().unwrap();

    assert_eq!(hear(), r#"{"first":"rs1"}"#);
    writeln!(client.stdin.take().unwrap()).unwrap();
    let report: Value = serde_json::from_str(&hear()).unwrap();
    assert!(report["questions"].as_u64() > Some(0), "{report}");
    assert_eq!(report["answers"], report["questions"], "{report}");
    assert_eq!(report["servers"]["rs1"], report["answers"], "{report}");
    assert!(client.wait().unwrap().success());
}

#[test]
fn many_flows_come_back_at_once() {
    let server = Server::start("rs1", &["tcp"]).unwrap();
    let mut flows = Command::new(HARNESS)
        .args(["flows", "--over", "50ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tell = flows.stdin.take().unwrap();
    let mut said = BufReader::new(flows.stdout.take().unwrap()).lines();
    let ends = ["fin", "server-rst", "client-rst", "client-fin"];

    for end in ends {
        writeln!(tell, "{end} {} {} {end}", client_addr(), server.addr).unwrap();
    }
    writeln!(tell).unwrap();
    assert_eq!(said.next().unwrap().unwrap(), r#"{"ended":4}"#);
    writeln!(tell).unwrap();
    for end in ends {
        let report: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
        assert_eq!(report["name"], end, "{report}");
        assert_nothing_lost(&report, end);
    }
    assert!(said.next().is_none());
    assert!(flows.wait().unwrap().success());
}
