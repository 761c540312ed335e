//! A writer endpoint in front of one database, for measuring: `relay LISTEN SOCKET [THREADS|each:THREADS] [raw]`.
//! THREADS 0 (default): everything in one thread; `each:N`: the sessions on N threads of their own, as an agent has them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trine_endpoint::{Backend, Dialer, Endpoint, Kind, Limits, Permit, Route, Target, Wire};
use trine_platform::{BootClock, Clock, Relays};
use trine_protocol::{Epoch, Moment};

struct Socket(PathBuf);

/// A lease that is always valid, at the price of a real one.
struct Lease(std::sync::atomic::AtomicU64);

impl Permit for Lease {
    fn valid(&self) -> bool {
        BootClock.now() < Moment::from_nanos(self.0.load(std::sync::atomic::Ordering::Acquire))
    }
}

#[async_trait]
impl Dialer for Socket {
    async fn dial(&self, _: &Target, _: Epoch) -> io::Result<Backend> {
        let lease = Arc::new(Lease(u64::MAX.into()));
        Ok(Backend::permitted(UnixStream::connect(&self.0).await?, lease))
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(socket)) = (args.next(), args.next()) else {
        return Err(io::Error::other("usage: relay LISTEN SOCKET [threads|each:THREADS] [raw]"));
    };
    let threads = args.next().unwrap_or_else(|| "0".to_owned());
    let wire = if args.next().as_deref() == Some("raw") { Wire::Raw } else { Wire::Postgres };
    let (_keep, routes) = watch::channel(Route::local(Epoch(1)));
    let dialer = Arc::new(Socket(socket.into()));
    let endpoint = Endpoint::new(Kind::Writer, wire, Limits::default(), dialer, routes, Arc::new(BootClock), None);
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let relays = match threads.strip_prefix("each:").and_then(|n| n.parse::<usize>().ok()) {
        Some(n) => Relays::start(n)?,
        None => Relays::here(),
    };
    let builder = match threads.parse() {
        Ok(0) | Err(_) => tokio::runtime::Builder::new_current_thread(),
        Ok(n) => {
            let mut b = tokio::runtime::Builder::new_multi_thread();
            b.worker_threads(n);
            b
        }
    };
    serve(builder, endpoint, listener, relays)
}

fn serve(
    mut builder: tokio::runtime::Builder,
    endpoint: Endpoint,
    on: std::net::TcpListener,
    relays: Relays,
) -> io::Result<()> {
    builder.enable_all().build()?.block_on(async {
        let listener = TcpListener::from_std(on)?;
        // On the runtime's own threads: the thread that blocks on this is not one of them.
        tokio::spawn(async move { endpoint.run(listener, &relays, CancellationToken::new()).await }).await?;
        Ok(())
    })
}
