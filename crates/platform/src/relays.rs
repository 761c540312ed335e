//! Threads for the clients' bytes, apart from those that renew leases.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{BoxStream, Rank, rank_thread};

/// Where sessions run. A clone is the same threads.
///
/// Each thread has a runtime of its own, so a session stays where it is and waking it takes no other thread; and however
/// much they carry, the caller's runtime, which renews leases, is not waited for.
#[derive(Clone)]
pub struct Relays {
    homes: Arc<[Home]>,
    /// The threads end with the last clone; what still runs there is dropped.
    _stop: Arc<DropGuard>,
}

struct Home {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relays({})", self.homes.len())
    }
}

impl Relays {
    /// No threads: what is placed runs on the runtime of whoever places it.
    #[must_use]
    pub fn here() -> Self {
        Self { homes: Arc::new([]), _stop: Arc::new(CancellationToken::new().drop_guard()) }
    }

    /// So many threads.
    ///
    /// # Errors
    /// The operating system gives no thread or no runtime.
    pub fn start(threads: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let homes = (0..threads).map(|_| Home::start(stop.clone())).collect::<io::Result<Arc<[Home]>>>()?;
        Ok(Self { homes, _stop: Arc::new(guard) })
    }

    /// The place with the fewest sessions, for one more.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.homes.iter().min_by_key(|h| h.load.load(Relaxed)) {
            Some(home) => {
                home.load.fetch_add(1, Relaxed);
                Place { handle: home.handle.clone(), load: Some(home.load.clone()) }
            }
            None => Place { handle: Handle::current(), load: None },
        }
    }
}

impl Home {
    fn start(stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            rank_thread(Rank::Bytes);
            runtime.block_on(stop.cancelled());
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, load: Arc::default() })
    }
}

/// One session's place: it counts there as long as this lives.
#[derive(Debug)]
pub struct Place {
    handle: Handle,
    load: Option<Arc<AtomicUsize>>,
}

impl Place {
    /// Where to spawn it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(load) = &self.load {
            load.fetch_sub(1, Relaxed);
        }
    }
}

/// A socket that belongs to the runtime that it was made on can be given to another one.
pub trait MoveHere: Sized {
    /// The same, on the caller's runtime. Nothing may be waiting for it.
    ///
    /// # Errors
    /// What the operating system says; the connection is closed then.
    fn move_here(self) -> io::Result<Self>;
}

impl MoveHere for TcpStream {
    fn move_here(self) -> io::Result<Self> {
        Self::from_std(self.into_std()?)
    }
}

impl MoveHere for UnixStream {
    fn move_here(self) -> io::Result<Self> {
        Self::from_std(self.into_std()?)
    }
}

impl MoveHere for BoxStream {
    /// A TCP socket is moved; a simulated one belongs to no runtime.
    fn move_here(self) -> io::Result<Self> {
        if !(*self).as_any().is::<TcpStream>() {
            return Ok(self);
        }
        match self.into_any().downcast::<TcpStream>() {
            Ok(tcp) => Ok(Box::new(tcp.move_here()?)),
            Err(_) => Err(io::Error::other("a TCP socket that is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn sessions_are_spread_and_their_sockets_go_along() {
        let relays = Relays::start(2).unwrap();
        let (one, two) = (relays.place(), relays.place());
        assert_ne!(one.handle().id(), two.handle().id());
        drop(one);
        let three = relays.place();
        assert_ne!(three.handle().id(), two.handle().id());

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server: BoxStream = Box::new(listener.accept().await.unwrap().0);
        let echo = three.handle().spawn(async move {
            let mut server = server.move_here().unwrap();
            let mut word = [0; 4];
            server.read_exact(&mut word).await.unwrap();
            server.write_all(&word).await.unwrap();
            std::thread::current().name().map(str::to_owned)
        });
        client.write_all(b"word").await.unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!((&back, echo.await.unwrap().as_deref()), (b"word", Some("relay")));
    }

    #[tokio::test]
    async fn the_threads_end_with_the_last_clone() {
        let relays = Relays::start(1).unwrap();
        let task = relays.place().handle().spawn(std::future::pending::<()>());
        drop(relays.clone());
        assert!(!task.is_finished());
        drop(relays);
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
