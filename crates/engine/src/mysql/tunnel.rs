//! The way of the log from the primary's database to a standby's, through both agents.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::UnixStream;
use trine_platform::BoxStream;
use trine_protocol::{Epoch, NodeName};

use super::dialect::Dialect;
use super::gate::{Progress, Stay};
use super::session::REPLICATION;
use super::state::Mysql;
use crate::Ask;

/// A line that is longer is none of ours.
const LONGEST: usize = 4096;

/// What a standby says first on a way for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Whose primary it looks for.
    pub(super) epoch: Epoch,
    /// It will acknowledge.
    pub(super) acknowledges: bool,
}

/// What the primary tells a standby.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Its acknowledgements count.
    pub(super) counts: bool,
    /// Somebody else acknowledges: commits do not wait for this one.
    pub(super) others: bool,
}

/// Writes one object as a line.
pub(super) async fn say<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), what: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}

/// Reads one line, and not a byte more: what follows may be the database's.
pub(super) async fn hear<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut line = Vec::new();
    loop {
        match from.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            _ if line.len() >= LONGEST => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            byte => line.push(byte),
        }
    }
}

impl Mysql {
    /// Another node's engine has opened a stream.
    pub(super) async fn serve(this: &Arc<Self>, from: &NodeName, ask: Ask, stream: BoxStream) {
        let outcome = match ask {
            Ask::Log => Self::serve_log(this, from, stream).await,
            Ask::Progress => Self::serve_progress(this, from, stream).await,
            Ask::Copy => Self::serve_copy(this, from, stream).await,
            Ask::Nothing => Ok(()),
        };
        let Err(error) = outcome else { return };
        let left =
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        if ask == Ask::Copy && !left {
            // The other node sees an end only, and not why.
            tracing::warn!(to = %from, %error, "can't copy the data to another node");
        } else {
            tracing::debug!(%from, ?ask, %error, "a stream to another node's engine has ended");
        }
    }

    async fn serve_log(this: &Arc<Self>, from: &NodeName, mut stream: BoxStream) -> io::Result<()> {
        let hello: Hello = hear(&mut stream).await?;
        let Some(ticket) = this.gate.enter(from, hello.epoch, hello.acknowledges) else {
            tracing::debug!(%from, ?hello, "a standby is not let in");
            return Ok(());
        };
        let stay = Stay { ticket, engine: Arc::clone(this) };
        if hello.acknowledges {
            let engine = Arc::clone(this);
            this.threads.spawn(async move { engine.nudge(hello.epoch).await });
        }
        let pass = async {
            this.introduce(REPLICATION, &this.config.superuser_password).await.map_err(io::Error::other)?;
            let mut database = UnixStream::connect(this.paths.socket()).await?;
            let (thread, greeting) = greeting(&mut database).await?;
            this.gate.connected(&stay.ticket, thread);
            stream.write_all(&greeting).await?;
            stream.flush().await?;
            match this.config.dialect {
                Dialect::MariaDb => copy_bidirectional(&mut stream, &mut database).await.map(drop),
                Dialect::MySql => this.lead_receiver(stream, database).await,
            }
        };
        tokio::select! {
            biased;
            () = stay.ticket.end.cancelled() => Ok(()),
            passed = pass => passed,
        }
    }

    /// Hears how far a standby is, and tells it whether it counts.
    async fn serve_progress(this: &Arc<Self>, from: &NodeName, stream: BoxStream) -> io::Result<()> {
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut counted, mut moved) = (this.gate.counted(), this.gate.moved());
        let tell = async {
            loop {
                moved.mark_unchanged();
                let counts = counted.borrow_and_update().contains(from);
                say(&mut write, &Told { counts, others: this.gate.is_acknowledged_without(from) }).await?;
                let changed =
                    tokio::select! { changed = counted.changed() => changed, changed = moved.changed() => changed };
                if changed.is_err() {
                    return Ok(());
                }
            }
        };
        let listen = async {
            loop {
                let progress: Progress = hear(&mut read).await?;
                this.gate.heard(from, progress, this.clock.now());
            }
        };
        let ended: io::Result<()> = tokio::select! { ended = tell => ended, ended = listen => ended };
        this.gate.unheard(from);
        ended
    }
}

/// The first packet of a database, and the number that it gives the connection.
async fn greeting(database: &mut UnixStream) -> io::Result<(u64, Vec<u8>)> {
    let mut header = [0; 4];
    database.read_exact(&mut header).await?;
    let [a, b, c, _] = header;
    let mut packet = header.to_vec();
    packet.resize(4 + usize::from(a) + (usize::from(b) << 8) + (usize::from(c) << 16), 0);
    database.read_exact(packet.get_mut(4..).unwrap_or_default()).await?;
    let thread = thread_in(packet.get(4..).unwrap_or_default());
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "the database does not greet");
    Ok((thread.ok_or_else(strange)?, packet))
}

/// Protocol 10: its version, the server's as text, the connection's number.
fn thread_in(greeting: &[u8]) -> Option<u64> {
    let (10, rest) = greeting.split_first()? else { return None };
    let end = rest.iter().position(|&b| b == 0)?;
    Some(u32::from_le_bytes(rest.get(end + 1..end + 5)?.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_connection() {
        assert_eq!(thread_in(b"\x0a5.5.5-10.11.19-MariaDB\0\x11\x02\0\0salt"), Some(0x211));
        assert_eq!(thread_in(b"\x0a5.5.5\0\x11"), None);
        assert_eq!(thread_in(b"\xff\x10\x04Too many connections"), None);
        assert_eq!(thread_in(b""), None);
    }

    #[tokio::test]
    async fn a_line_is_read_and_no_more() {
        let mut from: &[u8] = b"{\"epoch\":5,\"acknowledges\":true}\nrest";
        let hello: Hello = hear(&mut from).await.unwrap();
        assert_eq!(hello, Hello { epoch: Epoch(5), acknowledges: true });
        assert_eq!(from, b"rest");
        let long = vec![b'x'; LONGEST + 10];
        assert!(hear::<Hello>(&mut &long[..]).await.is_err());
        assert!(hear::<Hello>(&mut &b"{}\n"[..]).await.is_err());
    }
}
