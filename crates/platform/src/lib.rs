//! The machine under the agent: its clock, its network, its disk, its threads. Everything above takes what it needs of them,
//! so that the same agent runs on a real machine and in a simulator.

mod aside;
mod blocking;
mod clock;
mod disk;
mod network;
mod plain;
mod priority;
mod relays;

pub use aside::{LARGEST_LOG, put_aside};
pub use blocking::Blocking;
pub use clock::{BootClock, Clock};
pub use disk::{Disk, DiskError, FileDisk};
pub use network::{BoxStream, Listener, Network, Stream, TcpNetwork};
pub use plain::plain;
pub use priority::{Granted, Rank, rank_thread};
pub use relays::{MoveHere, Place, Relays};
