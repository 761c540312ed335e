//! `trine drill`: a game day on a real cluster, that ends with what was measured.

mod ledger;
mod mysql;
mod postgres;
mod report;
mod session;
mod steps;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use trine_api::{Client, Status};

use crate::args;
use crate::connect;
use crate::failure::{Done, Failure, chain};
use crate::print;

use ledger::Ledger;
use report::Report;
use session::{Hosts, Language};
use steps::Steps;

/// How long clients write before the first step, so that it is known that they can.
const WARM_UP: Duration = Duration::from_secs(2);

/// `trine drill`.
pub(crate) async fn drill(args: &args::Drill) -> Done {
    let client = connect::to(&args.target)?.client;
    let before = client.status().await?;
    let Some(language) = Language::of(&before.engine) else {
        let message = format!(
            "a drill's clients speak PostgreSQL, MariaDB and MySQL, and {} is of engine {}",
            before.cluster, before.engine
        );
        return Err(
            Failure::wrong_use(message).hint("`trine switchover` and a kill of a database can be tried by hand")
        );
    };
    let steps = Steps::plan(args, &before)?;
    if args.primary && !args.yes {
        confirm(&before)?;
    }
    let uri = match &args.connect {
        Some(uri) => uri.clone(),
        None => {
            let uris = client.uris().await?;
            // Where a URI names one node only, there is one of each.
            if uris.writers.is_empty() { uris.writer } else { uris.writers.join(",") }
        }
    };
    let hosts = Hosts::read(language, &uri).map_err(|e| Failure::wrong_use(chain(&e)))?;
    let ledger = Ledger::open(hosts).await?;
    let mut report = Report::new(&before, ledger.clients());
    let done = or_interrupted(run(&client, &steps, &ledger, &mut report)).await;
    // Whatever came of the steps: what was acknowledged must be there, and nothing of the drill may stay.
    let verified = or_interrupted(ledger.verify()).await;
    let cleared = or_interrupted(ledger.clear()).await;
    match verified {
        Ok(found) => report.verified = Some(found),
        Err(e) => report.problems.push(format!("what was acknowledged could not be verified: {}", e.message)),
    }
    if let Err(e) = cleared {
        report.problems.push(format!(
            "the drill's table could not be cleared away ({}): {}",
            e.message,
            ledger.place().1
        ));
    }
    if args.target.json {
        print::json(&report);
    } else {
        print::out(&(report.lines().join("\n") + "\n"));
    }
    done?;
    report.verdict()
}

/// Until a person has had enough: Ctrl-C ends what is under way, and the drill goes on to its end.
async fn or_interrupted<T>(work: impl Future<Output = Done<T>>) -> Done<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    }
}

async fn run(client: &Client, steps: &Steps, ledger: &Ledger, report: &mut Report) -> Done {
    print::note(format!("writing for {} s before the first step", WARM_UP.as_secs()));
    tokio::time::sleep(WARM_UP).await;
    ledger.must_be_writing(WARM_UP)?;
    steps.take(client, ledger, report).await
}

/// A person must type the cluster's name: clients will notice what comes.
fn confirm(status: &Status) -> Done {
    let refuse = |why: &str| Err(Failure::not_safe(why).hint("nothing was changed; --yes goes on without asking"));
    if !io::stdin().is_terminal() {
        return refuse("the primary's clients will lose their sessions, and there is no terminal to ask at");
    }
    let mut stderr = io::stderr();
    let _ = write!(
        stderr,
        "The primary's clients will wait, and then lose their sessions. Type the cluster's name ({}) to go on: ",
        status.cluster
    );
    let _ = stderr.flush();
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer).is_err() || answer.trim() != status.cluster {
        return refuse("not confirmed");
    }
    Ok(())
}
