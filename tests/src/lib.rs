//! Tests on real processes: clusters, networks, faults, a writer that logs what was acknowledged.
