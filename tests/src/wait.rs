//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until there is a result, and returns it.
///
/// # Panics
/// After `limit`, saying what was waited for and why the last look was in vain.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(result) => return result,
            Err(why) if start.elapsed() >= limit => panic!("not after {limit:?}: {what}; {why}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
