//! The log, from the node that writes it to one that takes it, over any stream of bytes.

mod copy;
mod follow;
mod frame;
mod serve;

pub use copy::{BLOCK, Copied, Taken, give, take};
pub use follow::{FollowError, follow};
pub use frame::Refusal;
pub use serve::serve;
