//! Random faults from a seed on a real cluster under load; then a table, and a verdict.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use trine_tests::Options;
use trine_tests::scenario::scenario_with;
use trine_tests::torture::{Engine, Limits, Plan, Record, picture, report, run};

/// Tortures a cluster of three nodes in network namespaces: real agents, real databases, real faults.
///
/// Clients append to a list and overwrite registers through the writer endpoints of all nodes while faults happen. After each
/// step all is made good, and the cluster must become healthy within 60 s with no command given. What every client was told is
/// checked exactly: nothing acknowledged is lost, no read is stale, the three copies are equal. The seed decides which faults, on
/// whom, in which order and for how long; real processes and real time do the rest, so a seed need not find the same thing twice.
///
/// Needs root, the database, iproute2 and iptables. Exit code 0: all is as promised; 1: something is wrong, and is printed.
#[derive(Parser)]
#[command(name = "trine-torture", max_term_width = 100)]
struct Arguments {
    /// Which database: PostgreSQL with its own replication, or one on a replicated volume
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// What the plan is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many faults [default: 20, if there is no limit of time]
    #[arg(long)]
    faults: Option<usize>,
    /// End after so much time
    #[arg(long)]
    seconds: Option<u64>,
    /// Keep the cluster's directory (it is kept anyway when something is wrong)
    #[arg(long)]
    keep: bool,
    /// Write the table, the picture and every number into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only print the plan, one JSON object for each step
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = arguments.faults.or(if arguments.seconds.is_none() { Some(20) } else { None });
    if arguments.plan {
        let steps = Plan::new(arguments.seed, arguments.engine).faults(faults.unwrap_or(20));
        steps.iter().filter_map(|s| serde_json::to_string(s).ok()).for_each(|line| println!("{line}"));
        return ExitCode::SUCCESS;
    }
    if let Some(out) = &arguments.out
        && let Err(e) = fs::create_dir_all(out)
    {
        eprintln!("trine-torture: can't make {}: {e}", out.display());
        return ExitCode::from(2);
    }
    let limits = Limits { faults, time: arguments.seconds.map(Duration::from_secs) };
    // A scenario fails by a panic, which has been printed by then.
    let outcome = catch_unwind(AssertUnwindSafe(|| torture(&arguments, limits)));
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn torture(arguments: &Arguments, limits: Limits) {
    let options = arguments.engine.options().unwrap_or_else(|e| panic!("{e:#}"));
    let options = Options { keep: arguments.keep, ..options };
    scenario_with(
        "torture",
        &options,
        |s| {
            eprintln!("seed {}, in {}", arguments.seed, s.cluster.dir().display());
            let record = run(&s.cluster, arguments.engine, arguments.seed, limits, |line| eprintln!("{line}"));
            println!("{}", report::markdown(&record));
            if let Some(out) = &arguments.out {
                keep(&record, out)?;
            }
            anyhow::ensure!(record.wrong.is_empty(), "seed {}: {}", record.seed, record.wrong.join("\n"));
            Ok(())
        },
        |s, _| {
            println!("The three copies are equal; {}.", arguments.engine.verify(&s.cluster)?);
            if arguments.keep {
                println!("kept: {}", s.cluster.dir().display());
            }
            Ok(())
        },
    );
}

/// Table, picture and numbers, named by the day and the seed.
fn keep(record: &Record, out: &Path) -> Result<()> {
    let day = record.began.split(' ').next().unwrap_or("undated");
    let engine = if record.engine == Engine::Postgres { String::new() } else { format!("{}-", record.engine.name()) };
    let path = |ending: &str| out.join(format!("torture-{day}-{engine}seed-{}.{ending}", record.seed));
    let write = |ending: &str, text: String| {
        let path = path(ending);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("md", report::markdown(record))?;
    write("svg", picture::svg(record))?;
    write("json", serde_json::to_string(record)? + "\n")?;
    eprintln!("written: {}", path("md").display());
    Ok(())
}
