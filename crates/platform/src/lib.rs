//! The machine under the agent: its clock, its network, its disk. Everything above takes these traits, so that the same
//! agent runs on a real machine and in a simulator.

mod aside;
mod clock;
mod disk;
mod network;
mod plain;

pub use aside::{LARGEST_LOG, put_aside};
pub use clock::{BootClock, Clock};
pub use disk::{Disk, DiskError, FileDisk};
pub use network::{BoxStream, Listener, Network, Stream, TcpNetwork};
pub use plain::plain;
