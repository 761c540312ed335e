//! What a database must be able to do, PostgreSQL, and the guard.
