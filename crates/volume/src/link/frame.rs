//! What the two sides say to each other: postcard, each with its length (4 bytes) before it.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use trine_protocol::Epoch;

use crate::{Acked, Found, Mark};

/// The longest frame, in bytes.
const LONGEST: usize = 2 << 20;

/// The first thing: who wants what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Whose volume.
    pub(super) identity: u64,
    /// Of whose primary.
    pub(super) epoch: Epoch,
    /// The end of the log that is there already, durably.
    pub(super) from: Mark,
}

/// From the node that writes the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Frame<'a> {
    /// It follows, from where it was asked.
    Welcome,
    /// It does not.
    Refused(Refusal),
    /// Bytes of log. They may end inside an entry.
    Log(#[serde(borrow, with = "serde_bytes")] Cow<'a, [u8]>),
    /// How far the log is acknowledged, and up to where somebody waits for that.
    Now {
        /// Acknowledged.
        commit: u64,
        /// Waited for.
        wanted: u64,
    },
}

/// Why a node does not get the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// It is another volume, with this identity.
    OtherVolume(u64),
    /// The node does not write that epoch.
    NotLeading,
    /// The log there is not what the asking node has.
    Parted,
    /// The log is kept only from here on.
    TooFar(u64),
}

/// From the node that takes the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// How far it is.
    Acked(Acked),
    /// What it has found where the log asked for it.
    Found {
        /// The end of the entry that asked.
        lsn: u64,
        /// What.
        found: Found,
    },
}

/// Writes one. The caller flushes.
pub(super) async fn write<T: Serialize + Sync>(to: &mut (impl AsyncWrite + Unpin), frame: &T) -> io::Result<()> {
    let bytes = postcard::to_extend(frame, vec![0; 4]).map_err(io::Error::other)?;
    let mut bytes: Vec<u8> = bytes;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    for (to, from) in bytes.iter_mut().zip(length.to_le_bytes()) {
        *to = from;
    }
    to.write_all(&bytes).await
}

/// Reads the bytes of one into `buffer`.
///
/// Not to be dropped half-way: the rest would be taken for the next one.
pub(super) async fn read<'b>(from: &mut (impl AsyncRead + Unpin), buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    let length = from.read_u32_le().await? as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    buffer.clear();
    buffer.resize(length, 0);
    from.read_exact(buffer).await?;
    Ok(buffer)
}

/// What a frame's bytes say.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads one that borrows nothing.
pub(super) async fn read_owned<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut buffer = Vec::new();
    parse(read(from, &mut buffer).await?)
}
