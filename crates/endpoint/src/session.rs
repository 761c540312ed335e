//! One connection to an endpoint, from its first byte to its last.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use crate::counters::Gauge;
use crate::ending;
use crate::endpoint::Shared;
use crate::hold::{Held, Reached, Unreached};
use crate::login::{Begun, Login};
use crate::parting::{Parting, Why};
use crate::postgres::{self, Opening, StartupError};
use crate::relay::{Ended, Relay};
use crate::tracker::{Form, Tracker};
use crate::warden::RouteWarden;
use crate::{Conn, Wire};

/// How long a database may take to carry out a cancel request; it says so by closing.
const CANCEL: Duration = Duration::from_secs(2);

/// Serves one connection.
pub(crate) async fn serve(shared: &Shared, conn: Conn, from: SocketAddr, starting: Gauge<'_>) {
    let opened = match shared.wire {
        // The server speaks first, or it is not known who does.
        Wire::MySql | Wire::Raw => Ok((conn, Opening::Session(Vec::new()))),
        Wire::Postgres => {
            tokio::select! {
                opened = timeout(shared.limits.startup, postgres::open(conn, shared.tls.as_ref())) => match opened {
                    Ok(opened) => opened,
                    Err(_) => {
                        shared.counters.bad_startups.fetch_add(1, Relaxed);
                        debug!(endpoint = %shared.kind, %from, limit = ?shared.limits.startup, "closed: no startup packet in time");
                        return;
                    }
                },
                () = shared.stop.wait() => return,
            }
        }
    };
    match opened {
        Ok((mut client, Opening::Session(said))) => {
            let Some(_open) = Gauge::up_to(&shared.counters.open, shared.limits.max_connections) else {
                shared.counters.refused.fetch_add(1, Relaxed);
                debug!(endpoint = %shared.kind, %from, limit = shared.limits.max_connections, "refused: too many connections");
                say(shared, &mut client, &too_many(shared)).await;
                return;
            };
            drop(starting);
            session(shared, client, said, from).await;
        }
        Ok((client, Opening::Cancel(packet))) => cancel(shared, client, &packet).await,
        Err(StartupError::Gone(e)) => {
            debug!(endpoint = %shared.kind, %from, error = %e, "closed by the client before it began")
        }
        Err(e) => {
            shared.counters.bad_startups.fetch_add(1, Relaxed);
            debug!(endpoint = %shared.kind, %from, error = %e, source = ?std::error::Error::source(&e), "closed: not a client of this endpoint");
        }
    }
}

async fn session(shared: &Shared, mut client: Conn, mut said: Vec<u8>, from: SocketAddr) {
    let mut routes = shared.routes.clone();
    let deadline = shared.clock.now() + shared.limits.hold;
    let (mut failed, mut failure) = (0, None);
    loop {
        let mut held =
            Held { shared, client: &mut client, said: &mut said, routes: &mut routes, deadline, failed, failure };
        let reached = match held.reach().await {
            Ok(reached) => reached,
            Err(Unreached::ClientGone) => {
                debug!(endpoint = %shared.kind, %from, "the client left while it was held");
                return;
            }
            Err(Unreached::Stopped) => {
                say(shared, &mut client, &stopped()).await;
                return;
            }
            Err(Unreached::Expired(why)) => {
                shared.counters.hold_expired.fetch_add(1, Relaxed);
                debug!(endpoint = %shared.kind, %from, why, "held for too long");
                say(shared, &mut client, &expired(shared, &why)).await;
                return;
            }
        };
        failed = held.failed;
        let Reached { backend, route, target, busy, load } = reached;
        let mut server = backend.conn;
        let mut warden = RouteWarden {
            kind: shared.kind,
            routes: routes.clone(),
            began: route,
            target,
            permit: backend.permit,
            stop: shared.stop.clone(),
        };
        let begun = match &shared.tls {
            // A client that speaks first is none of MySQL's: it gets what the database says to it.
            Some(tls) if shared.wire == Wire::MySql && said.is_empty() => {
                Login { shared, from, warden: &mut warden, tls }.begin(client, &mut server).await
            }
            _ => Begun::Session { client, said: said.clone(), tracker: Tracker::new(shared.wire), is_greeted: false },
        };
        let (ended, unbegun, standing, settled) = match begun {
            Begun::Session { client: is, said, tracker, is_greeted } => {
                client = is;
                let (half_closed, counters) = (shared.limits.half_closed, &shared.counters);
                let mut relay = Relay::new(&mut client, server, said, tracker, half_closed, busy, counters);
                let ended = relay.run(&mut warden).await;
                let unbegun = relay.unbegun() && !is_greeted && shared.wire != Wire::Raw;
                // Dropped here: the database learns at once that its client is gone.
                (ended, unbegun, relay.standing(), relay.settled())
            }
            Begun::Unbegun(is, ended) => {
                client = is;
                (ended, true, Tracker::new(shared.wire).map(|t| t.standing()), true)
            }
            Begun::Over(is, ended, standing) => {
                client = is;
                (ended, false, standing, true)
            }
            Begun::Closed => return,
        };
        let again = unbegun && matches!(ended, Ended::Server | Ended::NotYet | Ended::RouteChanged | Ended::PermitLost);
        debug!(endpoint = %shared.kind, %from, target = %warden.target, epoch = %warden.began.epoch, ?ended, again, "session over");
        if again {
            // The client has not noticed that there was a database: it is led to the next one.
            failed += 1;
            failure = Some(
                match ended {
                    Ended::NotYet => "it is not ready for connections",
                    Ended::PermitLost => "its lease has run out",
                    _ => "it closed the connection at once",
                }
                .to_owned(),
            );
            continue;
        }
        match ended {
            Ended::RouteChanged => shared.counters.ended_by_route.fetch_add(1, Relaxed),
            Ended::PermitLost => shared.counters.ended_by_permit.fetch_add(1, Relaxed),
            Ended::SyncCancelled => shared.counters.ended_by_sync_cancel.fetch_add(1, Relaxed),
            _ => 0,
        };
        let last = standing.and_then(|standing| {
            let now = shared.routes.borrow();
            let parting = ending::message(ended, shared.kind, &warden.target, &warden.began, &now, &standing)?;
            Some(standing.form.encode(&parting))
        });
        drop(load);
        if ended != Ended::Client && settled {
            ending::farewell(&mut client, last.as_deref(), shared.limits.farewell).await;
        }
        return;
    }
}

/// Passes a cancel request on. Every candidate gets it (one, for the writer): only the one whose session it is knows its key.
async fn cancel(shared: &Shared, mut client: Conn, packet: &[u8]) {
    let route = shared.routes.borrow().clone();
    let crate::Leads::To(targets) = &route.leads else { return };
    for target in targets {
        let sent = async {
            let mut backend = shared.dialer.dial(target, route.epoch).await?;
            backend.conn.write_all(packet).await?;
            backend.conn.flush().await?;
            // The database closes once the signal is sent. Whatever it might say instead is of no use to the client.
            backend.conn.read(&mut [0; 64]).await
        };
        match timeout(CANCEL, sent).await {
            Ok(Ok(_)) => {
                shared.counters.cancels.fetch_add(1, Relaxed);
            }
            Ok(Err(e)) => {
                debug!(endpoint = %shared.kind, %target, error = %e, "a cancel request could not be passed on")
            }
            Err(_) => debug!(endpoint = %shared.kind, %target, "a cancel request was not answered in time"),
        }
    }
    ending::farewell(&mut client, None, shared.limits.farewell).await;
}

async fn say(shared: &Shared, client: &mut Conn, parting: &Parting) {
    let last = Form::of_opening(shared.wire).map(|form| form.encode(parting));
    ending::farewell(client, last.as_deref(), shared.limits.farewell).await;
}

fn too_many(shared: &Shared) -> Parting {
    Parting {
        why: Why::TooMany,
        message: format!(
            "trine: too many connections on this endpoint (limit {}; raise endpoint.max_connections)",
            shared.limits.max_connections
        ),
        detail: None,
        hint: None,
    }
}

fn stopped() -> Parting {
    Parting {
        why: Why::CannotConnect,
        message: "trine is being stopped on this node".to_owned(),
        detail: None,
        hint: Some("Connect to another node's endpoint."),
    }
}

fn expired(shared: &Shared, why: &str) -> Parting {
    Parting {
        why: Why::CannotConnect,
        message: format!(
            "trine: the {} endpoint had no database to lead to for {:.1} s: {why}",
            shared.kind,
            shared.limits.hold.as_secs_f64()
        ),
        detail: None,
        hint: Some("Try again; \"trine status\" and \"trine events\" say what the cluster is doing."),
    }
}
