//! A copy of the whole volume, made of another node's and of an older copy that is here: blocks are compared, and only those
//! that differ are sent.
//!
//! The files change while they are read. That does no harm: the copy begins at a checkpoint, each change since is in the log,
//! and the copy counts only once it has the log up to where the files had got to when the last of them was read.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, split};
use trine_protocol::Epoch;
use xxhash_rust::xxh3::xxh3_128;

use super::frame;
use crate::checkpoint::Checkpoint;
use crate::medium::{Folder, Medium, Part};
use crate::{Ino, Volume, VolumeError};

/// What is compared and sent, in bytes: a page, as databases change pages.
pub const BLOCK: usize = 4096;

/// So many blocks are compared at once: their hashes are 64 KiB.
const BATCH: u64 = 4096;

/// So many blocks are asked for at once: 1 MiB.
const FETCH: usize = 256;

/// From the node that makes a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Ask {
    /// The checkpoint that the copy begins at, and that the log from there on is kept.
    Begin,
    /// The hashes of [`BATCH`] blocks of a file, or of as many as it has.
    Hashes { ino: Ino, first: u64 },
    /// Blocks of a file, at most [`FETCH`].
    Blocks { ino: Ino, blocks: Vec<u64> },
    /// It has everything. The log is still kept until it closes the connection.
    Finish,
}

/// From the node that has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Answer<'a> {
    /// A part of the checkpoint.
    Piece(#[serde(borrow, with = "serde_bytes")] Cow<'a, [u8]>),
    /// The checkpoint's end.
    Begun,
    /// 16 bytes for each block, and the file's length. A block beyond the end has none.
    Hashes {
        #[serde(borrow, with = "serde_bytes")]
        hashes: Cow<'a, [u8]>,
        length: u64,
    },
    /// The blocks, one after the other, each whole; what is beyond the end is zeros.
    Blocks(#[serde(borrow, with = "serde_bytes")] Cow<'a, [u8]>),
    /// The copy needs the log up to here, which is written in this epoch.
    Finished { upto: u64, epoch: Epoch },
    /// It has no volume to copy now.
    Refused,
}

/// What a copy has come to: see [`take`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Whose volume.
    pub identity: u64,
    /// It counts once it has the log up to here.
    pub upto: u64,
    /// The epoch that the other node writes. The checkpoint that the copy begins at may be of an older one.
    pub epoch: Epoch,
    /// Bytes of content that were sent.
    pub sent: u64,
}

/// How far a copy is, in bytes of content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Compared or copied.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// Gives a copy of an open volume to whoever asks over `stream`.
///
/// # Errors
/// The connection broke, or the disk's.
pub async fn give<S>(volume: &Volume, node: &str, stream: S) -> Result<(), VolumeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let link = |source| VolumeError::Link { node: node.to_owned(), source };
    let (read, write) = split(stream);
    let (mut read, mut write) = (BufReader::new(read), BufWriter::with_capacity(1 << 20, write));
    let mut pin = None;
    let mut content = Vec::new();
    loop {
        let ask: Ask = match frame::read_owned(&mut read).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            ask => ask.map_err(link)?,
        };
        let answer = match ask {
            Ask::Begin if volume.leading().is_none() => Answer::Refused,
            Ask::Begin => {
                let (kept, checkpoint) = Pin::new(volume)?;
                pin = Some(kept);
                for piece in checkpoint.chunks(1 << 20) {
                    frame::write(&mut write, &Answer::Piece(piece.into())).await.map_err(link)?;
                }
                Answer::Begun
            }
            Ask::Hashes { ino, first } => {
                let length = length(volume, ino)?;
                let end = length.div_ceil(BLOCK as u64).min(first.saturating_add(BATCH));
                let mut hashes = Vec::new();
                for block in first..end {
                    read_block(volume.medium(), ino, block, &mut content)?;
                    hashes.extend(xxh3_128(&content).to_le_bytes());
                }
                Answer::Hashes { hashes: hashes.into(), length }
            }
            Ask::Blocks { ino, blocks } => {
                let mut all = Vec::with_capacity(blocks.len().min(FETCH) * BLOCK);
                for block in blocks.into_iter().take(FETCH) {
                    read_block(volume.medium(), ino, block, &mut content)?;
                    all.extend_from_slice(&content);
                }
                Answer::Blocks(all.into())
            }
            Ask::Finish => match volume.leading() {
                Some(epoch) => Answer::Finished { upto: volume.progress().borrow().applied, epoch },
                None => Answer::Refused,
            },
        };
        let answered = async {
            frame::write(&mut write, &answer).await?;
            write.flush().await
        };
        answered.await.map_err(link)?;
        if pin.is_none() {
            return Ok(());
        }
    }
}

/// Keeps log.
struct Pin<'a> {
    volume: &'a Volume,
    number: u64,
}

impl<'a> Pin<'a> {
    fn new(volume: &'a Volume) -> Result<(Self, Vec<u8>), VolumeError> {
        // The checkpoint may be replaced while it is read: it is pinned first, at whatever it is.
        let number = volume.pin();
        let this = Self { volume, number };
        let checkpoint = Checkpoint::read(volume.medium())?;
        let checkpoint = checkpoint.ok_or_else(|| VolumeError::Missing(volume.medium().place()))?;
        Ok((this, checkpoint.to_bytes()?))
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.volume.unpin(self.number);
    }
}

fn io_failed<'a>(medium: &'a dyn Medium, action: &'static str) -> impl Fn(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { action, place: medium.place(), source }
}

fn length(volume: &Volume, ino: Ino) -> Result<u64, VolumeError> {
    let medium = volume.medium();
    Ok(medium.length(Part::Object(ino)).map_err(io_failed(medium, "read"))?.unwrap_or(0))
}

/// One block; what is beyond the end is zeros.
fn read_block(medium: &dyn Medium, ino: Ino, block: u64, content: &mut Vec<u8>) -> Result<(), VolumeError> {
    content.clear();
    content.resize(BLOCK, 0);
    let offset = block.saturating_mul(BLOCK as u64);
    medium.read(Part::Object(ino), offset, content).map_err(io_failed(medium, "read"))?;
    Ok(())
}

/// Makes a copy in `new`, which is empty, of the volume at the other end of `stream`, using what `old` has of it.
///
/// It is complete once it has the log up to [`Taken::upto`]; the other side keeps the log as long as `stream` is open, so it is
/// given back. Compares and copies in place, so it wants a thread that may wait for a disk.
///
/// # Errors
/// The connection broke, the other side has nothing to copy or sends something strange, or the disk's.
pub async fn take<S>(
    new: &dyn Medium,
    old: Option<&dyn Medium>,
    stream: S,
    mut progress: impl FnMut(Copied),
) -> Result<(Taken, S), VolumeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut asker = Asker { stream, buffer: Vec::new() };
    let mut checkpoint = Vec::new();
    asker.ask(&Ask::Begin).await?;
    loop {
        match asker.answer().await? {
            Answer::Piece(piece) => checkpoint.extend_from_slice(&piece),
            Answer::Begun => break,
            Answer::Refused => return Err(VolumeError::Strange("that it has nothing to copy now")),
            _ => return Err(VolumeError::Strange("an answer to another question")),
        }
    }
    let mut found = Checkpoint::parse(&checkpoint, "the other node")?;
    found.tree.check().map_err(|_| VolumeError::Strange("a tree that is none"))?;
    // The log before it is not here.
    found.marks.clear();
    let files: Vec<(Ino, u64)> = found.tree.iter().filter_map(|(ino, _)| Some((ino, found.tree.size(ino)?))).collect();
    let mut copied = Copied { done: 0, total: files.iter().map(|(_, size)| size).sum() };
    let mut sent = 0;
    for (ino, size) in files {
        if size > 0 {
            sent += file(&mut asker, new, old, ino, size, &mut copied, &mut progress).await?;
        }
    }
    new.sync_names(Folder::Objects).map_err(io_failed(new, "sync"))?;
    asker.ask(&Ask::Finish).await?;
    let (upto, epoch) = match asker.answer().await? {
        Answer::Finished { upto, epoch } => (upto, epoch),
        Answer::Refused => return Err(VolumeError::Strange("that it writes the log no longer")),
        _ => return Err(VolumeError::Strange("an answer to another question")),
    };
    // Last: a folder without it is no copy.
    Checkpoint::write(&found.to_bytes()?, new)?;
    Ok((Taken { identity: found.identity, upto, epoch, sent }, asker.stream))
}

/// Copies one file's content, and says how many bytes were sent for it.
async fn file<S: AsyncRead + AsyncWrite + Unpin + Send>(
    asker: &mut Asker<S>,
    new: &dyn Medium,
    old: Option<&dyn Medium>,
    ino: Ino,
    size: u64,
    copied: &mut Copied,
    progress: &mut impl FnMut(Copied),
) -> Result<u64, VolumeError> {
    let part = Part::Object(ino);
    let (mut first, mut sent) = (0, 0);
    let mut block = Vec::new();
    // To the end of the size that it had at the checkpoint. What it has grown since is in the log.
    while first * (BLOCK as u64) < size {
        asker.ask(&Ask::Hashes { ino, first }).await?;
        let Answer::Hashes { hashes, .. } = asker.answer().await? else {
            return Err(VolumeError::Strange("an answer to another question"));
        };
        let mut differ = Vec::new();
        for (number, hash) in (first..size.div_ceil(BLOCK as u64)).zip(hashes.chunks_exact(16)) {
            let same = match old {
                Some(old) => {
                    read_block(old, ino, number, &mut block)?;
                    xxh3_128(&block).to_le_bytes() == hash
                }
                None => false,
            };
            if same {
                // A block of zeros is a hole.
                if block.iter().any(|b| *b != 0) {
                    put(new, part, number, size, &block)?;
                }
            } else {
                differ.push(number);
            }
        }
        for some in differ.chunks(FETCH) {
            asker.ask(&Ask::Blocks { ino, blocks: some.to_vec() }).await?;
            let Answer::Blocks(blocks) = asker.answer().await? else {
                return Err(VolumeError::Strange("an answer to another question"));
            };
            if blocks.len() != some.len() * BLOCK {
                return Err(VolumeError::Strange("other blocks than were asked for"));
            }
            for (number, block) in some.iter().zip(blocks.chunks_exact(BLOCK)) {
                if block.iter().any(|b| *b != 0) {
                    put(new, part, *number, size, block)?;
                }
            }
            sent += blocks.len() as u64;
        }
        first += BATCH;
        copied.done += (size.saturating_sub((first - BATCH) * BLOCK as u64)).min(BATCH * BLOCK as u64);
        progress(*copied);
    }
    new.sync(part).map_err(io_failed(new, "sync"))?;
    Ok(sent)
}

/// Writes a block, as far as it is in a file of this size.
fn put(new: &dyn Medium, part: Part, number: u64, size: u64, block: &[u8]) -> Result<(), VolumeError> {
    let offset = number.saturating_mul(BLOCK as u64);
    let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(block.len());
    let block = block.get(..length).unwrap_or_default();
    new.write(part, offset, block).map_err(io_failed(new, "write a file's content in"))
}

struct Asker<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asker<S> {
    async fn ask(&mut self, ask: &Ask) -> Result<(), VolumeError> {
        let asked = async {
            frame::write(&mut self.stream, ask).await?;
            self.stream.flush().await
        };
        asked.await.map_err(broke)
    }

    async fn answer(&mut self) -> Result<Answer<'_>, VolumeError> {
        let bytes = frame::read(&mut self.stream, &mut self.buffer).await.map_err(broke)?;
        frame::parse(bytes).map_err(broke)
    }
}

fn broke(source: io::Error) -> VolumeError {
    VolumeError::Link { node: "the node that has the data".to_owned(), source }
}
