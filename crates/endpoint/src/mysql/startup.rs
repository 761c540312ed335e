//! How a MySQL session begins whose encryption is the endpoint's own, up to the first bytes of the client's response.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::capabilities::Capabilities;
use crate::Conn;
use crate::conn::{Replay, accept_tls};

/// Greetings have about a hundred bytes, errors up to 521.
const MOST_GREETING: usize = 1024;
/// The part of a response that all have: flags, largest packet, character set, and 23 bytes of no use. A request for TLS is
/// this and nothing more.
const RESPONSE: usize = 32;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    /// The client went away, maybe a health check.
    #[error("the client went away before it had sent its response")]
    Gone(#[source] io::Error),
    /// The client speaks another protocol.
    #[error("this is no response to MySQL's greeting ({0} bytes)")]
    Garbage(usize),
    /// TLS failed.
    #[error("no TLS session with the client")]
    Tls(#[source] io::Error),
}

/// What a client wants first.
#[derive(Debug)]
pub(crate) enum First {
    /// A session; these are the first bytes of its response.
    Response(Vec<u8>),
    /// To go on with TLS.
    Tls,
}

/// Reads a server's first packet: its greeting, or an error.
///
/// # Errors
/// The connection broke, or this is no MySQL server.
pub(crate) async fn greeting(server: &mut Conn) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    server.read_exact(&mut packet).await?;
    let length = length(&packet);
    if length > MOST_GREETING {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the database is no MySQL server"));
    }
    packet.resize(4 + length, 0);
    server.read_exact(packet.get_mut(4..).unwrap_or_default()).await?;
    Ok(packet)
}

/// Makes a greeting offer TLS. False: it is none.
pub(crate) fn offer_tls(greeting: &mut [u8]) -> bool {
    greeting.get_mut(4..).and_then(Capabilities::ssl_offer).map(|byte| *byte |= Capabilities::SSL_BIT).is_some()
}

/// Sends a client its greeting, and reads what it wants: no more than belongs to it.
///
/// # Errors
/// [`StartupError`]. The caller sets the deadline.
pub(crate) async fn greet(client: &mut Conn, greeting: &[u8]) -> Result<First, StartupError> {
    client.write_all(greeting).await.map_err(StartupError::Gone)?;
    client.flush().await.map_err(StartupError::Gone)?;
    let head = response(client).await?;
    let asks = head.get(5).is_some_and(|byte| byte & Capabilities::SSL_BIT != 0);
    match length(&head) {
        RESPONSE if asks => Ok(First::Tls),
        length if asks => Err(StartupError::Garbage(length)),
        _ => Ok(First::Response(head)),
    }
}

/// Goes on with TLS. The first bytes of the response are given back as they are to go to a server that knows nothing of it,
/// but with the client's number.
///
/// # Errors
/// [`StartupError`]. The caller sets the deadline.
pub(crate) async fn encrypt(client: Conn, tls: &Arc<rustls::ServerConfig>) -> Result<(Conn, Vec<u8>), StartupError> {
    let mut client = accept_tls(Replay::new(Vec::new(), client), tls).await.map_err(StartupError::Tls)?;
    let mut head = response(&mut client).await?;
    match length(&head) {
        length if length <= RESPONSE => Err(StartupError::Garbage(length)),
        _ => {
            if let Some(byte) = head.get_mut(5) {
                *byte &= !Capabilities::SSL_BIT;
            }
            Ok((client, head))
        }
    }
}

/// The header of the client's next packet, and as much of the packet as all responses have.
async fn response(client: &mut Conn) -> Result<Vec<u8>, StartupError> {
    let mut head = vec![0; 4];
    client.read_exact(&mut head).await.map_err(StartupError::Gone)?;
    head.resize(4 + length(&head).min(RESPONSE), 0);
    client.read_exact(head.get_mut(4..).unwrap_or_default()).await.map_err(StartupError::Gone)?;
    Ok(head)
}

fn length(packet: &[u8]) -> usize {
    match packet {
        &[a, b, c, ..] => usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16,
        _ => 0,
    }
}
