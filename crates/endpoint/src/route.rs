//! Where an endpoint leads.

use std::fmt;

use trine_protocol::{Epoch, NodeName};

/// Which of a node's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Leads to the primary.
    Writer,
    /// Leads to the standbys.
    Reader,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
        })
    }
}

/// What the bytes of a session mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// PostgreSQL's protocol 3: sessions are ended by server messages, and held between transactions in a switchover.
    Postgres,
    /// The client/server protocol of MySQL and MariaDB: the same, for as long as it can be followed. One that is encrypted or
    /// compressed between the client and the database, or that a replica copies through, goes on as a raw one.
    MySql,
    /// Anything else: passed on as it is; a session ends by being closed.
    Raw,
}

/// One database that a session can be led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The one on this node.
    Local,
    /// The one on another node.
    Remote(NodeName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this node"),
            Self::Remote(node) => node.fmt(f),
        }
    }
}

/// Where new connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// Nowhere yet: they are held.
    Hold {
        /// Why, for the client that has waited too long.
        why: String,
    },
    /// To one of these. The writer's list has one entry; the reader's sessions are spread over all. An empty list holds.
    To(Vec<Target>),
}

/// What the agent tells an endpoint.
///
/// A writer's sessions end when `epoch`, `generation` or the target is another than when they began; a reader's when
/// `generation` is, or their target is no longer in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The epoch whose primary the writer leads to; handed to the [`Dialer`](crate::Dialer).
    pub epoch: Epoch,
    /// Raise it to end all sessions though everything else stays as it is. A `watch` channel keeps the newest value only:
    /// going to `Hold` and back at once may be seen by nobody, a new generation is always seen.
    pub generation: u64,
    /// Where to.
    pub leads: Leads,
    /// Pause: sessions between two transactions are read no more, new connections are held, the rest goes on until it is
    /// between two transactions too ([`Endpoint::busy`](crate::Endpoint::busy) counts those left).
    pub drain: bool,
}

impl Route {
    /// Nowhere: connections are held.
    #[must_use]
    pub fn hold(epoch: Epoch, why: impl Into<String>) -> Self {
        Self { epoch, generation: 0, leads: Leads::Hold { why: why.into() }, drain: false }
    }

    /// To the database on this node.
    #[must_use]
    pub fn local(epoch: Epoch) -> Self {
        Self::to(epoch, vec![Target::Local])
    }

    /// To the database on another node.
    #[must_use]
    pub fn remote(epoch: Epoch, node: NodeName) -> Self {
        Self::to(epoch, vec![Target::Remote(node)])
    }

    /// Spread over these.
    #[must_use]
    pub fn to(epoch: Epoch, targets: Vec<Target>) -> Self {
        Self { epoch, generation: 0, leads: Leads::To(targets), drain: false }
    }

    /// The same, paused or not.
    #[must_use]
    pub fn draining(mut self, drain: bool) -> Self {
        self.drain = drain;
        self
    }

    /// The same in another generation.
    #[must_use]
    pub fn in_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// The databases that a new connection may be led to now.
    pub(crate) fn open_targets(&self) -> &[Target] {
        match &self.leads {
            Leads::To(targets) if !self.drain => targets,
            _ => &[],
        }
    }

    /// Why a new connection has to wait, in words.
    pub(crate) fn why_held(&self, kind: Kind) -> String {
        match (&self.leads, kind) {
            (Leads::Hold { why }, _) => why.clone(),
            (Leads::To(_), _) if self.drain => "a switchover is under way".to_owned(),
            (Leads::To(_), Kind::Writer) => "no primary is known".to_owned(),
            (Leads::To(_), Kind::Reader) => "no healthy standby is known".to_owned(),
        }
    }

    /// May a session that began under `then` with `target` go on?
    pub(crate) fn keeps(&self, kind: Kind, then: &Self, target: &Target) -> bool {
        let listed = matches!(&self.leads, Leads::To(targets) if targets.contains(target));
        listed && self.generation == then.generation && (kind == Kind::Reader || self.epoch == then.epoch)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leads {
            Leads::Hold { why } => write!(f, "nowhere ({why})"),
            Leads::To(targets) => {
                for (i, t) in targets.iter().enumerate() {
                    write!(f, "{}{t}", if i == 0 { "" } else { ", " })?;
                }
                if self.drain { f.write_str(" (paused)") } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(name: &str) -> Target {
        Target::Remote(name.parse().unwrap())
    }

    #[test]
    fn a_writer_session_lives_as_long_as_its_epoch_and_target() {
        let then = Route::local(Epoch(3));
        assert!(Route::local(Epoch(3)).keeps(Kind::Writer, &then, &Target::Local));
        assert!(Route::local(Epoch(3)).draining(true).keeps(Kind::Writer, &then, &Target::Local));
        assert!(!Route::local(Epoch(4)).keeps(Kind::Writer, &then, &Target::Local));
        assert!(!Route::local(Epoch(3)).in_generation(1).keeps(Kind::Writer, &then, &Target::Local));
        assert!(!Route::hold(Epoch(3), "lease").keeps(Kind::Writer, &then, &Target::Local));
        assert!(!Route::to(Epoch(3), vec![n("n2")]).keeps(Kind::Writer, &then, &Target::Local));
    }

    #[test]
    fn a_reader_session_lives_as_long_as_its_standby_is_listed() {
        let then = Route::to(Epoch(3), vec![Target::Local, n("n2")]);
        assert!(Route::to(Epoch(4), vec![n("n2")]).keeps(Kind::Reader, &then, &n("n2")));
        assert!(!Route::to(Epoch(3), vec![Target::Local]).keeps(Kind::Reader, &then, &n("n2")));
    }
}
