//! The server message that an endpoint says itself.

use crate::parting::{Parting, Why};

/// The SQLSTATE of each.
fn state(why: Why) -> &'static str {
    match why {
        // `admin_shutdown`
        Why::Shutdown => "57P01",
        // `cannot_connect_now`
        Why::CannotConnect => "57P03",
        // `too_many_connections`
        Why::TooMany => "53300",
        // `transaction_resolution_unknown`
        Why::Unresolved => "08007",
    }
}

/// A FATAL `ErrorResponse`, as it goes over the wire: the last message of a session.
pub(crate) fn fatal(parting: &Parting) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    let mut field = |kind: u8, text: &str| {
        body.push(kind);
        body.extend(text.bytes().filter(|b| *b != 0));
        body.push(0);
    };
    field(b'S', "FATAL");
    field(b'V', "FATAL");
    field(b'C', state(parting.why));
    field(b'M', &parting.message);
    if let Some(detail) = parting.detail {
        field(b'D', detail);
    }
    if let Some(hint) = parting.hint {
        field(b'H', hint);
    }
    body.push(0);
    let len = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(b'E');
    out.extend(len.to_be_bytes());
    out.append(&mut body);
    out
}
