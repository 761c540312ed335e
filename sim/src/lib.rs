//! Proof that nothing acknowledged is lost. docs/proof.md says what is shown, and what is assumed.
//!
//! [`model`] searches all that can happen to a small cluster, exhaustively, with the rules of `trine-protocol` themselves.
//! [`cluster`] runs real agents over simulated machines, seed after seed.

pub mod cluster;
pub mod model;
