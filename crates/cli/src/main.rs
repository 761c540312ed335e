//! The command line of trine.

mod args;
mod ask;
mod connect;
mod create;
mod daemon;
mod doctor;
mod drill;
mod events;
mod failure;
mod local;
mod log;
mod print;
mod progress;
mod settings;
mod status;
mod volume;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, Local, Node, Volume};
use failure::{Done, Failure};

fn main() -> ExitCode {
    let mut words = std::env::args();
    // The guard is small and stands under the database: no parser, no runtime, nothing that it does not need.
    if words.nth(1).as_deref() == Some("guard") {
        return trine_engine::guard::main(words);
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = failure::panic_text(panic.payload());
        print::note(format!("trine: internal error at {place}: {text}\n  hint: this is a defect, please report it"));
    }));
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Done {
    match command {
        Command::Agent(args) => daemon::agent(&args),
        Command::Init(args) => create::init(&args),
        Command::Guard { .. } => Err(Failure::wrong_use("the guard is started by the agent")),
        Command::Version => {
            print::line(concat!("trine ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::because("can't start", &e))?;
            runtime.block_on(talk(command))
        }
    }
}

/// The commands that talk to agents or wait for something.
async fn talk(command: Command) -> Done {
    match command {
        Command::Local(Local::Up(args)) => local::up(&args).await,
        Command::Local(Local::Down(args)) => local::down(&args).await,
        Command::Local(Local::StartNode(args)) => local::start_node(&args).await,
        Command::Local(Local::KillNode(args)) => local::kill_node(&args).await,
        Command::Adopt(args) => daemon::adopt(&args).await,
        Command::Status(args) => status::status(&args).await,
        Command::Events(args) => events::events(&args).await,
        Command::Doctor(args) => doctor::doctor(&args).await,
        Command::Endpoints(args) => events::endpoints(&args).await,
        Command::Failover(args) => ask::failover(&args).await,
        Command::Switchover(args) => ask::switchover(&args).await,
        Command::Drill(args) => drill::drill(&args).await,
        Command::Volume(Volume::Verify(args)) => volume::verify(&args).await,
        Command::Pause(args) => ask::pause(&args).await,
        Command::Resume(args) => ask::resume(&args).await,
        Command::Node(Node::Rebuild(args)) => ask::rebuild(&args).await,
        Command::Node(Node::Replace(args)) => ask::replace(&args).await,
        Command::Agent(_) | Command::Init(_) | Command::Guard { .. } | Command::Version => Ok(()),
    }
}
