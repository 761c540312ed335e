//! What a drill does to the cluster, and when it does not.

use std::time::Duration;

use tokio::time::Instant;
use trine_api::{Accepted, Client, ClientError, Health, NodeStatus, Request, Role, Status, drill};
use trine_protocol::NodeName;

use super::ledger::Ledger;
use super::report::{Measured, Report};
use crate::args;
use crate::failure::{Done, Failure};
use crate::print;
use crate::wait::{self, Goal};

/// The longest pauses of writes that are as they should be, in seconds, at the default timing: half a second without a heartbeat, an
/// election and clients that connect anew, and time for a machine that is busy.
const AIM_STANDBY_S: f64 = 2.0;
const AIM_SWITCHOVER_S: f64 = 2.0;
const AIM_FAILOVER_S: f64 = 5.0;

/// What will be done.
#[derive(Debug, PartialEq)]
pub(crate) struct Steps {
    standby: NodeName,
    primary_too: bool,
    aim_s: Option<f64>,
    patience: Duration,
}

impl Steps {
    /// What the arguments ask for, if the cluster can take it.
    ///
    /// # Errors
    /// It can't, or it makes no sense.
    pub(crate) fn plan(args: &args::Drill, status: &Status) -> Done<Self> {
        if args.aim.is_some_and(|a| !a.is_finite() || a <= 0.0) {
            return Err(Failure::wrong_use("--aim takes a number of seconds greater than 0"));
        }
        let is_standby = |n: &&NodeStatus| n.role == Role::Standby && status.sync.standbys.contains(&n.name);
        let standby = match &args.node {
            Some(name) => name.clone(),
            None => {
                let any = status.nodes.iter().find(is_standby).or(status.nodes.first());
                any.map(|n| n.name.clone()).ok_or_else(|| Failure::not_safe("the cluster has no nodes"))?
            }
        };
        refuse(status, &standby)?;
        if status.node(&standby).is_none_or(|n| n.role != Role::Standby) {
            return Err(Failure::wrong_use(format!("{standby} is no standby"))
                .hint("--node names the standby of the first step; the primary is part of a drill with --primary"));
        }
        if let Some(primary) = status.primary.as_ref().filter(|_| args.primary) {
            refuse(status, primary)?;
        }
        let patience = Duration::from_secs(args.timeout);
        Ok(Self { standby, primary_too: args.primary, aim_s: args.aim, patience })
    }

    /// Does it all, one after the other; what was measured so far is in the report, whatever comes.
    ///
    /// # Errors
    /// The cluster refuses, or does not come back.
    pub(crate) async fn take(&self, client: &Client, ledger: &Ledger, report: &mut Report) -> Done {
        let standby = &self.standby;
        let step = Step { what: format!("database of standby {standby} killed"), aim_s: AIM_STANDBY_S };
        self.step(client, ledger, report, &step, Request::EndDatabase { node: standby.clone() }).await?;
        if !self.primary_too {
            return Ok(());
        }
        let step = Step { what: "switchover".to_owned(), aim_s: AIM_SWITCHOVER_S };
        self.step(client, ledger, report, &step, Request::Switchover { to: None }).await?;
        let status = client.status().await?;
        let primary = status.primary.clone().ok_or_else(|| Failure::not_safe("there is no primary any more"))?;
        let step = Step { what: format!("database of primary {primary} killed"), aim_s: AIM_FAILOVER_S };
        self.step(client, ledger, report, &step, Request::EndDatabase { node: primary }).await
    }

    /// One step: the request, the wait until all is well again, the pause that clients noticed.
    async fn step(&self, client: &Client, ledger: &Ledger, report: &mut Report, step: &Step, request: Request) -> Done {
        let before = client.status().await?;
        let struck = match &request {
            Request::EndDatabase { node } => {
                refuse(&before, node)?;
                Some(node.clone())
            }
            _ => None,
        };
        print::note(format!("{} …", step.what));
        report.under_way = Some(step.what.clone());
        let began = Instant::now();
        let accepted: Accepted = match client.request(&request).await {
            Ok(accepted) => accepted,
            Err(e) => {
                if matches!(e, ClientError::Refused(_)) {
                    report.under_way = None;
                }
                return Err(e.into());
            }
        };
        let goal: Goal<'_> = &|now: &Status| back(&before, now, struck.as_ref());
        let back = wait::until_done(client, &accepted, goal, None, self.patience).await;
        let repaired_s = back.is_ok().then(|| began.elapsed().as_secs_f64());
        let writing = if back.is_ok() { ledger.wait_written(Instant::now()).await } else { Ok(()) };
        let leads = back.as_ref().ok().and_then(|s| s.primary.clone());
        report.under_way = None;
        report.steps.push(Measured {
            what: match &leads {
                Some(now) if before.primary.as_ref() != Some(now) => format!("{}, {now} leads", step.what),
                _ => step.what.clone(),
            },
            pause_s: ledger.longest_pause(began).as_secs_f64(),
            aim_s: self.aim_s.unwrap_or(step.aim_s),
            repaired_s,
        });
        back?;
        writing
    }
}

/// A step's name, and its aim in seconds.
struct Step {
    what: String,
    aim_s: f64,
}

fn refuse(status: &Status, node: &NodeName) -> Done {
    match drill::refusal(status, node) {
        Some(why) => {
            Err(Failure::not_safe(format!("no drill now: {why}")).hint("nothing was changed; see `trine status`"))
        }
        None => Ok(()),
    }
}

/// All is well again, and what is told is of after the step: another database process, or another epoch.
fn back(before: &Status, now: &Status, struck: Option<&NodeName>) -> bool {
    let process = |s: &Status, n: &NodeName| s.node(n).and_then(|n| n.database_pid);
    let other = |n: &NodeName| process(now, n).is_some() && process(now, n) != process(before, n);
    let happened = match struck {
        Some(node) if before.primary.as_ref() == Some(node) => now.epoch > before.epoch && other(node),
        Some(node) => other(node),
        None => now.epoch > before.epoch,
    };
    happened && now.health == Health::Healthy && now.leader.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn status() -> Status {
        let node = |name: &str, role: &str, pid: u32| {
            serde_json::json!({"name": name, "zone": name, "address": "127.0.0.1", "role": role, "state": "running",
                "agent_pid": 1, "guard_pid": 2, "database_pid": pid, "database_port": 6500, "data_dir": "/d",
                "data_epoch": 4, "position": "0/4", "lag_bytes": 0, "lag_seconds": 0.0})
        };
        serde_json::from_value(serde_json::json!({
            "cluster": "demo", "engine": "postgres", "epoch": 4, "primary": "n1", "health": "healthy", "paused": null,
            "sync": {"standbys": ["n2", "n3"], "acks": 1}, "endpoints": {"writer": [], "reader": [], "api": []},
            "nodes": [node("n1", "primary", 11), node("n2", "standby", 12), node("n3", "standby", 13)],
            "writable": true, "leader": "n1",
        }))
        .unwrap()
    }

    fn plan(words: &[&str], change: impl FnOnce(&mut Status)) -> Done<Steps> {
        let mut status = status();
        change(&mut status);
        let line = ["trine", "drill", "--dir", "/d"].iter().chain(words);
        let args::Command::Drill(args) = args::Cli::try_parse_from(line).unwrap().command else { unreachable!() };
        Steps::plan(&args, &status)
    }

    fn refused(words: &[&str], change: impl FnOnce(&mut Status)) -> Failure {
        plan(words, change).expect_err("a refusal")
    }

    #[test]
    fn a_standby_is_chosen_and_the_primary_only_when_asked() {
        let steps = plan(&[], |_| {}).unwrap();
        assert_eq!((steps.standby.as_str(), steps.primary_too), ("n2", false));
        let steps = plan(&["--primary", "--node", "n3"], |_| {}).unwrap();
        assert_eq!((steps.standby.as_str(), steps.primary_too), ("n3", true));
    }

    #[test]
    fn what_is_no_drill_is_refused() {
        use crate::failure::Exit;
        let degraded = refused(&[], |s| s.health = Health::Degraded);
        assert_eq!(degraded.exit, Exit::Unsafe);
        assert!(degraded.message.contains("degraded"), "{}", degraded.message);
        assert_eq!(refused(&[], |s| s.alarms = vec!["x".into()]).exit, Exit::Unsafe);
        assert_eq!(refused(&[], |s| s.sync.acks = 2).exit, Exit::Unsafe);
        assert_eq!(refused(&["--node", "n1"], |_| {}).exit, Exit::WrongUse);
        assert_eq!(refused(&["--aim", "0"], |_| {}).exit, Exit::WrongUse);
        assert_eq!(refused(&["--node", "n9"], |_| {}).exit, Exit::Unsafe);
    }

    #[test]
    fn back_is_what_is_there_after_the_step() {
        let before = status();
        let (n1, n2) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        assert!(!back(&before, &before, Some(&n2)), "nobody has noticed yet");
        let mut now = status();
        now.nodes[1].database_pid = Some(99);
        assert!(back(&before, &now, Some(&n2)));
        now.health = Health::Degraded;
        assert!(!back(&before, &now, Some(&n2)));
        let mut now = status();
        now.nodes[0].database_pid = Some(98);
        assert!(!back(&before, &now, Some(&n1)), "the old epoch");
        now.epoch = 5;
        assert!(back(&before, &now, Some(&n1)) && back(&before, &now, None));
    }
}
