//! Measurements of a client's view: pauses, commits, steps.
//!
//! Every measurement runs real agents of the same build in network namespaces of its own, prints a table, and keeps it in
//! bench/results/ with a description of the machine. Nothing here is a test: no figure makes it fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a measurement that can't go on ends, and says where"
)]

mod agents;
mod commits;
mod compared;
mod engine;
mod faults;
mod idle;
mod inserts;
mod lost;
mod machine;
mod plain;
mod plain_mysql;
mod probe;
mod results;
mod statistics;
mod steps;
mod volume;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::engine::Engine;
use crate::results::Results;

#[derive(Parser)]
#[command(about = "Measurements of a client's view: pauses, commits, steps.")]
struct Arguments {
    /// Where the results are kept.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes through one endpoint, and prints what a client saw, as one JSON object.
    Probe(probe::Arguments),
    /// How long writes pause: node lost, network cut, database killed, switchover, leader of consensus lost.
    Faults(faults::Arguments),
    /// Commits through the endpoint, and without it; of PostgreSQL also reads.
    Commits(commits::Arguments),
    /// What an idle agent costs.
    Idle(idle::Arguments),
    /// What a step of the controller costs, with 7 nodes.
    Steps,
    /// What a replicated volume costs the database on it.
    Volume(volume::Arguments),
    /// All of them.
    All,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut results = Results::open(&arguments.results)?;
    match arguments.command {
        Command::Probe(a) => return probe::run(a),
        Command::Faults(a) => faults::run(&a, &mut results)?,
        Command::Commits(a) => commits::run(&a, &mut results)?,
        Command::Idle(a) => idle::run(&a, &mut results)?,
        Command::Steps => steps::run(&mut results)?,
        Command::Volume(a) => volume::run_all(&a, &mut results)?,
        Command::All => {
            steps::run(&mut results)?;
            idle::run(&idle::Arguments::default(), &mut results)?;
            for engine in Engine::ALL {
                if let Err(e) = engine.is_here() {
                    eprintln!("NOT MEASURED: {}: {e:#}", engine.name());
                    continue;
                }
                commits::run(&commits::Arguments::of(engine), &mut results)?;
                faults::run(&faults::Arguments::of(engine), &mut results)?;
            }
            volume::run_all(&volume::Arguments::default(), &mut results)?;
        }
    }
    println!("kept in {}", results.markdown().display());
    Ok(())
}
