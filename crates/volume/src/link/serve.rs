//! Gives the log to a node that follows.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, split};
use tokio::time::timeout;
use trine_protocol::{Epoch, NodeName};

use super::frame::{self, Frame, Hello, Refusal, Word};
use crate::{Acked, Volume, VolumeError};

/// So many bytes of log are sent at once.
const PIECE: usize = 256 << 10;

/// Gives `follower` the log over `stream`, until the connection breaks or this node writes the log no longer.
///
/// Reads the log's files in place, so it wants a thread that may wait for a disk.
///
/// # Errors
/// The connection broke, the follower said something strange, or the log can't be read. A refusal is none.
pub async fn serve<S>(volume: &Volume, follower: &NodeName, stream: S) -> Result<(), VolumeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let link = |source| VolumeError::Link { node: follower.to_string(), source };
    let (read, write) = split(stream);
    let (mut read, mut write) = (BufReader::new(read), BufWriter::with_capacity(PIECE + 64, write));
    let hello: Hello = frame::read_owned(&mut read).await.map_err(link)?;
    let refusal = refusal(volume, &hello)?;
    let answer = refusal.clone().map_or(Frame::Welcome, Frame::Refused);
    let answered = async {
        frame::write(&mut write, &answer).await?;
        write.flush().await
    };
    answered.await.map_err(link)?;
    if let Some(refusal) = refusal {
        tracing::debug!(%follower, ?refusal, "does not get the log");
        return Ok(());
    }
    let from = hello.from.lsn;
    volume.acked(follower, hello.epoch, Acked { received: from, durable: from, ..Acked::default() });
    let _leaves = Leaves { volume, follower, epoch: hello.epoch };
    tokio::select! {
        ended = hear(volume, follower, hello.epoch, &mut read) => ended.map_err(link),
        ended = send(volume, follower, hello, &mut write) => ended,
    }
}

/// However the stream ends, it is known: a comparison would wait for ever for one that is gone.
struct Leaves<'a> {
    volume: &'a Volume,
    follower: &'a NodeName,
    epoch: Epoch,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.volume.left(self.follower, self.epoch);
    }
}

fn refusal(volume: &Volume, hello: &Hello) -> Result<Option<Refusal>, VolumeError> {
    if hello.identity != volume.identity() {
        return Ok(Some(Refusal::OtherVolume(volume.identity())));
    }
    if volume.leading() != Some(hello.epoch) {
        return Ok(Some(Refusal::NotLeading));
    }
    let first = volume.first();
    if hello.from.lsn < first {
        return Ok(Some(Refusal::TooFar(first)));
    }
    // The same check at the same place: everything before it is the same.
    let same = volume.check_at(hello.from.lsn)? == Some(hello.from.check);
    Ok((!same).then_some(Refusal::Parted))
}

/// Takes down how far the follower is, and what it has found.
async fn hear(
    volume: &Volume,
    follower: &NodeName,
    epoch: Epoch,
    read: &mut (impl AsyncRead + Unpin),
) -> io::Result<()> {
    loop {
        let ack = match frame::read_owned(read).await? {
            Word::Acked(ack) => ack,
            Word::Found { lsn, found } => {
                volume.heard(follower, lsn, found);
                continue;
            }
        };
        let end = volume.log_end().lsn;
        if ack.received > end || ack.durable > ack.received {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it says that it has more than there is"));
        }
        volume.acked(follower, epoch, ack);
    }
}

async fn send(
    volume: &Volume,
    follower: &NodeName,
    hello: Hello,
    write: &mut (impl AsyncWrite + Unpin),
) -> Result<(), VolumeError> {
    let link = |source| VolumeError::Link { node: follower.to_string(), source };
    let mut feed = volume.feed();
    let mut sent = hello.from.lsn;
    let mut said = None;
    let mut piece = vec![0; PIECE];
    loop {
        let now = *feed.borrow_and_update();
        if now.closed || volume.leading() != Some(hello.epoch) {
            return Ok(());
        }
        let read = volume.read_log(sent, &mut piece)?;
        let log = piece.get(..read).unwrap_or_default();
        sent += read as u64;
        // Of what it does not have it is told nothing yet.
        let news = (now.commit.min(sent), now.wanted);
        let write = &mut *write;
        let wrote = async {
            if !log.is_empty() {
                frame::write(write, &Frame::Log(log.into())).await?;
            }
            if said != Some(news) {
                frame::write(write, &Frame::Now { commit: news.0, wanted: news.1 }).await?;
            }
            write.flush().await
        };
        wrote.await.map_err(link)?;
        said = Some(news);
        if sent < volume.log_end().lsn {
            continue;
        }
        let changed = feed.changed();
        let changed = if news.0 < sent {
            // Nobody is woken when that is acknowledged, and it is told then all the same.
            timeout(volume.shared.sizes.later, changed).await.unwrap_or(Ok(()))
        } else {
            changed.await
        };
        if changed.is_err() {
            return Ok(());
        }
    }
}
