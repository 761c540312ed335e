//! How a session ends, in words and on the wire.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::parting::{Parting, Why};
use crate::relay::Ended;
use crate::tracker::Standing;
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
    standing: &Standing,
) -> Option<Parting> {
    let (why, message) = match ended {
        Ended::Client | Ended::HalfClosed | Ended::NotYet => return None,
        Ended::Server if standing.over || !standing.ready_once => return None,
        Ended::Server => (
            Why::Shutdown,
            format!("terminating connection: the database on {target} went away (trine, epoch {})", began.epoch),
        ),
        Ended::RouteChanged => (Why::Shutdown, changed(kind, target, began, now)),
        Ended::PermitLost => (
            Why::Shutdown,
            format!("terminating connection: the primary's lease has run out (trine, epoch {})", began.epoch),
        ),
        Ended::Stopped => (Why::Shutdown, "terminating connection: trine is being stopped on this node".to_owned()),
        Ended::SyncCancelled => (
            Why::Unresolved,
            "the wait for the standbys was cancelled: whether the transaction will stay committed is not known (trine)"
                .to_owned(),
        ),
    };
    let (detail, hint) = if ended == Ended::SyncCancelled {
        (
            Some("The primary has committed it, but not enough standbys have confirmed it: a failover could undo it."),
            "Connect again and look whether it took effect.",
        )
    } else {
        let detail = standing
            .in_request
            .then_some("A request had not been answered: whether its transaction was committed is not known.");
        (detail, "Connect again: this endpoint holds new connections until it can lead them on.")
    };
    Some(Parting { why, message, detail, hint: Some(hint) })
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
pub(crate) async fn farewell(client: &mut Conn, last: Option<&[u8]>, most: Duration) {
    let said = async {
        if let Some(message) = last {
            client.write_all(message).await?;
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
