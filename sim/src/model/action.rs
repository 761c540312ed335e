//! What can happen.

use std::fmt;

use super::{Message, Proposal, Rule};

/// One thing that happens. Nodes are numbers, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A node sees one command more.
    See(usize),
    /// Its agent takes a step towards its goal.
    Step(usize),
    /// It tells the controller how far its seal has come.
    Tell(usize),
    /// What was proposed is committed.
    Commit(Proposal),
    /// The next epoch begins.
    Begin,
    /// A person asks for a failover and accepts that data may be lost.
    Gamble,
    /// The controller elects by what it was told; among equals, this node.
    Elect(usize),
    /// The same without this node's copy.
    ElectWithout(usize, usize),
    /// The sync rule is to change.
    ChangeRule(Rule),
    /// The primary is to leave, to this node.
    Leave(usize),
    /// A person wants this node's copy made anew.
    Rebuild(usize),
    /// A client writes at this node.
    Write(usize),
    /// The next entry reaches this standby.
    Receive(usize),
    /// It has all that it received on disk, and says so.
    Flush(usize),
    /// The machine goes down; what was not flushed may be there afterwards, or not.
    Crash(usize, bool),
    /// Its agent starts. It may see less of the replicated state than it has seen.
    Start(usize, bool),
    /// The agent ends and starts again; its database goes on.
    RestartAgent(usize),
    /// The database ends; its agent goes on.
    StopDatabase(usize),
    /// The copy is gone.
    Lose(usize),
    /// Half of the copy is gone.
    Tear(usize),
    /// The machine has lost all that it ever wrote.
    Wipe(usize),
    /// The primary's node asks all for its lease.
    Renew(usize),
    /// A message about a lease arrives.
    Deliver(Message),
    /// Time passes until somewhere a lease ends.
    WaitForDeadline,
    /// Half of a lease passes.
    WaitHalf,
}

/// For people, who count nodes from 1.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |i: &usize| format!("n{}", i + 1);
        match self {
            Self::See(i) => write!(f, "{} sees one command more", n(i)),
            Self::Step(i) => write!(f, "{}'s agent takes a step", n(i)),
            Self::Tell(i) => write!(f, "{} tells its seal", n(i)),
            Self::Commit(p) => write!(f, "committed: {p:?}"),
            Self::Begin => f.write_str("an epoch begins: the primary is suspected"),
            Self::Gamble => f.write_str("an epoch begins: a person accepts loss"),
            Self::ElectWithout(i, out) => {
                write!(f, "the controller elects ({} among equals), and leaves {} out", n(i), n(out))
            }
            Self::Elect(i) => write!(f, "the controller elects ({} among equals)", n(i)),
            Self::ChangeRule(rule) => write!(f, "the sync rule is to change: {rule:?}"),
            Self::Leave(i) => write!(f, "a switchover to {} starts", n(i)),
            Self::Rebuild(i) => write!(f, "a person asks for a rebuild of {}", n(i)),
            Self::Write(i) => write!(f, "a client writes at {}", n(i)),
            Self::Receive(i) => write!(f, "{} receives an entry", n(i)),
            Self::Flush(i) => write!(f, "{} flushes, and says so", n(i)),
            Self::Crash(i, false) => write!(f, "{} crashes, what was not flushed is gone", n(i)),
            Self::Crash(i, true) => write!(f, "{} crashes, what was not flushed is there", n(i)),
            Self::Start(i, false) => write!(f, "{} starts", n(i)),
            Self::Start(i, true) => write!(f, "{} starts, with an older view", n(i)),
            Self::RestartAgent(i) => write!(f, "{}'s agent starts anew", n(i)),
            Self::StopDatabase(i) => write!(f, "{}'s database ends", n(i)),
            Self::Lose(i) => write!(f, "{} loses its copy", n(i)),
            Self::Tear(i) => write!(f, "{} loses half of its copy", n(i)),
            Self::Wipe(i) => write!(f, "{} loses all that it ever wrote", n(i)),
            Self::Renew(i) => write!(f, "{} asks for its lease", n(i)),
            Self::Deliver(message) => write!(f, "arrives: {message:?}"),
            Self::WaitForDeadline => f.write_str("time passes, to the end of a lease somewhere"),
            Self::WaitHalf => f.write_str("time passes, half a lease"),
        }
    }
}
