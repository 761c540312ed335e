//! Requests: failover, switchover, pause, resume, rebuild, replace.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use trine_api::{Accepted, Client, ClientError, LossEstimate, NodeState, RefusedCode, Request, Status};
use trine_protocol::NodeName;

use crate::args::{Ask, Failover, OneNode, Pause, Switchover};
use crate::connect;
use crate::failure::{Done, Failure};
use crate::local;
use crate::print;
use crate::wait::{self, Goal};

/// How long a primary that was elected on a person's word may take to open.
const WRITES_WITHIN: Duration = Duration::from_secs(10);

/// How long the cluster may take to notice that a killed node is silent.
const UNHEARD_WITHIN: Duration = Duration::from_secs(10);

/// `trine switchover`.
pub(crate) async fn switchover(args: &Switchover) -> Done {
    let client = connect::to(&args.ask.target)?.client;
    let before = client.status().await?;
    args.to.as_ref().map_or(Ok(()), |to| known(&before, to))?;
    if before.primary.is_some() && before.primary == args.to {
        return told(
            &args.ask,
            &before,
            &format!("{} is the primary already", args.to.as_ref().map_or("", NodeName::as_str)),
        );
    }
    let request = Request::Switchover { to: args.to.clone() };
    lead(&client, &args.ask, &before, &request, args.to.as_ref()).await
}

/// `trine failover`.
pub(crate) async fn failover(args: &Failover) -> Done {
    let client = connect::to(&args.ask.target)?.client;
    let before = client.status().await?;
    args.to.as_ref().map_or(Ok(()), |to| known(&before, to))?;
    if !args.accept_data_loss {
        let request = Request::Failover { to: args.to.clone() };
        return lead(&client, &args.ask, &before, &request, args.to.as_ref()).await;
    }
    let mut estimate = client.request(&Request::AcceptDataLoss { node: args.to.clone(), confirm: false }).await?;
    // Exactly the node that the estimate is about, and by preference by its own word: without a majority only it can go on,
    // and it may have heard for longer than who answered first what the others had.
    let node = estimate.estimate.as_ref().map(|e| e.node.clone()).or_else(|| args.to.clone());
    let itself = node.as_ref().and_then(|n| api_of(&before, n)).map(|url| client.at(&url)).transpose()?;
    if let Some(itself) = &itself
        && let Ok(own) = itself.request(&Request::AcceptDataLoss { node: node.clone(), confirm: false }).await
        && missing(&own) > missing(&estimate)
    {
        estimate = own;
    }
    match &estimate.estimate {
        Some(estimate) => show_loss(estimate),
        None => print::note(format!("What would be lost is not known. {}", estimate.message)),
    }
    if !args.yes {
        confirm(&before)?;
    }
    let request = Request::AcceptDataLoss { node: node.clone(), confirm: true };
    let accepted = itself.as_ref().unwrap_or(&client).request(&request).await?;
    if !args.ask.target.json {
        print::note(&accepted.message);
    }
    // Whether commits pass depends on who is left: that somebody leads is all that must be, and writes are waited for
    // only a while.
    let led_since = OnceLock::new();
    let goal: Goal<'_> = &|s: &Status| {
        let leads = s.epoch > before.epoch && s.primary.is_some();
        leads && (s.writable || led_since.get_or_init(Instant::now).elapsed() >= WRITES_WITHIN)
    };
    let patience = Duration::from_secs(args.ask.timeout);
    let status = wait::until_done(itself.as_ref().unwrap_or(&client), &accepted, goal, None, patience).await?;
    leads(&args.ask, &status)
}

/// How much an estimate knows to be missing; the one that knows of more knows more.
fn missing(accepted: &Accepted) -> Option<(u64, f64)> {
    let e = accepted.estimate.as_ref()?;
    Some((e.lost_bytes.or(e.lost_transactions)?, e.lost_seconds.unwrap_or_default()))
}

/// Where a node's API is, as the cluster says.
fn api_of(status: &Status, node: &NodeName) -> Option<String> {
    let address: IpAddr = status.node(node)?.address.parse().ok()?;
    let here = |url: &&String| {
        let at = url.split_once("://").and_then(|(_, at)| at.parse::<SocketAddr>().ok());
        at.is_some_and(|at| at.ip() == address)
    };
    status.endpoints.api.iter().find(here).cloned()
}

/// Asks for another primary, and waits until it takes writes.
async fn lead(client: &Client, ask: &Ask, before: &Status, request: &Request, to: Option<&NodeName>) -> Done {
    let accepted = client.request(request).await?;
    let goal: Goal<'_> = &|s: &Status| {
        s.epoch > before.epoch && s.writable && s.primary.is_some() && to.is_none_or(|n| s.primary.as_ref() == Some(n))
    };
    let any: Goal<'_> = &|s: &Status| s.epoch > before.epoch && s.writable && s.primary.is_some();
    // With a number the cluster says itself whether it went as asked.
    let goal = if accepted.request.is_some() { any } else { goal };
    let status = wait::until_done(client, &accepted, goal, None, Duration::from_secs(ask.timeout)).await?;
    leads(ask, &status)
}

fn leads(ask: &Ask, status: &Status) -> Done {
    let primary = status.primary.as_ref().map_or("none", NodeName::as_str);
    let yet = if status.writable { "" } else { "; it takes no writes yet, see `trine status`" };
    told(ask, status, &format!("{primary} is the primary of epoch {}{yet}", status.epoch))
}

fn told(ask: &Ask, status: &Status, text: &str) -> Done {
    if ask.target.json {
        print::json(&serde_json::json!({
            "done": true,
            "message": text,
            "epoch": status.epoch,
            "primary": status.primary,
            "health": status.health,
            "paused": status.paused,
        }));
    } else {
        print::line(text);
    }
    Ok(())
}

fn show_loss(e: &LossEstimate) {
    print::note(&e.text);
    if !e.text.contains(&e.position) {
        print::note(format!("  {} would become the primary; its data reaches {}", e.node, e.position));
    }
    if let Some(furthest) = &e.furthest_known {
        print::note(format!("  the furthest that was ever reported is {furthest}"));
    }
    let mut lost = Vec::new();
    if let Some(bytes) = e.lost_bytes.filter(|b| *b > 0) {
        lost.push(format!("at least {} of log", print::bytes(bytes)));
    }
    if let Some(count) = e.lost_transactions.filter(|n| *n > 0) {
        lost.push(format!("at least {count} transactions"));
    }
    if let Some(seconds) = e.lost_seconds {
        lost.push(format!("up to {seconds:.0} s of commits"));
    }
    if !lost.is_empty() {
        print::note(format!("  lost: {}", lost.join(", ")));
    }
}

/// A person must type the cluster's name.
fn confirm(status: &Status) -> Done {
    let refuse = |why: &str| Err(Failure::not_safe(why).hint("nothing was changed; --yes goes on without asking"));
    if !io::stdin().is_terminal() {
        return refuse("acknowledged commits may be lost, and there is no terminal to ask at");
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "Acknowledged commits may be lost. Type the cluster's name ({}) to go on: ", status.cluster);
    let _ = stderr.flush();
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer).is_err() || answer.trim() != status.cluster {
        return refuse("not confirmed");
    }
    Ok(())
}

/// `trine pause`.
pub(crate) async fn pause(args: &Pause) -> Done {
    if args.reason.trim().is_empty() {
        return Err(
            Failure::wrong_use("the reason is empty").hint("whoever wonders will read it: --reason \"new disks\"")
        );
    }
    let client = connect::to(&args.ask.target)?.client;
    let accepted = client.request(&Request::Pause { reason: args.reason.clone() }).await?;
    let patience = Duration::from_secs(args.ask.timeout);
    let status = wait::until_done(&client, &accepted, &|s| s.paused.is_some(), None, patience).await?;
    told(&args.ask, &status, "paused: nothing is repaired until `trine resume`")
}

/// `trine resume`.
pub(crate) async fn resume(ask: &Ask) -> Done {
    let client = connect::to(&ask.target)?.client;
    let accepted = client.request(&Request::Resume).await?;
    let status =
        wait::until_done(&client, &accepted, &|s| s.paused.is_none(), None, Duration::from_secs(ask.timeout)).await?;
    told(ask, &status, "resumed")
}

/// `trine node rebuild`.
pub(crate) async fn rebuild(args: &OneNode) -> Done {
    let client = connect::to(&args.target)?.client;
    known(&client.status().await?, &args.node)?;
    let accepted = client.request(&Request::Rebuild { node: args.node.clone() }).await?;
    let seen = std::sync::atomic::AtomicBool::new(accepted.request.is_some());
    let goal = |s: &Status| {
        // Without a number to ask for, it has begun once the node is seen at it.
        let at_it = s.node(&args.node).is_some_and(|n| n.progress.is_some() || n.state != NodeState::Running);
        seen.fetch_or(at_it, std::sync::atomic::Ordering::Relaxed);
        seen.load(std::sync::atomic::Ordering::Relaxed) && !at_it && wait::runs(s, &args.node)
    };
    let patience = Duration::from_secs(args.timeout);
    let status = wait::until_done(&client, &accepted, &goal, Some(&args.node), patience).await?;
    finished(args, &status, &format!("{} has a fresh copy", args.node))
}

/// `trine node replace`.
pub(crate) async fn replace(args: &OneNode) -> Done {
    let connected = connect::to(&args.target)?;
    let client = &connected.client;
    let before = client.status().await?;
    known(&before, &args.node)?;
    if before.primary.as_ref() == Some(&args.node) {
        let message = format!("{} is the primary", args.node);
        return Err(Failure::not_safe(message).hint("`trine switchover` first"));
    }
    let request = Request::Replace { node: args.node.clone() };
    let Some(cluster) = &connected.local else {
        let accepted = client.request(&request).await?;
        return finished(args, &client.status().await?, &accepted.message);
    };
    // The cluster lets go of a node only while nobody hears from it, and that takes it a moment to notice.
    let node = cluster.node(&args.node)?;
    local::kill(node).await?;
    let give_up = Instant::now() + UNHEARD_WITHIN;
    let refused = loop {
        match client.request(&request).await {
            Err(ClientError::Refused(r)) if r.code == RefusedCode::Unsafe && Instant::now() < give_up => {
                sleep(Duration::from_millis(200)).await;
            }
            done => break done.err(),
        }
    };
    if let Some(refused) = refused {
        // It was running before, so it runs again.
        local::start(cluster, node).await?;
        return Err(refused.into());
    }
    local::replace_state(cluster, node).await?;
    wait::until_running(client, &args.node, Duration::from_secs(args.timeout)).await?;
    finished(args, &client.status().await?, &format!("{} has joined anew", args.node))
}

fn known(status: &Status, node: &NodeName) -> Done {
    if status.node(node).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).collect();
    Err(Failure::wrong_use(format!("there is no node {node} in {}; use one of {}", status.cluster, names.join(", "))))
}

fn finished(args: &OneNode, status: &Status, text: &str) -> Done {
    told(&Ask { target: args.target.clone(), timeout: args.timeout }, status, text)
}
