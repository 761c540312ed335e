//! The server messages that an endpoint says itself.

/// SQLSTATEs.
pub(crate) mod state {
    /// `admin_shutdown`: what drivers know as "reconnect".
    pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
    /// `cannot_connect_now`.
    pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
    /// `too_many_connections`.
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `transaction_resolution_unknown`.
    pub(crate) const RESOLUTION_UNKNOWN: &str = "08007";
}

/// A FATAL `ErrorResponse`: the last message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fatal {
    /// The SQLSTATE.
    pub(crate) code: &'static str,
    /// What happened.
    pub(crate) message: String,
    /// More about it.
    pub(crate) detail: Option<String>,
    /// What to do.
    pub(crate) hint: Option<&'static str>,
}

impl Fatal {
    /// As it goes over the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        let mut field = |kind: u8, text: &str| {
            body.push(kind);
            body.extend(text.bytes().filter(|b| *b != 0));
            body.push(0);
        };
        field(b'S', "FATAL");
        field(b'V', "FATAL");
        field(b'C', self.code);
        field(b'M', &self.message);
        if let Some(detail) = &self.detail {
            field(b'D', detail);
        }
        if let Some(hint) = self.hint {
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
}
