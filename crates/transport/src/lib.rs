//! Mutual TLS between the nodes: certificates, calls and streams.
