//! Mutual TLS between the nodes: certificates, calls and streams.
//!
//! One port takes both: [`ALPN_RPC`] is HTTP/2 with JSON calls, many at once over one connection for each peer;
//! [`ALPN_STREAM`] is a raw stream of bytes after one line of JSON. Both sides show a node certificate of the cluster's
//! [`Authority`], so the name of the caller that a [`Service`] gets is proven.

mod arrived;
mod authority;
mod certificate;
mod errors;
mod identity;
mod link;
mod peers;
mod seldom;
mod server;
mod service;

pub use authority::{Authority, AuthorityError};
pub use certificate::CertificateError;
pub use errors::{CallError, CallRefused, ConnectError};
pub use identity::{Identity, IdentityError, PemFile};
pub use peers::Peers;
pub use server::Server;
pub use service::{Service, answer, parse};

/// Application protocol of the calls.
pub const ALPN_RPC: &[u8] = b"trine-rpc/1";

/// Application protocol of the raw streams.
pub const ALPN_STREAM: &[u8] = b"trine-stream/1";

/// The largest body of a call or an answer, in bytes. The largest ones are snapshots of the replicated state.
pub const MAX_BODY: usize = 64 << 20;

/// The longest preface of a stream, in bytes, its line feed included.
pub const MAX_PREFACE: usize = 8 << 10;
