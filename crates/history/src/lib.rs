//! What clients saw, and whether one database that loses nothing could have answered so.
//!
//! A client notes when it asked, what it was told, and when. Two kinds of data are checked, because each shows something:
//! a *list*, to which values are only appended ([`list`]: nothing lost, nothing twice, nothing out of order, nothing seen that
//! was never there), and *registers* that are overwritten ([`register`]: each answer is the latest at some moment between
//! question and answer). Both checks are exact: they refuse what no such database can have said, and nothing else.
//!
//! Time is any clock that all clients share, in nanoseconds.

pub mod list;
mod operation;
pub mod register;

pub use operation::{Outcome, Span};
