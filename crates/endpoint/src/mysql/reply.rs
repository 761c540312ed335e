//! The server's packets that end something.

use super::packets::{PIECE, Packet};

/// The first byte of an OK packet.
pub(super) const OK: u8 = 0x00;
/// That of an EOF packet, and of an OK packet in its place.
pub(super) const EOF: u8 = 0xfe;
/// That of an ERR packet.
pub(super) const ERR: u8 = 0xff;

/// The number that makes an ERR packet a report of MariaDB's on its progress: an answer is still to come.
const PROGRESS: u16 = 0xffff;

/// Status flags.
pub(super) mod status {
    /// A transaction is open. (Not before its first statement, where each statement begins one by itself.)
    pub(crate) const IN_TRANS: u16 = 0x0001;
    /// Another result follows.
    pub(crate) const MORE_RESULTS: u16 = 0x0008;
    /// The rows are left to be fetched.
    pub(crate) const CURSOR: u16 = 0x0040;
}

/// The status flags of an OK packet: they come after two integers of variable length.
pub(super) fn ok(packet: &Packet<'_>) -> Option<u16> {
    let (&(OK | EOF), rest) = packet.head.split_first()? else { return None };
    let (_, rest) = integer(rest)?;
    let (_, rest) = integer(rest)?;
    Some(u16::from_le_bytes(*rest.first_chunk()?))
}

/// Those of an EOF packet.
pub(super) fn eof(packet: &Packet<'_>) -> Option<u16> {
    match packet.head {
        &[EOF, _, _, a, b] => Some(u16::from_le_bytes([a, b])),
        _ => None,
    }
}

/// Is this the end of rows, not one of them? One that begins so has a value of 16 MB.
pub(super) fn is_end(packet: &Packet<'_>) -> bool {
    packet.head.first() == Some(&EOF) && packet.length < PIECE as u64
}

/// The number of an error. `None`: it is no ERR packet.
pub(super) fn error(packet: &Packet<'_>) -> Option<u16> {
    match packet.head {
        &[ERR, a, b, ..] => Some(u16::from_le_bytes([a, b])),
        _ => None,
    }
}

/// Is it a report on progress, and no error?
pub(super) fn is_progress(error: u16) -> bool {
    error == PROGRESS
}

/// An integer of one to nine bytes, and what follows it.
pub(super) fn integer(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let size = match first {
        0..=0xfa => return Some((u64::from(first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        // A NULL, or an error.
        0xfb | 0xff => return None,
    };
    let (number, rest) = rest.split_at_checked(size)?;
    Some((number.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)), rest))
}
