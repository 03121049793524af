//! How much a peer has sent, by the kernel's own count.
//!
//! `may_minihttp` reads a head into a buffer of its own that grows without a bound and that nobody else sees; the
//! kernel's count of received bytes is the one way to notice.
#![allow(unsafe_code)] // the socket option TCP_INFO, which no crate of ours wraps

use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Where `struct tcp_info` (linux/tcp.h, since Linux 4.1) has `tcpi_bytes_received`, a u64: after eight u8, twenty-four
/// u32 and three u64.
const OFFSET: usize = 8 + 24 * 4 + 3 * 8;
const END: usize = OFFSET + 8;

/// Bytes of the connection that were read from its socket so far: what was received, less what still waits in the
/// socket's buffer. `None` if the kernel does not tell.
pub(super) fn bytes_read(socket: &TcpStream) -> Option<u64> {
    let received = bytes_received(socket)?;
    let waiting = rustix::io::ioctl_fionread(socket).ok()?;
    Some(received.saturating_sub(waiting))
}

/// Bytes received and acknowledged on the connection so far; `None` if the kernel does not tell.
fn bytes_received(socket: &TcpStream) -> Option<u64> {
    let mut info = MaybeUninit::<[u8; END]>::zeroed();
    let mut length = libc::socklen_t::try_from(END).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which `info` has room for, and any bytes are a valid array.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: it was zeroed, and perhaps written since.
    let info = unsafe { info.assume_init() };
    let told = done == 0 && usize::try_from(length).ok()? >= END;
    told.then(|| u64::from_ne_bytes(info[OFFSET..END].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_waits_in_the_buffer_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(&[b'x'; 5000]).unwrap();
        receiver.peek(&mut [0; 1]).unwrap();
        assert_eq!(bytes_read(&receiver), Some(0));
        receiver.read_exact(&mut [0; 2000]).unwrap();
        receiver.read_exact(&mut [0; 3000]).unwrap();
        assert_eq!(bytes_read(&receiver), Some(5000));
    }

    #[test]
    fn the_kernel_counts_what_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        assert_eq!(bytes_received(&receiver), Some(0));
        for total in [1000, 3000] {
            let more = total - usize::try_from(bytes_received(&receiver).unwrap()).unwrap();
            sender.write_all(&vec![b'x'; more]).unwrap();
            receiver.read_exact(&mut vec![0; more]).unwrap();
            assert_eq!(bytes_received(&receiver), Some(total as u64));
        }
    }
}
