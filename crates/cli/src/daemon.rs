//! `trine agent` and `trine adopt`: what runs on a node's own machine.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use trine_agent::{AgentError, Config};

use crate::args;
use crate::failure::{Done, Exit, Failure, chain};

/// What to log: `info`, or as in `RUST_LOG`.
const FILTER: &str = "TRINE_LOG";

/// Runs the agent until it is told to stop, which stops its database too.
pub(crate) fn agent(args: &args::Agent) -> Done {
    if args.session {
        // It fails only for the leader of a process group, which has one already.
        let _ = rustix::process::setsid();
    }
    let config = Config::load(&args.config)?;
    log();
    die_of_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("trine")
        .enable_all()
        .build()
        .map_err(|e| Failure::because("can't start", &e))?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(&shutdown)?;
        trine_agent::run(config, shutdown).await.map_err(failure)
    })
}

fn failure(e: AgentError) -> Failure {
    let exit = if matches!(e, AgentError::Config(_)) { Exit::WrongUse } else { Exit::Failed };
    Failure { exit, ..Failure::failed(chain(&e)) }
}

fn log() {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A task that has panicked has left its duty; an agent without one of its duties is worse than none, for the guard ends
/// the database of a dead one, and the others take over.
fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, text, "internal error: the agent ends");
        std::process::abort();
    }));
}

fn stop_on_signals(shutdown: &CancellationToken) -> Done {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|e| Failure::because("can't wait for signals", &e))?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("told to stop");
                shutdown.cancel();
            }
        });
    }
    // A terminal that goes away is no reason to stop.
    let mut hangups = signal(SignalKind::hangup()).map_err(|e| Failure::because("can't wait for signals", &e))?;
    tokio::spawn(async move { while hangups.recv().await.is_some() {} });
    Ok(())
}

/// Makes an existing data directory the seed's first copy.
pub(crate) async fn adopt(args: &args::Adopt) -> Done {
    let config = Config::load(&args.config)?;
    if !config.seed_marker().exists() {
        let message = format!("{} is not the seed: an existing copy can only be where the cluster begins", config.node);
        return Err(
            Failure::wrong_use(message).hint("use the configuration of the node whose folder has the file seed")
        );
    }
    if config.state_dir().exists() {
        let message = format!("the agent of {} has run before: the cluster has its first copy", config.node);
        return Err(Failure::not_safe(message).hint("only a new cluster can adopt a data directory"));
    }
    Err(Failure::failed(format!("can't adopt {}: not wired yet", args.data.display())))
}
