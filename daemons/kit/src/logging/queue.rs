//! The bounded queue between those who log and the one thread that writes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Logged;

/// Lines that wait to be written; at it further ones are dropped. At 200 bytes a line less than a megabyte.
pub(super) const LINES_MAX: usize = 4_096;

enum Message {
    Line(Vec<u8>),
    /// Asks to be told when everything before is written.
    Flush(Sender<()>),
}

/// Where lines go in. Never blocks, but for `flush`.
pub(super) struct Lines {
    queue: Sender<Message>,
    counts: Arc<Counts>,
    notice: Notice,
}

type Notice = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

#[derive(Default)]
struct Counts {
    lines: AtomicU64,
    dropped: AtomicU64,
    /// Dropped lines that nobody was told of yet.
    untold: AtomicU64,
}

impl Counts {
    /// What nobody was told of, which the caller tells now.
    fn to_tell(&self) -> Option<u64> {
        if self.untold.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.untold.swap(0, Ordering::Relaxed)).filter(|untold| *untold > 0)
    }
}

impl Lines {
    /// A queue whose lines go to `sink`, from a thread of its own. `notice` makes the line that says how many were
    /// dropped.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub(super) fn to(
        sink: impl Write + Send + 'static,
        notice: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
    ) -> Lines {
        let (queue, messages) = bounded(LINES_MAX);
        let (counts, notice): (Arc<Counts>, Notice) = (Arc::default(), Arc::new(notice));
        let lines = Lines { queue, counts: counts.clone(), notice: notice.clone() };
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write(sink, &messages, &counts, &notice));
        drop(thread.expect("the operating system gives a daemon its few threads"));
        lines
    }

    /// Queues a line, or drops it.
    pub(super) fn put(&self, line: Vec<u8>) {
        // Between the lines that were queued before and those that come after.
        if let Some(untold) = self.counts.to_tell()
            && self.queue.try_send(Message::Line((self.notice)(untold))).is_err()
        {
            self.counts.untold.fetch_add(untold, Ordering::Relaxed);
        }
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => self.counts.lines.fetch_add(1, Ordering::Relaxed),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.untold.fetch_add(1, Ordering::Relaxed);
                self.counts.dropped.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    /// Waits until everything queued before is written; false if that takes longer than `limit`. Blocks.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, written) = bounded(1);
        let end = Instant::now() + limit;
        self.queue.send_deadline(Message::Flush(done), end).is_ok() && written.recv_deadline(end).is_ok()
    }

    pub(super) fn logged(&self) -> Logged {
        Logged {
            lines: self.counts.lines.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }
}

/// The thread. A sink that cannot be written to any more is no reason to end a daemon: its lines are lost.
fn write(mut sink: impl Write, messages: &Receiver<Message>, counts: &Counts, notice: &Notice) {
    for message in messages {
        match message {
            Message::Line(line) => {
                let _ = sink.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = sink.flush();
                let _ = done.send(());
            }
        }
        if messages.is_empty()
            && let Some(untold) = counts.to_tell()
        {
            let _ = sink.write_all(&notice(untold));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    fn notice(dropped: u64) -> Vec<u8> {
        format!("dropped {dropped}\n").into_bytes()
    }

    /// A pipe takes 64 KiB before its writer blocks; the queue takes the next lines, and the rest is dropped. Who logs
    /// goes on in any case, or this test never ends.
    #[test]
    fn nobody_reads_and_those_who_log_go_on() {
        const LINES: u64 = 20_000;
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::to(writer, notice);
        for number in 0..LINES {
            lines.put(format!("{number:099}\n").into_bytes());
        }
        assert!(!lines.flush(Duration::from_millis(10)), "nobody reads, so it cannot be written");
        let logged = lines.logged();
        assert_eq!(logged.lines + logged.dropped, LINES);
        assert!(logged.dropped > LINES / 2, "{logged:?}");

        // Somebody reads again: everything that was queued comes, in order, and what is missing is said.
        let (mut numbers, mut dropped) = (Vec::new(), 0);
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            match line.strip_prefix("dropped ") {
                Some(count) => dropped += count.parse::<u64>().unwrap(),
                None => numbers.push(line.parse::<u64>().unwrap()),
            }
            if numbers.len() as u64 + dropped == LINES {
                break;
            }
        }
        assert_eq!(dropped, logged.dropped);
        assert!(numbers.is_sorted());
    }

    #[test]
    fn what_was_queued_is_written_when_it_is_flushed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::to(writer, notice);
        (0..100).for_each(|number: u8| lines.put(vec![number]));
        assert!(lines.flush(Duration::from_secs(60)));
        let mut read = [0; 100];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read.to_vec(), (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_sink_that_is_closed_ends_nothing() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let lines = Lines::to(writer, notice);
        lines.put(b"lost\n".to_vec());
        assert!(lines.flush(Duration::from_secs(60)));
    }
}
