//! The writer and reader TCP endpoints.
