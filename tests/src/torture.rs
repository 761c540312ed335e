//! Torture: random faults from a seed on a real cluster under load, for as long as one likes, and a check that is exact.
//!
//! A [`Plan`](plan::Plan) says what happens, in which order, to which role, and for how long. [`faults`] does it and makes it
//! good again, [`workload`] writes and reads meanwhile, [`history`] decides whether one database that loses nothing could have
//! answered so, [`run`] leads all of it, and [`report`] and [`picture`] tell what it cost. Which database it is makes little
//! difference: [`engine`] has it all, [`session`] how each is asked, [`verify`] its own check of its data.

pub mod engine;
pub mod faults;
pub mod history;
pub mod kind;
pub mod orders;
pub mod picture;
pub mod plan;
pub mod record;
pub mod report;
pub mod run;
pub mod session;
pub mod verify;
pub mod workload;

pub use engine::Engine;
pub use kind::{Kind, Role};
pub use plan::{Plan, Planned, Step};
pub use record::{Record, Struck};
pub use run::{Limits, run};
