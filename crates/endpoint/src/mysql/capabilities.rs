//! What client and server have agreed on.

/// Capability flags: those of MySQL in the lower half, MariaDB's own in the upper one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    /// Set by all but those who speak MariaDB's extensions, who use the upper half.
    const CLIENT_MYSQL: u64 = 1;
    /// All that is sent after the authentication is compressed.
    const CLIENT_COMPRESS: u64 = 1 << 5;
    /// The protocol since MySQL 4.1.
    const CLIENT_PROTOCOL_41: u64 = 1 << 9;
    /// TLS begins after a first short response.
    const CLIENT_SSL: u64 = 1 << 11;
    /// No EOF packets, and OK packets where one ended the rows.
    const CLIENT_DEPRECATE_EOF: u64 = 1 << 24;
    /// MySQL may leave column definitions out.
    const CLIENT_OPTIONAL_RESULTSET_METADATA: u64 = 1 << 25;
    /// Compressed by zstd.
    const CLIENT_ZSTD_COMPRESSION_ALGORITHM: u64 = 1 << 26;
    /// MariaDB may leave column definitions out.
    const MARIADB_CLIENT_CACHE_METADATA: u64 = 1 << 36;

    /// With one of these the packets after the authentication are hidden, or have a form that is not known here.
    const NOT_FOLLOWED: u64 =
        Self::CLIENT_COMPRESS | Self::CLIENT_OPTIONAL_RESULTSET_METADATA | Self::CLIENT_ZSTD_COMPRESSION_ALGORITHM;

    /// [`Self::CLIENT_SSL`] in the second byte of the flags.
    pub(super) const SSL_BIT: u8 = 1 << 3;

    /// The byte of a greeting with that bit. `None`: it is not the greeting of protocol 10.
    pub(super) fn ssl_offer(greeting: &mut [u8]) -> Option<&mut u8> {
        Self::offered(greeting)?;
        let version = memchr::memchr(0, greeting)?;
        greeting.get_mut(version + 1 + 13 + 1)
    }

    /// What a server's greeting offers. `None`: it is not the greeting of protocol 10.
    pub(super) fn offered(greeting: &[u8]) -> Option<Self> {
        let (&10, rest) = greeting.split_first()? else { return None };
        let rest = rest.get(memchr::memchr(0, rest)? + 1..)?;
        // Thread, first part of the scramble, a zero; then flags, character set, status, flags, length of the scramble.
        let &[a, b, _, _, _, c, d, _] = rest.get(13..)?.first_chunk()?;
        let low = u64::from(u32::from_le_bytes([a, b, c, d]));
        Some(Self(low | Self::extended(low, rest.get(13 + 8 + 6..))?))
    }

    /// What a client takes of it, in its response. `None`: the session can't be followed any further.
    pub(super) fn taken(self, response: &[u8]) -> Option<Self> {
        let low = u64::from(u32::from_le_bytes(*response.first_chunk()?));
        // Largest packet, character set, and 19 bytes of no use.
        let both = self.0 & (low | Self::extended(low, response.get(28..))?);
        (both & Self::CLIENT_PROTOCOL_41 != 0 && both & Self::CLIENT_SSL == 0).then_some(Self(both))
    }

    fn extended(low: u64, at: Option<&[u8]>) -> Option<u64> {
        if low & Self::CLIENT_MYSQL != 0 {
            return Some(0);
        }
        Some(u64::from(u32::from_le_bytes(*at?.first_chunk()?)) << 32)
    }

    /// Can the packets after the authentication be followed?
    pub(super) fn can_be_followed(self) -> bool {
        self.0 & Self::NOT_FOLLOWED == 0
    }

    /// Are there no EOF packets?
    pub(super) fn deprecate_eof(self) -> bool {
        self.0 & Self::CLIENT_DEPRECATE_EOF != 0
    }

    /// Does a column count say whether definitions follow?
    pub(super) fn cache_metadata(self) -> bool {
        self.0 & Self::MARIADB_CLIENT_CACHE_METADATA != 0
    }
}
