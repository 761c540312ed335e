//! Requests against an API whose answers are made up: what is said, and with which exit code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};
use trine_api::{
    Accepted, Control, EventView, Finding, Findings, LossEstimate, Refused, Request, RequestState, RequestStatus, Role,
    Server, ServerConfig, Status, Uris, Verification, api_url,
};
use trine_platform::{Network, TcpNetwork};

const TOKEN: &str = "the-token-of-these-tests";

/// A cluster that does at once what it is asked, unless a test wants otherwise.
#[derive(Default)]
struct Made {
    status: Mutex<Option<Status>>,
    asked: Mutex<Vec<Request>>,
    /// What becomes of a request.
    outcome: Option<(RequestState, &'static str)>,
    refuse: Option<Refused>,
    /// What a comparison of the copies comes to.
    seen: Option<Verification>,
    /// What the databases are found to have.
    found: Vec<Finding>,
    /// Nobody can be elected.
    stuck: bool,
}

fn status() -> Status {
    let node = |name: &str, role: &str| {
        serde_json::json!({"name": name, "zone": name, "address": "127.0.0.1", "role": role, "state": "running",
            "agent_pid": 1, "guard_pid": 2, "database_pid": 3, "database_port": 6500, "data_dir": "/d", "data_epoch": 4,
            "position": "0/4000000", "lag_bytes": 0, "lag_seconds": 0.0})
    };
    serde_json::from_value(serde_json::json!({
        "cluster": "demo", "engine": "postgres", "epoch": 4, "primary": "n1", "health": "healthy", "paused": null,
        "sync": {"standbys": ["n2", "n3"], "acks": 1}, "endpoints": {"writer": [], "reader": [], "api": []},
        "nodes": [node("n1", "primary"), node("n2", "standby"), node("n3", "standby")],
        "writable": true, "leader": "n1",
    }))
    .unwrap()
}

#[async_trait]
impl Control for Made {
    async fn status(&self) -> Result<Status, Refused> {
        Ok(self.status.lock().unwrap().get_or_insert_with(status).clone())
    }

    async fn events(&self, after: u64, _limit: usize) -> Result<Vec<EventView>, Refused> {
        let event = EventView {
            number: 1,
            time: "2026-01-01T00:00:00Z".into(),
            kind: "failover".into(),
            epoch: 4,
            node: Some("n1".parse().unwrap()),
            text: "n1 is primary in epoch 4".into(),
            evidence: serde_json::json!({"sealed voters": "3"}),
        };
        Ok(if after == 0 { vec![event] } else { Vec::new() })
    }

    async fn new_events(&self, _after: u64) {
        std::future::pending().await
    }

    async fn uris(&self) -> Result<Uris, Refused> {
        Ok(Uris::of(vec!["postgresql://w".into()], vec!["postgresql://r".into()]))
    }

    async fn examine(&self) -> Result<Findings, Refused> {
        if let Some(refused) = &self.refuse {
            return Err(refused.clone());
        }
        Ok(Findings { findings: self.found.clone(), examined: vec!["n1".parse().unwrap(), "n2".parse().unwrap()] })
    }

    async fn request(&self, request: Request) -> Result<Accepted, Refused> {
        self.asked.lock().unwrap().push(request.clone());
        if let Some(refused) = &self.refuse {
            return Err(refused.clone());
        }
        let mut status = self.status.lock().unwrap();
        let status = status.get_or_insert_with(crate::status);
        if let Request::AcceptDataLoss { confirm: false, .. } = request {
            let estimate = LossEstimate {
                node: "n3".parse().unwrap(),
                position: "0/3000000".into(),
                furthest_known: Some("0/4000000".into()),
                lost_bytes: Some(16_777_216),
                lost_transactions: None,
                lost_seconds: None,
                text: "n1 and n2 do not answer".into(),
            };
            return Ok(Accepted { estimate: Some(estimate), ..Accepted::default() });
        }
        match request {
            _ if self.stuck => {
                status.primary = None;
                status.writable = false;
                status.alarms = vec!["no primary can be elected safely: n1 and n2 are missing".into()];
            }
            Request::Pause { reason } => status.paused = Some(reason),
            Request::Resume => status.paused = None,
            Request::Switchover { to } | Request::Failover { to } | Request::AcceptDataLoss { node: to, .. } => {
                status.epoch += 1;
                status.primary = Some(to.unwrap_or_else(|| "n2".parse().unwrap()));
                let epoch = status.epoch;
                status.nodes.iter_mut().for_each(|n| n.data_epoch = Some(epoch));
            }
            Request::Verify => {
                let seen = self.seen.clone();
                status.nodes.iter_mut().filter(|n| n.role == Role::Primary).for_each(|n| n.verification = seen.clone());
            }
            Request::Rebuild { .. } | Request::Replace { .. } | Request::EndDatabase { .. } => {}
        }
        let Some((state, message)) = self.outcome else { return Ok(Accepted::default()) };
        status.requests = vec![RequestStatus { number: 9, what: "it".into(), state, message: message.to_owned() }];
        Ok(Accepted { request: Some(9), ..Accepted::default() })
    }
}

/// The made-up cluster's API, until this is dropped.
struct Api {
    at: SocketAddr,
    made: Arc<Made>,
    _runtime: tokio::runtime::Runtime,
    _stop: DropGuard,
}

impl Api {
    fn of(made: Made) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let made = Arc::new(made);
        let server = Server::new(made.clone(), ServerConfig { token: TOKEN.into(), tls: None });
        let listener = runtime.block_on(TcpNetwork.listen("127.0.0.1:0".parse().unwrap())).unwrap();
        let at = listener.local_addr().unwrap();
        runtime.spawn(server.run(listener, stop.clone()));
        Self { at, made, _runtime: runtime, _stop: stop.drop_guard() }
    }

    fn trine(&self, args: &[&str]) -> Output {
        let mut c = Command::new(env!("CARGO_BIN_EXE_trine"));
        c.args(args).arg("--api").arg(api_url(self.at)).env("TRINE_TOKEN", TOKEN).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it; its exit code, stdout and stderr.
    fn says(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let o = self.trine(args);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (o.status.code(), text(&o.stdout), text(&o.stderr))
    }

    fn asked(&self) -> Vec<Request> {
        self.made.asked.lock().unwrap().clone()
    }
}

#[test]
fn what_is_shown() {
    let api = Api::of(Made::default());
    let (code, out, err) = api.says(&["status"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for word in ["demo", "healthy", "epoch 4", "primary n1", "1 of n2, n3", "0/4000000"] {
        assert!(out.contains(word), "{word:?} is missing in:\n{out}");
    }
    let (_, json, _) = api.says(&["status", "--json"]);
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    assert_eq!(json.lines().count(), 1);
    let (_, json, _) = api.says(&["events", "--json"]);
    let events: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(events.pointer("/events/0/number"), Some(&serde_json::json!(1)));
    let (_, text, _) = api.says(&["events"]);
    assert!(text.contains("n1 is primary") && text.contains("sealed voters: 3"), "{text}");
    let (_, json, _) = api.says(&["endpoints", "--json"]);
    assert_eq!(json.trim(), r#"{"writer":"postgresql://w","reader":"postgresql://r"}"#);
}

#[test]
fn what_is_asked_for_is_waited_for() {
    let api = Api::of(Made { outcome: Some((RequestState::Done, "")), ..Made::default() });
    let (code, out, _) = api.says(&["switchover"]);
    assert_eq!((code, out.trim()), (Some(0), "n2 is the primary of epoch 5"));
    let (code, out, _) = api.says(&["failover", "--to", "n3", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json.get("primary")), (Some(0), Some(&serde_json::json!("n3"))));
    let (code, ..) = api.says(&["pause", "--reason", "new disks"]);
    assert_eq!(
        (code, api.made.status.lock().unwrap().as_ref().unwrap().paused.as_deref()),
        (Some(0), Some("new disks"))
    );
    assert_eq!(api.says(&["resume"]).0, Some(0));
    assert_eq!(api.says(&["node", "rebuild", "n2"]).0, Some(0));
    let (code, _, err) = api.says(&["switchover", "--to", "n9"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("n9") && err.contains("n1, n2, n3"), "{err}");
    let asked = api.asked().len();
    let (code, out, _) = api.says(&["switchover", "--to", "n3"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("already"), "{out}");
    assert_eq!(api.asked().len(), asked, "it is the primary already");
}

#[test]
fn refusals_are_told_with_their_exit_code() {
    for (refused, code) in [
        (Refused::failed("no majority"), 1),
        (Refused::unknown("it may have been taken"), 1),
        (Refused::wrong_use("no such thing"), 2),
        (Refused::not_safe("n2 lags"), 3),
        (Refused::no_majority("nobody else answers"), 3),
    ] {
        let api = Api::of(Made { refuse: Some(refused.clone()), ..Made::default() });
        let (got, out, err) = api.says(&["switchover"]);
        assert_eq!((got, out.as_str()), (Some(code), ""), "{err}");
        assert!(err.contains(&refused.message), "{err}");
    }
    let api = Api::of(Made { outcome: Some((RequestState::Failed, "n2 is 5 MB behind")), ..Made::default() });
    let (got, _, err) = api.says(&["switchover"]);
    assert_eq!(got, Some(1));
    assert!(err.contains("n2 is 5 MB behind"), "{err}");
    let api = Api::of(Made { outcome: Some((RequestState::Pending, "draining n1")), ..Made::default() });
    let (got, _, err) = api.says(&["switchover", "--timeout", "1"]);
    assert_eq!(got, Some(1));
    assert!(err.contains("1 s") && err.contains("draining n1"), "{err}");
    let api = Api::of(Made { stuck: true, ..Made::default() });
    let (got, _, err) = api.says(&["failover"]);
    assert_eq!(got, Some(3));
    assert!(err.contains("n1 and n2 are missing") && err.contains("--accept-data-loss"), "{err}");
}

#[test]
fn what_a_comparison_has_found() {
    let seen =
        Verification { number: 1, done_bytes: 2_600_000, total_bytes: 2_600_000, copies: 3, ..Verification::default() };
    let says = |seen: &Verification| {
        let (code, out, err) =
            Api::of(Made { seen: Some(seen.clone()), ..Made::default() }).says(&["volume", "verify"]);
        (code, out, err)
    };
    let (code, out, _) = says(&seen);
    assert_eq!((code, out.trim()), (Some(0), "3 copies of 2.6 MB are equal"));
    let repaired = Verification { differences: vec!["a differed on n2".into()], ..seen.clone() };
    let (code, out, _) = says(&repaired);
    assert_eq!((code, out.trim()), (Some(0), "a differed on n2\n3 copies of 2.6 MB are equal again"));
    let (code, out, err) = says(&Verification { unrepaired: 1, ..repaired });
    assert_eq!((code, out.trim()), (Some(1), "a differed on n2"));
    assert!(err.contains("1 differences are not repaired"), "{err}");
    let (code, out, err) = says(&Verification { problem: Some("the volume is closed".into()), ..seen.clone() });
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("the volume is closed"), "{err}");
    let (_, out, _) = says(&Verification { copies: 1, ..seen });
    assert!(out.contains("no other copy"), "{out}");
}

#[test]
fn findings_are_no_failure() {
    let found: Vec<Finding> = serde_json::from_value(serde_json::json!([{
        "severity": "warning", "what": "tables without a primary key", "nodes": ["n1"], "places": ["app.t"], "more": 0,
        "why": "a standby lags", "remedy": "add one",
    }]))
    .unwrap();
    let api = Api::of(Made { found: found.clone(), ..Made::default() });
    let (code, out, err) = api.says(&["doctor"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("warning  tables without a primary key on n1\n         app.t\n"), "{out}");
    assert!(out.ends_with("1 warning; looked at n1, n2\n"), "{out}");
    let (_, json, _) = api.says(&["doctor", "--json"]);
    assert_eq!(serde_json::from_str::<Findings>(&json).unwrap().findings, found);
    let (code, out, _) = Api::of(Made::default()).says(&["doctor"]);
    assert_eq!((code, out.trim()), (Some(0), "nothing found; looked at n1, n2"));
    let refuse = Some(Refused::failed("no node's database could be looked at"));
    let (code, out, err) = Api::of(Made { refuse, ..Made::default() }).says(&["doctor"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("could be looked at"), "{err}");
}

#[test]
fn data_loss_needs_a_word() {
    let api = Api::of(Made::default());
    let (code, _, err) = api.says(&["failover", "--accept-data-loss"]);
    assert_eq!(code, Some(3));
    for word in ["n3", "0/3000000", "0/4000000", "17 MB", "--yes"] {
        assert!(err.contains(word), "{word:?} is missing in:\n{err}");
    }
    assert_eq!(api.asked(), [Request::AcceptDataLoss { node: None, confirm: false }], "it went on without a word");
    let (code, out, _) = api.says(&["failover", "--accept-data-loss", "--yes"]);
    assert_eq!((code, out.trim()), (Some(0), "n3 is the primary of epoch 5"));
    // Exactly the node that the estimate was about.
    let last = api.asked().pop().unwrap();
    assert_eq!(last, Request::AcceptDataLoss { node: Some("n3".parse().unwrap()), confirm: true });
}

#[test]
fn a_token_is_needed_and_told_about() {
    let api = Api::of(Made::default());
    let url = api_url(api.at);
    let run = |token: Option<&str>, args: &[&str]| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_trine"));
        c.args(args).args(["--api", &url]).env_remove("TRINE_TOKEN");
        if let Some(token) = token {
            c.env("TRINE_TOKEN", token);
        }
        let o = c.output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&o.stderr).into_owned())
    };
    assert_eq!(run(None, &["status"]).0, Some(0), "reading is open on this machine");
    for token in [None, Some("wrong-token-wrong-token")] {
        let (code, err) = run(token, &["switchover"]);
        assert_eq!(code, Some(1));
        assert!(err.contains("token"), "{err}");
    }
    assert!(api.asked().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    assert_eq!(run(None, &["switchover", "--token-file", file.to_str().unwrap()]).0, Some(0));
}
