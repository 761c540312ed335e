//! The searches, one after the other, as a table. Exit 0: nothing found; 1: a promise is broken, with the story; 2: wrong use.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use trine_sim::model::{Budget, DEEP, SCOPES, Scope, scope, search};

/// Searches all that can happen to a small cluster that runs trine's rules, and says where a promise is broken.
#[derive(Parser)]
#[command(name = "trine-model", max_term_width = 100)]
struct Arguments {
    /// Only these searches.
    searches: Vec<String>,
    /// Names the searches, and ends.
    #[arg(long)]
    list: bool,
    /// Also the long ones.
    #[arg(long)]
    deep: bool,
    /// Another budget for each search: NAME=COUNT, with commas.
    #[arg(long)]
    budget: Option<Budget>,
    /// How many threads search.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A search that takes longer ends, and is named as not finished.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = match chosen(&arguments) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("trine-model: there is no search {unknown:?}\n  hint: trine-model --list names them");
            return ExitCode::from(2);
        }
    };
    println!("{:<22} {:>11} {:>6} {:>8}  what may happen", "search", "states", "depth", "seconds");
    let mut broken = false;
    for mut scope in chosen {
        scope.budget = arguments.budget.unwrap_or(scope.budget);
        if arguments.list {
            println!("{:<22} {:>11} {:>6} {:>8}  {} ({})", scope.name, "", "", "", scope.about, scope.budget);
            continue;
        }
        #[expect(clippy::disallowed_methods, reason = "how long a search takes, for people")]
        let begun = Instant::now();
        let found = search(&scope, arguments.threads, Duration::from_secs(arguments.limit));
        let took = begun.elapsed().as_secs_f64();
        let note = if found.finished { "" } else { " NOT FINISHED" };
        println!(
            "{:<22} {:>11} {:>6} {took:>8.1}  {} ({}){note}",
            scope.name, found.states, found.depth, scope.about, scope.budget
        );
        for (promise, story) in &found.broken {
            broken = true;
            println!("\n  BROKEN: {promise}");
            for (number, step) in (1..).zip(story) {
                println!("  {number:>3}. {step}");
            }
            println!();
        }
    }
    ExitCode::from(u8::from(broken))
}

fn chosen(arguments: &Arguments) -> Result<Vec<Scope>, String> {
    if arguments.searches.is_empty() {
        let deep = if arguments.deep { DEEP } else { &[] };
        return Ok(SCOPES.iter().chain(deep).cloned().collect());
    }
    arguments.searches.iter().map(|name| scope(name).cloned().ok_or_else(|| name.clone())).collect()
}
