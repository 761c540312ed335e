//! What a client asks for.

/// A client's packet, where it is not part of an authentication or of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// A command that is answered.
    Command(Command),
    /// One that is not.
    Unanswered,
    /// The client leaves.
    Quit,
    /// Another authentication.
    ChangeUser,
}

/// A command, by the form of its answer. An error may be the answer to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// OK packets and result sets.
    Query,
    /// The same; the rows may be left for [`Self::Fetch`].
    Execute,
    /// The definitions of a statement's parameters and columns.
    Prepare,
    /// Rows up to an EOF, with nothing before them.
    Rows,
    /// One packet of whatever kind.
    Text,
    /// One OK or EOF packet.
    Simple,
}

impl Request {
    /// `None`: a command that is not known, or after which there are no more commands: what follows can't be followed.
    pub(super) fn of(first: u8) -> Option<Self> {
        Some(match first {
            // COM_QUIT
            0x01 => Self::Quit,
            // COM_QUERY, COM_PROCESS_INFO
            0x03 | 0x0a => Self::Command(Command::Query),
            // COM_STMT_EXECUTE, MariaDB's COM_STMT_BULK_EXECUTE
            0x17 | 0xfa => Self::Command(Command::Execute),
            // COM_STMT_PREPARE
            0x16 => Self::Command(Command::Prepare),
            // COM_FIELD_LIST, COM_STMT_FETCH
            0x04 | 0x1c => Self::Command(Command::Rows),
            // COM_STATISTICS
            0x09 => Self::Command(Command::Text),
            // COM_INIT_DB, COM_CREATE_DB, COM_DROP_DB, COM_REFRESH, COM_SHUTDOWN, COM_PROCESS_KILL, COM_DEBUG, COM_PING,
            // COM_STMT_RESET, COM_SET_OPTION, COM_RESET_CONNECTION
            0x02 | 0x05..=0x08 | 0x0c..=0x0e | 0x1a | 0x1b | 0x1f => Self::Command(Command::Simple),
            // COM_CHANGE_USER
            0x11 => Self::ChangeUser,
            // COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE
            0x18 | 0x19 => Self::Unanswered,
            // The commands of a replica are among the others.
            _ => return None,
        })
    }
}
