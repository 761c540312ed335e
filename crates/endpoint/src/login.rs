//! The beginning of a MySQL session, where its encryption is the endpoint's own: the server speaks first, so there is a
//! database already, which the client can lose meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::debug;

use crate::Conn;
use crate::endpoint::Shared;
use crate::mysql::{self, First, StartupError};
use crate::relay::Ended;
use crate::tracker::{Standing, Tracker};
use crate::warden::{Look, Warden};

/// How far it has come.
pub(crate) enum Begun {
    /// The client has said this; from here on bytes are passed on.
    Session {
        client: Conn,
        said: Vec<u8>,
        tracker: Option<Tracker>,
        /// The client has had a greeting: it can't have another one.
        is_greeted: bool,
    },
    /// The client has heard nothing yet, so that it can be led to another database.
    Unbegun(Conn, Ended),
    /// It is over, and this is where the client stands.
    Over(Conn, Ended, Option<Standing>),
    /// It is over, and there is nobody to tell.
    Closed,
}

/// A session that begins.
pub(crate) struct Login<'a, W> {
    pub(crate) shared: &'a Shared,
    pub(crate) from: SocketAddr,
    pub(crate) warden: &'a mut W,
    pub(crate) tls: &'a Arc<rustls::ServerConfig>,
}

impl<W: Warden> Login<'_, W> {
    /// Passes the database's greeting on, and answers a request for TLS.
    pub(crate) async fn begin(mut self, mut client: Conn, server: &mut Conn) -> Begun {
        // It may take long: a database may first look the client's address up.
        let limit = self.shared.limits.startup;
        let greeting = match self.guard(timeout(limit, mysql::greeting(server))).await {
            Ok(Ok(Ok(greeting))) => greeting,
            Ok(Ok(Err(_)) | Err(_)) => return Begun::Unbegun(client, Ended::Server),
            Err(ended) => return Begun::Unbegun(client, ended),
        };
        if mysql::says_not_yet(&greeting) {
            return Begun::Unbegun(client, Ended::NotYet);
        }
        if let Some(ended) = self.no_longer() {
            return Begun::Unbegun(client, ended);
        }
        let mut offer = greeting;
        if !mysql::offer_tls(&mut offer) {
            // An error: it is the database's last word.
            let said = async {
                client.write_all(&offer).await?;
                client.flush().await
            };
            return match self.guard(said).await {
                Ok(Ok(())) => Begun::Over(client, Ended::Server, None),
                _ => Begun::Closed,
            };
        }
        let tracker = |encrypted| Tracker::greeted(&offer, encrypted);
        let session = |client, said, encrypted| Begun::Session {
            client,
            said,
            tracker: Some(tracker(encrypted)),
            is_greeted: true,
        };
        let first = self.guard(timeout(limit, mysql::greet(&mut client, &offer))).await;
        let first = match first {
            Ok(first) => first.unwrap_or_else(|_| Err(StartupError::Gone(std::io::ErrorKind::TimedOut.into()))),
            Err(ended) => return Begun::Over(client, ended, Some(tracker(false).standing())),
        };
        match first {
            Ok(First::Response(said)) => session(client, said, false),
            Ok(First::Tls) => match self.guard(timeout(limit, mysql::encrypt(client, self.tls))).await {
                Ok(Ok(Ok((client, said)))) => session(client, said, true),
                Ok(Ok(Err(e))) => self.refuse(&e),
                Ok(Err(_)) => self.refuse(&StartupError::Gone(std::io::ErrorKind::TimedOut.into())),
                // In the middle of a TLS handshake nothing can be said.
                Err(_) => Begun::Closed,
            },
            Err(e) => self.refuse(&e),
        }
    }

    fn refuse(&self, error: &StartupError) -> Begun {
        let is_bad = !matches!(error, StartupError::Gone(e) if e.kind() != std::io::ErrorKind::TimedOut);
        if is_bad {
            self.shared.counters.bad_startups.fetch_add(1, Relaxed);
        }
        debug!(endpoint = %self.shared.kind, from = %self.from, %error, source = ?std::error::Error::source(error), "closed before it began");
        Begun::Closed
    }

    /// May nothing of the database's be passed on any more?
    fn no_longer(&mut self) -> Option<Ended> {
        if self.warden.disturbed()
            && let Look::End(ended) = self.warden.look()
        {
            return Some(ended);
        }
        (!self.warden.permitted()).then_some(Ended::PermitLost)
    }

    /// Does this, unless the session has to end meanwhile.
    async fn guard<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.warden.alarm() => if let Look::End(ended) = self.warden.look() {
                    return Err(ended);
                },
                done = &mut work => return Ok(done),
            }
        }
    }
}
