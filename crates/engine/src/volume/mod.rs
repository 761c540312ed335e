//! Any database: how one that trine does not know is described, and what is started from that.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | `[database]` of trine.toml as it is written, and the rules that it must keep |
//! | `template.rs` | text with placeholders |
//! | `preset.rs`, `presets/` | descriptions that come along: the same tables, in short files |
//! | `spec.rs` | all of that on one node: programs, arguments, files, checks |
//! | `resolve.rs`, `place.rs` | how it is resolved, and what the placeholders are there |
//! | `program.rs` | where programs are |
//! | `run.rs` | runs a program to its end, within a deadline; makes the first data |
//! | `checks.rs` | does it answer? |
//! | `container/` | what is different in a container |
//! | `engine.rs` | the [`crate::Engine`]: the volume's copy, and the database where it is the primary's |
//! | `site.rs` | its state: what is open, and how it is opened, sealed and taken down |
//! | `leading.rs`, `standby.rs`, `look.rs` | what it does as a primary, as a standby; what can be seen of it |
//! | `following.rs`, `serving.rs` | a standby's side, and the primary's |
//! | `verifying.rs` | the copies compared with each other, by the primary |
//! | `paths.rs` | the folders |
//! | `process.rs` | its processes: started under a guard, asked, stopped |

mod checks;
mod container;
mod engine;
mod following;
mod leading;
mod look;
mod paths;
mod place;
mod preset;
mod process;
mod program;
mod resolve;
mod run;
mod serving;
mod site;
mod spec;
mod standby;
mod table;
mod template;
mod verifying;

pub use checks::CheckError;
pub use container::{ContainerError, ContainerSpec, end_containers};
pub use engine::{VolumeConfig, VolumeEngine};
pub use place::Place;
pub use preset::{PRESETS, preset};
pub use process::Instance;
pub use spec::{Check, DatabaseSpec, Health, How, Listen, Program, Ready, Stop};
pub use table::{Bind, Database, DatabaseTable, Part, Pull, Registry, Wrong};

#[cfg(test)]
mod tests;
