//! `trine-sim`: simulated clusters, seed after seed. See docs/proof.md.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::Parser;
use trine_sim::cluster::{Campaign, Lab, Plan, Product, serve_one};

/// Runs clusters of real agents over a simulated network, disks and databases. Each seed is one cluster, what goes wrong with
/// it, and what its clients see; the same seed is the same run, bit for bit.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Whose habits the databases have
    #[arg(long, value_enum, default_value_t = Product::Postgres)]
    database: Product,
    /// Only this seed, and its story
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Everything that is logged becomes part of the story
    #[arg(long)]
    verbose: bool,
    /// How many at a time; by default one for each core
    #[arg(long)]
    jobs: Option<usize>,
    /// Run each seed twice, and fail if the two stories differ in anything
    #[arg(long)]
    twice: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        // What it starts itself with, once for each run.
        Some("one") => serve_one().map(|()| true),
        _ => make(&Args::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("trine-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Becomes true at the first Ctrl-C.
fn interrupted() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _ = std::thread::Builder::new().name("ctrl-c".to_owned()).spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            told.store(true, Relaxed);
        }
    })?;
    Ok(stop)
}

fn make(args: &Args) -> io::Result<bool> {
    let dir = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    if let Some(seed) = args.seed {
        let plan = Plan::of(seed).with(args.database);
        let outcome = Lab::new(&program, dir.path(), args.verbose)?.run(&plan)?;
        println!("{plan}\n{}\n{outcome}", outcome.story);
        return Ok(outcome.failures.is_empty());
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let labs = (0..jobs).map(|job| Lab::new(&program, &dir.path().join(job.to_string()), args.verbose));
    let Args { from, seeds, database: product, twice, keep_going, .. } = *args;
    let campaign = Campaign { from, seeds, product, twice, keep_going };
    let (labs, stop) = (labs.collect::<io::Result<Vec<_>>>()?, interrupted()?);
    let sum = campaign.run(&labs, &stop)?;
    println!("{sum}");
    Ok(sum.failed.is_empty())
}
