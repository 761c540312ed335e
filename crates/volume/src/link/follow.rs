//! Takes the log from the node that writes it.

use std::convert::Infallible;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, split};
use trine_protocol::Epoch;

use super::frame::{self, Frame, Hello, Refusal, Word};
use crate::{Acked, Grade, Volume, VolumeError};

/// Why a node follows no longer.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It does not get the log.
    #[error("the log is refused: {0:?}")]
    Refused(Refusal),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Link(#[from] io::Error),
    /// This node's copy.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Takes the log of `epoch` over `stream`, until that breaks. `welcomed` is called once it flows.
///
/// Writes and syncs the log in place, so it wants a thread that may wait for a disk. When it is dropped nothing more is taken
/// and nothing more is acknowledged.
///
/// # Errors
/// Why it ended.
pub async fn follow<S>(
    volume: &Volume,
    epoch: Epoch,
    stream: S,
    welcomed: impl FnOnce(),
) -> Result<Infallible, FollowError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (read, mut write) = split(stream);
    let mut read = BufReader::with_capacity(512 << 10, read);
    volume.flush()?;
    let hello = Hello { identity: volume.identity(), epoch, from: volume.log_end() };
    frame::write(&mut write, &hello).await?;
    write.flush().await?;
    let mut buffer = Vec::new();
    match frame::parse(frame::read(&mut read, &mut buffer).await?)? {
        Frame::Welcome => welcomed(),
        Frame::Refused(refusal) => return Err(FollowError::Refused(refusal)),
        Frame::Log(_) | Frame::Now { .. } => return Err(strange("log before a welcome")),
    }
    let mut taker = Taker { volume, log: Vec::new(), wanted: 0, acked: None };
    let mut progress = volume.progress();
    loop {
        let words = {
            // A frame that is being read is never given up for the other.
            let mut frame = std::pin::pin!(frame::read(&mut read, &mut buffer));
            loop {
                tokio::select! {
                    biased;
                    bytes = &mut frame => {
                        let frame = frame::parse(bytes?)?;
                        taker.take(frame)?;
                        // What that has changed is no news to be woken for.
                        if progress.borrow_and_update().closed {
                            return Err(VolumeError::Closed.into());
                        }
                        break taker.words();
                    }
                    changed = progress.changed() => {
                        if changed.is_err() || progress.borrow_and_update().closed {
                            return Err(VolumeError::Closed.into());
                        }
                        say(&mut write, taker.words()).await?;
                    }
                }
            }
        };
        say(&mut write, words).await?;
    }
}

async fn say(to: &mut (impl AsyncWrite + Unpin), words: Vec<Word>) -> io::Result<()> {
    if words.is_empty() {
        return Ok(());
    }
    for word in words {
        frame::write(to, &word).await?;
    }
    to.flush().await
}

fn strange(what: &'static str) -> FollowError {
    VolumeError::Strange(what).into()
}

struct Taker<'a> {
    volume: &'a Volume,
    /// What is left of the log that came: the beginning of an entry.
    log: Vec<u8>,
    /// The primary waits for this.
    wanted: u64,
    acked: Option<Acked>,
}

impl Taker<'_> {
    fn take(&mut self, frame: Frame<'_>) -> Result<(), FollowError> {
        match frame {
            Frame::Log(bytes) if self.log.is_empty() => {
                let done = self.volume.receive(&bytes)?;
                self.log.extend_from_slice(bytes.get(done..).unwrap_or_default());
            }
            Frame::Log(bytes) => {
                self.log.extend_from_slice(&bytes);
                let done = self.volume.receive(&self.log)?;
                self.log.drain(..done);
            }
            Frame::Now { commit, wanted } => {
                self.wanted = wanted;
                self.volume.told(commit);
            }
            Frame::Welcome | Frame::Refused(_) => return Err(strange("an answer that nobody asked for")),
        }
        let progress = *self.volume.progress().borrow();
        if progress.durable < self.wanted && self.volume.log_end().lsn >= self.wanted {
            self.volume.flush()?;
        }
        Ok(())
    }

    /// What is news for the primary.
    fn words(&mut self) -> Vec<Word> {
        let found = self.volume.take_found().into_iter().map(|(lsn, found)| Word::Found { lsn, found });
        self.ack().map(Word::Acked).into_iter().chain(found).collect()
    }

    /// How far this node is, when that is news.
    fn ack(&mut self) -> Option<Acked> {
        let mut ack = self.volume.reached();
        if self.volume.grade() == Grade::Disk {
            // Nobody asks for what is only received.
            ack.received = ack.durable;
        }
        let what = |acked: Acked| (acked.durable, acked.received, acked.room.mib());
        let news = self.acked.is_none_or(|last| what(last) != what(ack));
        news.then(|| {
            self.acked = Some(ack);
            ack
        })
    }
}
