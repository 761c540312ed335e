//! `trine volume`: care for a replicated volume.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};
use trine_api::{Request, Role, Status, Verification};

use crate::args::Verify;
use crate::connect;
use crate::failure::{Done, Failure};
use crate::print;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A comparison that was asked for must show itself within this time.
const BEGINS: Duration = Duration::from_secs(10);

/// `trine volume verify`.
pub(crate) async fn verify(args: &Verify) -> Done {
    let client = connect::to(&args.target)?.client;
    let before = client.status().await?;
    let accepted = client.request(&Request::Verify).await?;
    let old = latest(&before).map_or(0, |v| if v.running { v.number - 1 } else { v.number });
    let asked = Instant::now();
    let give_up = asked + Duration::from_secs(args.timeout);
    let bar = bar(&accepted.message);
    loop {
        let status = client.status().await;
        let now = status.as_ref().ok().filter(|s| s.epoch == before.epoch).and_then(latest);
        match now {
            Some(v) if v.number > old => {
                show(bar.as_ref(), v);
                if !v.running {
                    if let Some(bar) = &bar {
                        bar.finish_and_clear();
                    }
                    return told(args, v);
                }
            }
            _ if status.as_ref().is_ok_and(|s| s.epoch != before.epoch) => {
                return Err(Failure::failed("another node leads now, so the comparison did not come to its end here")
                    .hint("`trine events` says why; ask again"));
            }
            _ if asked.elapsed() > BEGINS => {
                return Err(Failure::failed("the primary did not begin").hint("see its log/agent.log, and ask again"));
            }
            _ => {}
        }
        if Instant::now() >= give_up {
            return Err(Failure::failed(format!("not done within {} s", args.timeout))
                .hint("it goes on: `trine volume verify` looks again; --timeout waits longer"));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn latest(status: &Status) -> Option<&Verification> {
    status.nodes.iter().filter(|n| n.role == Role::Primary).find_map(|n| n.verification.as_ref())
}

fn bar(message: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        print::note(format!("  {message}"));
        return None;
    }
    let style = ProgressStyle::with_template("  {msg} {bar:24} {bytes:>10} of {total_bytes}, {eta} left");
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
    bar.set_message(message.to_owned());
    Some(bar)
}

fn show(bar: Option<&ProgressBar>, now: &Verification) {
    if let Some(bar) = bar {
        bar.set_length(now.total_bytes.max(now.done_bytes));
        bar.set_position(now.done_bytes);
    }
}

fn told(args: &Verify, v: &Verification) -> Done {
    if args.target.json {
        print::json(v);
    } else {
        for difference in &v.differences {
            print::line(difference);
        }
    }
    if let Some(problem) = &v.problem {
        return Err(Failure::failed(format!("the comparison did not come to its end: {problem}")));
    }
    if v.unrepaired > 0 {
        return Err(Failure::failed(format!("{} differences are not repaired", v.unrepaired))
            .hint("`trine events` and `trine status` say what becomes of them"));
    }
    if !args.target.json {
        let bytes = print::bytes(v.total_bytes);
        let how = if v.differences.is_empty() { "equal" } else { "equal again" };
        match v.copies {
            0 | 1 => print::line(format!("{bytes} are readable; there was no other copy to compare with")),
            copies => print::line(format!("{copies} copies of {bytes} are {how}")),
        }
    }
    Ok(())
}
