//! Replicas in one thread: a cluster whose messages, clocks, disks and crashes are in the test's hands.
//!
//! `cluster` is the harness, `check` says what must hold at every moment and at the end, `commands` runs the
//! scripts in `testscripts/replica`, `schedule` draws whole runs from a seed, `crashes` stops a replica at every
//! step of a commit, `damage` flips bits of its log. The engine draws its election timeout from the operating system's randomness, so no backup is
//! ever ticked by count: it is ticked until it campaigns, and how many ticks that took changes nothing.

// A test binary has no outside, may give up anywhere, and prints for whoever replays a seed.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod check;
mod cluster;
mod commands;
mod crashes;
mod damage;
mod disk;
mod machine;
mod schedule;
mod wire;
