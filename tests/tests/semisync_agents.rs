//! An agent that dies in the middle of what it does for a failover, at each of its steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use trine_tests::cluster::Database;
use trine_tests::mariadb::on;
use trine_tests::{Cluster, Options, Scenario, WriterOptions, now_ns, on_both};

const SOON: Duration = Duration::from_secs(30);

on_both!(the_agent_of_each_step_of_a_failover_is_killed);

/// What an agent logs when it has done a step, and which agent: the primary's of before, or any, as the one of before may lead again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Any,
    Old,
}

const STEPS: [(&str, Whose); 9] = [
    ("change=BeginEpoch", Whose::Any),
    ("sealed epoch", Whose::Any),
    ("change=Elect", Whose::Any),
    ("promoted epoch", Whose::Any),
    ("to=this node", Whose::Any),
    // It ends what leads no longer, starts it as a standby, and follows.
    ("to=nowhere", Whose::Old),
    ("endpoint=reader", Whose::Old),
    ("change=ChangeRule", Whose::Any),
    ("the receiver was started", Whose::Old),
];

/// What the agents have logged from now on.
struct Logs(BTreeMap<String, (File, String)>);

impl Logs {
    fn from_now(cluster: &Cluster) -> Result<Self> {
        let open = |node: &trine_tests::cluster::Node| {
            let path = node.dir.join("log/agent.log");
            let mut file = File::open(&path).with_context(|| path.display().to_string())?;
            file.seek(SeekFrom::End(0))?;
            Ok((node.name.clone(), (file, String::new())))
        };
        Ok(Self(cluster.nodes().iter().map(open).collect::<Result<_>>()?))
    }

    /// The agent that has logged `words`, of those that `may`.
    fn who(&mut self, words: &str, may: impl Fn(&str) -> bool) -> Result<Option<String>> {
        for (node, (file, text)) in &mut self.0 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            text.push_str(&plain(&String::from_utf8_lossy(&bytes)));
            if may(node) && text.contains(words) {
                return Ok(Some(node.clone()));
            }
        }
        Ok(None)
    }
}

/// Without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Whichever step: the others finish what it has begun, and it finds its database, its log and its place when it is back.
fn the_agent_of_each_step_of_a_failover_is_killed(database: Database) {
    on(database, "agents", Options::local(), |s| {
        let options = WriterOptions { clients: 4, pace_ms: 2, dsn: s.cluster.writers()?, ..Default::default() };
        let writer = s.writer_with(options)?;
        let mut struck = 0;
        for (words, whose) in STEPS {
            writer.wait_acked(100)?;
            struck +=
                usize::from(one(s, words, whose).with_context(|| format!("the agent killed at {words:?}, {whose:?}"))?);
        }
        // The last ones are not done where the primary of before leads again.
        ensure!(struck >= 6, "only {struck} of {} steps were done", STEPS.len());
        writer.wait_acked(100)
    });
}

/// Whether the step was done at all.
fn one(s: &Scenario, words: &str, whose: Whose) -> Result<bool> {
    let status = s.cluster.wait_healthy()?;
    let primary = status.primary.clone().context("a healthy cluster has a primary")?;
    let agents: BTreeMap<String, u32> =
        status.nodes.iter().map(|n| Ok((n.name.clone(), s.cluster.agent(&n.name)?))).collect::<Result<_>>()?;
    let mut logs = Logs::from_now(&s.cluster)?;
    s.cluster.signal(s.cluster.database(&primary)?, Signal::KILL)?;
    let may = |node: &str| match whose {
        Whose::Any => true,
        Whose::Old => node == primary,
    };
    let (begin, mut looked) = (now_ns(), now_ns());
    let struck = loop {
        // As soon as it shows: it is in the middle of the next step then.
        if let Some(node) = logs.who(words, may)? {
            break node;
        }
        if now_ns() - looked > 1_000_000_000 {
            looked = now_ns();
            let whole = s.cluster.status().is_ok_and(|now| now.epoch > status.epoch && now.health == "healthy");
            if whole && logs.who(words, may)?.is_none() {
                println!("{words:?}: not this time; {primary} led");
                return Ok(false);
            }
        }
        ensure!(u128::from(now_ns() - begin) < SOON.as_nanos(), "neither that step nor a healthy cluster");
        std::thread::yield_now();
    };
    s.cluster.signal(agents[&struck], Signal::KILL)?;
    println!("{words:?}: killed the agent of {struck}; {primary} led");
    // The others get on without it.
    let others: Vec<&str> = agents.keys().map(String::as_str).filter(|n| *n != struck).collect();
    s.cluster.ask_only(&others);
    s.cluster.wait_new_primary(status.epoch)?;
    s.cluster.ask_only(&[]);
    s.cluster.start_node(&struck)?;
    let now = s.cluster.wait_healthy()?;
    ensure!(now.epoch > status.epoch, "no other epoch");
    Ok(true)
}
