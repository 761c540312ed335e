//! How a session ends, in words and on the wire.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::postgres::{Fatal, Tracker, state};
use crate::relay::Ended;
use crate::{Conn, Kind, Leads, Route, Target};

/// What a client that is told goodbye may still send before its connection is closed all the same.
const LAST_WORDS: usize = 1 << 20;

/// What to tell a client whose session has `ended`; `now` is the newest route.
pub(crate) fn message(
    ended: Ended,
    kind: Kind,
    target: &Target,
    began: &Route,
    now: &Route,
    t: &Tracker,
) -> Option<Fatal> {
    let (code, message) = match ended {
        Ended::Client | Ended::HalfClosed | Ended::NotYet => return None,
        Ended::Server if t.over() || !t.ready_once() => return None,
        Ended::Server => (
            state::ADMIN_SHUTDOWN,
            format!("terminating connection: the database on {target} went away (trine, epoch {})", began.epoch),
        ),
        Ended::RouteChanged => (state::ADMIN_SHUTDOWN, changed(kind, target, began, now)),
        Ended::PermitLost => (
            state::ADMIN_SHUTDOWN,
            format!("terminating connection: the primary's lease has run out (trine, epoch {})", began.epoch),
        ),
        Ended::Stopped => {
            (state::ADMIN_SHUTDOWN, "terminating connection: trine is being stopped on this node".to_owned())
        }
        Ended::SyncCancelled => (
            state::RESOLUTION_UNKNOWN,
            "the wait for the standbys was cancelled: whether the transaction will stay committed is not known (trine)"
                .to_owned(),
        ),
    };
    let (detail, hint) = if ended == Ended::SyncCancelled {
        (
            Some(
                "The primary has committed it, but not enough standbys have confirmed it: a failover could undo it."
                    .to_owned(),
            ),
            "Connect again and look whether it took effect.",
        )
    } else {
        let detail = t
            .in_request()
            .then(|| "A request had not been answered: whether its transaction was committed is not known.".to_owned());
        (detail, "Connect again: this endpoint holds new connections until it can lead them on.")
    };
    Some(Fatal { code, message, detail, hint: Some(hint) })
}

fn changed(kind: Kind, target: &Target, began: &Route, now: &Route) -> String {
    let epoch = now.epoch;
    match (kind, &now.leads) {
        (Kind::Reader, _) => format!("terminating connection: {target} no longer serves reads (trine, epoch {epoch})"),
        (Kind::Writer, _) if now.epoch != began.epoch => {
            format!("terminating connection: the primary has changed (trine failover to epoch {epoch})")
        }
        (Kind::Writer, Leads::Hold { why }) => {
            format!("terminating connection: the primary no longer serves: {why} (trine, epoch {epoch})")
        }
        (Kind::Writer, Leads::To(_)) => {
            format!("terminating connection: the primary has changed (trine, epoch {epoch})")
        }
    }
}

/// Sends the last message, if there is one, and closes so that the client can read it: a socket closed over unread bytes would
/// be reset, and the message lost with it on some systems.
pub(crate) async fn farewell(client: &mut Conn, last: Option<&Fatal>, most: Duration) {
    let said = async {
        if let Some(fatal) = last {
            client.write_all(&fatal.encode()).await?;
        }
        client.shutdown().await?;
        if last.is_some() {
            let (mut buf, mut read) = ([0; 512], 0);
            while read < LAST_WORDS {
                match client.read(&mut buf).await? {
                    0 => break,
                    n => read += n,
                }
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever goes wrong: the client has gone, or does not listen.
    let _ = tokio::time::timeout(most, said).await;
}
