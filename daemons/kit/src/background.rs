//! Work that nobody waits for: how far it stands back where others want the processor.
#![allow(unsafe_code)] // sched_setscheduler(2), which no crate of ours wraps

/// Niceness as far back as there is.
const NICE: i32 = 19;

/// Gives the calling thread of a daemon, one that reads everything it keeps, the lowest priority among others. It is not put
/// into `SCHED_IDLE`: it shares locks of the process with threads that customers wait for. If the kernel refuses, the
/// thread is only less polite.
pub fn at_low_priority() {
    // On Linux this is the calling thread's.
    let _ = rustix::process::nice(NICE);
}

/// Puts the calling thread of a command, and those that it starts from now on, behind whoever else wants the processor:
/// scheduling class `SCHED_IDLE` (sched(7)), whose threads are preempted as soon as anybody wakes up, where a low priority
/// lets them finish their slice. Of what they share with a running daemon, LMDB's lock of its table of readers is held for a
/// moment only, when a transaction is opened. If the kernel refuses, the command is only less polite.
pub fn stand_back() {
    at_low_priority();
    // SAFETY: all its fields are numbers (musl has more of them than glibc), and the class takes only zeros.
    let class: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the call reads the structure, which outlives it; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const class) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stands_behind_everybody() {
        // A thread of its own: the class is the thread's, and there is no way back without privileges.
        let class = std::thread::spawn(|| {
            stand_back();
            let inherited = std::thread::spawn(|| unsafe { libc::sched_getscheduler(0) });
            (unsafe { libc::sched_getscheduler(0) }, inherited.join().unwrap())
        });
        assert_eq!(class.join().unwrap(), (libc::SCHED_IDLE, libc::SCHED_IDLE));
    }
}
