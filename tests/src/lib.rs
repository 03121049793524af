//! The harness of the tests: a whole store of real daemons on this machine, to be used, loaded, killed and audited.
//!
//! `Store` starts the daemons and waits until they take orders; `Daemon` is one of them, with its process and its
//! API; `Load` buys from many threads and remembers what was acknowledged; `audit` compares that with what the
//! store says of itself. `Traffic` reads and writes through all front ends and replicas and writes down a `History`,
//! which can be checked for linearizability; an `ordeal` is that while daemons are killed and paused. Everything a test
//! waits for is a condition with a limit (`wait`); nothing sleeps and hopes.
//!
//! Nothing here outlives the test process: daemons are tied to it (`--die-with`), also when it is killed.

pub mod audit;
pub mod bulk;
pub mod client;
pub mod connection;
pub mod daemon;
pub mod disks;
pub mod fuzz;
pub mod history;
pub mod load;
pub mod ordeal;
pub mod platter;
pub mod ports;
pub mod power_disk;
pub mod scratch;
pub mod store;
pub mod traffic;
pub mod trio;
pub mod wait;
pub mod wire;
