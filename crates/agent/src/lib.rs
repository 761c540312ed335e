//! The node's daemon: wires everything below it; one task for each duty.
