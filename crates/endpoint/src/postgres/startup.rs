//! How a PostgreSQL session begins, up to the startup packet.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Conn;
use crate::conn::{Replay, accept_tls};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// PostgreSQL's own `MAX_STARTUP_PACKET_LENGTH`.
const MAX_STARTUP: usize = 10_000;
/// A cancel request: header, process, and a key of 4 bytes (up to 256 from protocol 3.2 on).
const MAX_CANCEL: usize = 12 + 256;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// What a client wants.
#[derive(Debug)]
pub(crate) enum Opening {
    /// A session; its startup packet is to be sent to the database as it is.
    Session(Vec<u8>),
    /// To cancel what another session does.
    Cancel(Vec<u8>),
}

/// The first bytes were no PostgreSQL client's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    /// It went away, maybe a health check.
    #[error("the client went away before it had sent its startup packet")]
    Gone(#[source] io::Error),
    /// It speaks another protocol.
    #[error("this is no PostgreSQL startup packet (first bytes {0:02x?})")]
    Garbage([u8; 8]),
    /// Too long.
    #[error("a startup packet of {0} bytes; PostgreSQL takes at most {MAX_STARTUP}")]
    TooLong(usize),
    /// A version that is no longer spoken.
    #[error("the client speaks protocol {0}.{1}; version 3 is needed")]
    Version(u32, u32),
    /// Encryption was asked for again, inside the encryption.
    #[error("the client asked twice for encryption")]
    Twice,
    /// TLS failed.
    #[error("no TLS session with the client")]
    Tls(#[source] io::Error),
    /// TLS begun without being asked for.
    #[error("the client began TLS by itself, {0}")]
    DirectTls(&'static str),
}

/// Answers requests for encryption, until the client says what it wants; gives the connection back as it then is.
///
/// # Errors
/// [`StartupError`]. The caller sets the deadline; what is read is bounded, and exactly what belongs to the startup.
pub(crate) async fn open(
    mut conn: Conn,
    tls: Option<&Arc<rustls::ServerConfig>>,
) -> Result<(Conn, Opening), StartupError> {
    let (mut encrypted, mut asked_gss, mut asked_ssl) = (false, false, false);
    loop {
        let head = read_head(&mut conn).await?;
        if head.first() == Some(&TLS_HANDSHAKE) && !encrypted {
            let config = tls.ok_or(StartupError::DirectTls("but this endpoint has no certificate for clients"))?;
            conn = accept_tls(Replay::new(head.to_vec(), conn), config).await.map_err(StartupError::Tls)?;
            // As PostgreSQL does: else a client of another protocol could be led here.
            if !matches!(&conn, Conn::Tls(s) if s.get_ref().1.alpn_protocol() == Some(b"postgresql")) {
                return Err(StartupError::DirectTls("without naming its protocol (ALPN)"));
            }
            encrypted = true;
            continue;
        }
        match code(&head) {
            (8, SSL_REQUEST) => {
                if encrypted || asked_ssl {
                    return Err(StartupError::Twice);
                }
                asked_ssl = true;
                match tls {
                    Some(config) => {
                        answer(&mut conn, b"S").await?;
                        conn = accept_tls(Replay::new(Vec::new(), conn), config).await.map_err(StartupError::Tls)?;
                        encrypted = true;
                    }
                    None => answer(&mut conn, b"N").await?,
                }
            }
            (8, GSSENC_REQUEST) => {
                if encrypted || asked_gss {
                    return Err(StartupError::Twice);
                }
                asked_gss = true;
                answer(&mut conn, b"N").await?;
            }
            _ => {
                let opening = read_rest(&mut conn, head).await?;
                return Ok((conn, opening));
            }
        }
    }
}

async fn read_head(conn: &mut Conn) -> Result<[u8; 8], StartupError> {
    let mut head = [0; 8];
    conn.read_exact(&mut head).await.map_err(StartupError::Gone)?;
    Ok(head)
}

async fn read_rest(conn: &mut Conn, head: [u8; 8]) -> Result<Opening, StartupError> {
    let (len, code) = code(&head);
    let most = match code {
        CANCEL_REQUEST => MAX_CANCEL,
        _ if code >> 16 == 3 => MAX_STARTUP,
        // Protocol 2 had the same header; anything else is another protocol.
        _ if code >> 16 < 3 && code >> 16 > 0 && len <= MAX_STARTUP => {
            return Err(StartupError::Version(code >> 16, code & 0xffff));
        }
        _ => return Err(StartupError::Garbage(head)),
    };
    if len < 9 || (code == CANCEL_REQUEST && len < 16) {
        return Err(StartupError::Garbage(head));
    }
    if len > most {
        return Err(StartupError::TooLong(len));
    }
    let mut packet = vec![0; len];
    if let Some((first, rest)) = packet.split_first_chunk_mut() {
        *first = head;
        conn.read_exact(rest).await.map_err(StartupError::Gone)?;
    }
    Ok(if code == CANCEL_REQUEST { Opening::Cancel(packet) } else { Opening::Session(packet) })
}

fn code(head: &[u8; 8]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = *head;
    (usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX), u32::from_be_bytes([e, f, g, h]))
}

async fn answer(conn: &mut Conn, byte: &[u8]) -> Result<(), StartupError> {
    conn.write_all(byte).await.map_err(StartupError::Gone)?;
    conn.flush().await.map_err(StartupError::Gone)
}
