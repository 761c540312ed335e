//! The HTTP API: status, events, requests; server and client.
