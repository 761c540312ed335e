//! The HTTP API: status, events, requests; server and client.
//!
//! | what | who may |
//! |---|---|
//! | `GET /healthz` | anybody: the agent runs |
//! | `GET /v1/status` | the machine itself; others with the token |
//! | `GET /v1/events?after=N&wait=1` | the machine itself; others with the token |
//! | `GET /v1/endpoints` | with the token: there are passwords in it |
//! | `GET /v1/doctor` | with the token: the databases are asked, and tables are named |
//! | `POST /v1/request` | with the token |
//!
//! Everything is JSON. What is refused answers `{"code": "failed|wrong_use|unsafe|unauthorized", "message": "…"}`.

mod client;
mod control;
pub mod drill;
mod findings;
mod server;
mod tls;
mod types;

pub use client::{Client, ClientError, api_url};
pub use control::Control;
pub use findings::{Finding, Findings, Severity};
pub use server::{Server, ServerConfig, tls_unless_loopback};
pub use types::{
    Accepted, Endpoints, EventView, Events, Health, LossEstimate, NodeState, NodeStatus, Progress, Refused,
    RefusedCode, Request, RequestState, RequestStatus, Role, Status, SyncStatus, Uris, Verification,
};
