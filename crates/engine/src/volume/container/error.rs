//! What can be wrong with a container.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A database's container can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Nothing is there.
    #[error(
        "no container daemon: there is no socket at {tried}; start Docker or Podman, or name its socket in database.socket"
    )]
    NoSocket {
        /// The paths that were looked at.
        tried: String,
    },
    /// Something is there, and does not answer.
    #[error("the container daemon at {} does not answer: {why}; start it, or name another socket in database.socket", socket.display())]
    Silent {
        /// Which.
        socket: PathBuf,
        /// What was tried, and what came.
        why: String,
    },
    /// Its containers could not be ended by this agent.
    #[error(
        "the containers of {} are another user's, and only root could end them at any moment: start the agent as root, or \
         set database.socket to a daemon of its own user (rootless Podman or Docker)",
        socket.display()
    )]
    NotMine {
        /// Which.
        socket: PathBuf,
    },
    /// It is not said where the database listens.
    #[error(
        "database.port is not set: say on which port the database listens in the container, or use network = \"host\""
    )]
    NoPort,
    /// A mount hides the volume.
    #[error(
        "database.mounts: {} and the volume at {} are one within the other: what is written there would not be replicated; \
         use another path",
        mount.display(), data_path.display()
    )]
    OverTheVolume {
        /// The mount's path.
        mount: PathBuf,
        /// The volume's.
        data_path: PathBuf,
    },
    /// There is nothing to mount.
    #[error("database.mounts: there is no {}; make that folder, or correct the path", folder.display())]
    NoSource {
        /// What should be there.
        folder: PathBuf,
    },
    /// It may not be fetched.
    #[error(
        "database.image: {image} is not on this machine, and database.pull is \"never\": load it (docker load, docker pull), \
         or use pull = \"missing\""
    )]
    NoImage {
        /// Which.
        image: String,
    },
    /// It can't be fetched.
    #[error(
        "database.image: {image} can't be pulled: {why}; correct the name, set [database.registry], or load it yourself \
         (docker load)"
    )]
    Pull {
        /// Which.
        image: String,
        /// What the daemon says.
        why: String,
    },
    /// The registry would not know who asks.
    #[error("database.registry: {why}")]
    Credentials {
        /// What is wrong, and what to do.
        why: String,
    },
    /// Another program has the port.
    #[error("ports.database: {at} can't be used: {source}; stop the program that has it, or use another port")]
    Port {
        /// Where.
        at: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The daemon refuses.
    #[error("the container can't be created: {why}")]
    Create {
        /// What it says.
        why: String,
    },
    /// What is needed beside it can't be written.
    #[error("can't {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}
