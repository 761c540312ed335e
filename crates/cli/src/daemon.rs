//! `trine agent` and `trine adopt`: what runs on a node's own machine.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use trine_agent::{AgentError, Config, SECRETS_FILE, Secrets};
use trine_engine::EngineError;
use trine_platform::{BootClock, Granted, Rank, rank_thread};

use crate::args;
use crate::create::{self, cant};
use crate::failure::{Done, Exit, Failure, chain};
use crate::{log, print};

/// Runs the agent until it is told to stop, which stops its database too.
pub(crate) fn agent(args: &args::Agent) -> Done {
    if args.session {
        // It fails only for the leader of a process group, which has one already.
        let _ = rustix::process::setsid();
    }
    let config = Config::load(&args.config)?;
    log::start().map_err(|e| Failure::because("can't start the log", &e))?;
    die_of_panics();
    // A lease that is not renewed because the machine is busy ends a healthy primary.
    match rank_thread(Rank::Control) {
        Granted::RealTime | Granted::Usual => {}
        granted => tracing::info!(
            ?granted,
            "no real-time priority: where the machine is full, leases may be renewed late (see docs/operations.md)"
        ),
    }
    raise_file_limit();
    // Two: one is enough for the little work there is, the other goes on where the first is kept, as by a disk that hangs. (With
    // one thread alone an idle agent uses a tenth less of the processor, and stops when anything blocks it.)
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .on_thread_start(|| {
            rank_thread(Rank::Control);
        })
        .enable_all()
        .build()
        .map_err(|e| Failure::because("can't start", &e))?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(&shutdown)?;
        trine_agent::run(config, shutdown).await.map_err(failure)
    });
    log::finish();
    ended
}

/// A session takes two files, and the usual limit of 1024 would be reached at half the default `endpoint.max_connections`.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn failure(e: AgentError) -> Failure {
    let exit = match &e {
        AgentError::Config(_) | AgentError::Engine(EngineError::Config(_)) => Exit::WrongUse,
        _ => Exit::Failed,
    };
    Failure { exit, ..Failure::failed(chain(&e)) }
}

/// A task that has panicked has left its duty; an agent without one of its duties is worse than none, for the guard ends
/// the database of a dead one, and the others take over.
fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = crate::failure::panic_text(panic.payload());
        tracing::error!(place, text, "internal error: the agent ends");
        log::finish();
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
    adopt_into(&config, &args.data).await?;
    print::line("start the agents now: the other nodes are cloned from it");
    Ok(())
}

/// The same, for a node whose configuration is known.
pub(crate) async fn adopt_into(config: &Config, data: &Path) -> Done {
    if !config.seed_marker().exists() {
        let message = format!("{} is not the seed: an existing copy can only be where the cluster begins", config.node);
        return Err(
            Failure::wrong_use(message).hint("use the configuration of the node whose folder has the file seed")
        );
    }
    if !create::entries(&config.state_dir())?.is_empty() {
        let message = format!("the agent of {} has run before: the cluster has its first copy", config.node);
        return Err(Failure::not_safe(message).hint("only a new cluster can adopt a data directory"));
    }
    let data = std::path::absolute(data).map_err(|e| cant("use", data, &e))?;
    let secrets = Secrets::load(&config.dir.join(SECRETS_FILE))?;
    let engine = trine_agent::engine(config, &secrets, Arc::new(BootClock)).map_err(failure)?;
    let adopted = engine.adopt(&data).await.map_err(|e| Failure::failed(chain(&e)))?;
    print::line(format!("adopted {} as the first copy, in {}", data.display(), config.data_dir().display()));
    for note in &adopted.notes {
        print::line(format!("  {note}"));
    }
    Ok(())
}
