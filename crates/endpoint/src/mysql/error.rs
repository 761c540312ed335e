//! The packet that an endpoint says itself.

use super::reply;
use crate::parting::{Parting, Why};

/// `ER_SERVER_SHUTDOWN`: drivers give the connection up, and make a new one.
const SERVER_SHUTDOWN: u16 = 1053;
/// `ER_CON_COUNT_ERROR`.
const TOO_MANY_CONNECTIONS: u16 = 1040;
/// MySQL's own `MYSQL_ERRMSG_SIZE`, less the zero at its end.
const MOST: usize = 511;

/// How an ERR packet has to look where it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its sequence number: clients look at it.
    pub(super) sequence: u8,
    /// Does it have an SQLSTATE? Not before the client has said that it speaks the protocol of MySQL 4.1.
    pub(super) has_state: bool,
}

impl Place {
    /// Instead of the server's greeting.
    pub(crate) const OPENING: Self = Self { sequence: 0, has_state: false };
}

/// An ERR packet, as it goes over the wire: the last one of a session.
pub(crate) fn error(parting: &Parting, place: Place) -> Vec<u8> {
    let (number, state) = match parting.why {
        Why::Shutdown | Why::CannotConnect | Why::Unresolved => (SERVER_SHUTDOWN, b"08S01"),
        Why::TooMany => (TOO_MANY_CONNECTIONS, b"08004"),
    };
    let mut text = parting.message.clone();
    let [detail, hint] = [parting.detail, parting.hint];
    if detail.is_some() || hint.is_some() {
        text.push('.');
    }
    for more in [detail, hint].into_iter().flatten() {
        text.push(' ');
        text.push_str(more);
    }
    let mut body = vec![reply::ERR];
    body.extend(number.to_le_bytes());
    if place.has_state {
        body.push(b'#');
        body.extend(state);
    }
    let end = (0..=MOST.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    body.extend(text.bytes().take(end));
    let [a, b, c, _] = u32::try_from(body.len()).unwrap_or_default().to_le_bytes();
    [&[a, b, c, place.sequence], &body[..]].concat()
}

/// Is a server's very first packet, which begins with these bytes, the error that it is shutting down?
pub(crate) fn says_not_yet(first: &[u8]) -> bool {
    matches!(first, &[_, _, _, 0, reply::ERR, a, b, ..] if u16::from_le_bytes([a, b]) == SERVER_SHUTDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let long = format!("{}é{}", "x".repeat(MOST - 1), "y".repeat(20_000));
        let parting = Parting { why: Why::TooMany, message: long, detail: Some("More."), hint: None };
        let packet = error(&parting, Place { sequence: 7, has_state: true });
        let body = [&[0xff, 0x10, 0x04][..], b"#08004", "x".repeat(MOST - 1).as_bytes()].concat();
        let [a, b, ..] = u32::try_from(body.len()).unwrap().to_le_bytes();
        assert_eq!(packet, [&[a, b, 0, 7], &body[..]].concat());

        let parting = Parting { message: "No".to_owned(), hint: Some("Try again."), ..parting };
        let packet = error(&parting, Place::OPENING);
        assert_eq!(packet, [&[23, 0, 0, 0, 0xff, 0x10, 0x04][..], b"No. More. Try again."].concat()[..]);
    }
}
