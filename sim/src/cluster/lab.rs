//! Where runs are made: each in a process of its own, which is the only one that is the same each time.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::fault::Plan;
use super::node::Folders;
use super::simulation::{Outcome, run};

/// The largest cluster of a plan.
const NODES: usize = 5;

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    plan: Plan,
    folders: PathBuf,
    verbose: bool,
}

/// A place for one run at a time.
#[derive(Debug)]
pub struct Lab {
    program: PathBuf,
    folders: PathBuf,
    verbose: bool,
}

impl Lab {
    /// A new one. `program` is one that calls [`serve_one`] when its first argument is `one`; the nodes' folders are made in
    /// `folders`; `verbose`: everything that is logged becomes part of the story.
    ///
    /// # Errors
    /// The folders can't be made.
    pub fn new(program: &Path, folders: &Path, verbose: bool) -> io::Result<Self> {
        Folders::make(folders, NODES)?;
        Ok(Self { program: program.to_owned(), folders: folders.to_owned(), verbose })
    }

    /// Runs a plan.
    ///
    /// # Errors
    /// The process can't be started, or says nothing that can be understood.
    pub fn run(&self, plan: &Plan) -> io::Result<Outcome> {
        let order = Order { plan: plan.clone(), folders: self.folders.clone(), verbose: self.verbose };
        let mut command = Command::new(&self.program);
        // A group of its own: Ctrl-C ends the campaign after the runs that are under way, and not those.
        command.arg("one").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(&order)?)?;
        }
        let output = child.wait_with_output()?;
        match serde_json::from_slice(&output.stdout) {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let failure = format!("the process of seed {} ends with {}: {error}", plan.seed, output.status);
                Ok(Outcome { failures: vec![failure], ..Outcome::default() })
            }
        }
    }
}

/// Does what one line on the standard input says, and tells the outcome on the standard output.
///
/// # Errors
/// The order can't be read, or its run can't be begun.
pub fn serve_one() -> io::Result<()> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let order: Order = serde_json::from_slice(&text)?;
    let level = if order.verbose { Level::DEBUG } else { Level::INFO };
    let outcome = run(&order.plan, &Folders::at(&order.folders), level)?;
    io::stdout().write_all(&serde_json::to_vec(&outcome)?)
}
