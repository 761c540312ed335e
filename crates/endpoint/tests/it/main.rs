//! Endpoints over real sockets, between scripted clients and databases (byte for byte), and before a real PostgreSQL and
//! MariaDB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bed;
mod drain;
mod ending;
mod hold;
mod mariadb;
mod mysql;
mod postgres;
mod reader;
mod startup;
mod stream;
mod sync_cancel;
