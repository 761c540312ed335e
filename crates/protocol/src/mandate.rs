//! What the node that an epoch elected does about it.

use crate::{Epoch, Position};

/// What this process of the elected node has come to.
///
/// A process: every start of a primary is a new epoch, so nothing of this may be taken over from the one before it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The epoch that it sealed last, and the position that it read then. Taken away by the promotion.
    pub sealed: Option<(Epoch, Option<Position>)>,
    /// The epoch that it was promoted in.
    pub leading: Option<Epoch>,
    /// The epoch that it has given up or left, and has told so.
    pub over: Option<Epoch>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mandate {
    /// Nothing: the controller has been told, and begins another epoch.
    Over,
    /// Promote.
    Promote,
    /// Lead: it is promoted.
    Lead,
    /// Stop cleanly, and hand over.
    Leave,
    /// End, and tell why: another epoch has to begin.
    GiveUp(String),
}

/// What a node does that was elected in `epoch` with the data up to `least`; `leave`: it is to hand over.
#[must_use]
pub fn mandate(epoch: Epoch, least: Position, leave: bool, standing: Standing) -> Mandate {
    if standing.over == Some(epoch) {
        return Mandate::Over;
    }
    if standing.leading == Some(epoch) {
        return if leave { Mandate::Leave } else { Mandate::Lead };
    }
    match standing.sealed {
        // One that is to leave has led, so it was another process that did.
        Some((sealed, Some(has))) if sealed == epoch && !leave => {
            if has >= least {
                return Mandate::Promote;
            }
            // It told its position, restarted and sealed anew; an end that was not on disk is gone.
            Mandate::GiveUp(format!("it was elected with the data up to {least}, and has it up to {has} now"))
        }
        // It was elected on a position that this process has not read.
        _ => Mandate::GiveUp("it has restarted since it was elected".to_owned()),
    }
}
