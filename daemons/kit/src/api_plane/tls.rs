//! TLS on the API plane: a certificate and its key in files, and the connection between hyper and the socket.
//!
//! TLS 1.2 and 1.3 by rustls, with ring. The files are read again when they change and on SIGHUP; what cannot be used
//! leaves the last good certificate in place, with a line in the log. Connections keep the certificate they began with.
//!
//! Deadlines follow what hyper reads, not records: a handshake counts as the head of a request, so it has the time that
//! a head has, and empty records prolong nothing.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Poll, ready};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use signal_hook::consts::SIGHUP;

use super::socket::{Socket, Wire};
use crate::metrics::{Page, Part};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A certificate that ends sooner than this is warned of, once a day.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// Pause between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(86_400);
/// Most bytes that wait in a connection to be encrypted or sent.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes read from the socket, or of decrypted data, at once.
const READ_BYTES: usize = 8 * 1024;
/// Most reads in a row that bring no data, as those of a record's parts do; then others have a turn.
const READS_MAX: usize = 4;

/// A certificate and its key, kept fresh. A clone is another handle to the same.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Loaded>,
}

/// What the files held at some time.
struct Loaded {
    config: Arc<ServerConfig>,
    expires: SystemTime,
    seen: Seen,
}

/// What tells one content of the files from another, without reading them.
type Seen = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads a certificate chain and a private key in PEM, and goes on looking after them.
    ///
    /// # Errors
    /// In words, naming the file.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(certificate: &Path, key: &Path) -> Result<Tls, String> {
        let current = RwLock::new(load(certificate, key)?);
        let tls = Tls(Arc::new(Inner { certificate: certificate.into(), key: key.into(), current }));
        let (watched, hangup) = (Arc::downgrade(&tls.0), Arc::new(AtomicBool::new(false)));
        signal_hook::flag::register(SIGHUP, hangup.clone())
            .map_err(|error| format!("cannot handle SIGHUP: {error}"))?;
        let thread =
            thread::Builder::new().name("certificate".into()).spawn(move || look_after(&watched, &hangup));
        drop(thread.expect("the operating system gives a daemon its few threads"));
        Ok(tls)
    }

    /// When the certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.0.current().expires
    }

    /// What an operator should know of the certificate; `None` if there is nothing to say.
    pub fn warning(&self) -> Option<String> {
        let path = self.0.certificate.display();
        match self.expires().duration_since(SystemTime::now()) {
            Err(_) => Some(format!("the certificate {path} has expired; clients refuse it")),
            Ok(left) if left < EXPIRY_WARNING => {
                Some(format!("the certificate {path} expires in {} days", left.as_secs() / 86_400))
            }
            Ok(_) => None,
        }
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// As `open`; the last good certificate stays.
    pub fn reload(&self) -> Result<(), String> {
        self.0.reload()
    }

    fn connection(&self) -> Option<ServerConnection> {
        let config = self.0.current().config.clone();
        let mut connection = ServerConnection::new(config).ok()?;
        connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        Some(connection)
    }
}

impl PartialEq for Tls {
    /// The same files, looked after together.
    fn eq(&self, other: &Tls) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.certificate).finish()
    }
}

impl Part for Tls {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let expires = self.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "When the certificate of the API plane ends, in seconds since 1970";
        page.gauge("quire_tls_certificate_expiry_timestamp_seconds", help, expires.as_secs())
    }
}

impl Inner {
    /// Held for a few instructions only, but for a reload's exchange.
    fn current(&self) -> std::sync::RwLockReadGuard<'_, Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self) -> Result<(), String> {
        let loaded = load(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }
}

/// Until nobody uses the certificate any more.
fn look_after(watched: &Weak<Inner>, hangup: &AtomicBool) {
    let mut failed: Option<Seen> = None;
    // The start says it, too (`Access::warnings`).
    let mut warned = Some(Instant::now());
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(inner) = watched.upgrade() else { return };
        let now = seen(&inner.certificate, &inner.key);
        let asked = hangup.swap(false, Ordering::Relaxed);
        if asked || (now != inner.current().seen && failed != Some(now)) {
            match inner.reload() {
                Ok(()) => {
                    failed = None;
                    // What is still wrong with the new one is said at once.
                    warned = None;
                    log::info!("the certificate {} was read again", inner.certificate.display());
                }
                Err(why) => {
                    failed = Some(now);
                    log::error!("{why}; the certificate from before stays in use");
                }
            }
        }
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY)
            && let Some(warning) = Tls(inner).warning()
        {
            warned = Some(Instant::now());
            log::warn!("{warning}");
        }
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, String> {
    let seen = seen(certificate, key);
    let bad = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| bad(certificate, &error))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| bad(certificate, &error))?;
    let Some(first) = chain.first() else {
        return Err(bad(
            certificate,
            &"there is no certificate in it; wanted a chain in PEM, the server's own first",
        ));
    };
    let expires = expiry(first).map_err(|error| bad(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| bad(key, &format!("it does not fit {}: {error}", certificate.display())))?;
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), expires, seen })
}

fn seen(certificate: &Path, key: &Path) -> Seen {
    [certificate, key].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    })
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("it is no certificate: {error}"))?;
    let seconds = u64::try_from(read.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A client's connection as hyper sees it: in the clear, whatever is on the wire.
pub(super) struct Channel {
    socket: Socket,
    tls: Option<RefCell<ServerConnection>>,
}

impl Channel {
    /// With this certificate, if there is one. `None` if rustls has no randomness.
    pub(super) fn new(socket: Socket, tls: Option<&Tls>) -> Option<Channel> {
        let tls = match tls {
            Some(tls) => Some(RefCell::new(tls.connection()?)),
            None => None,
        };
        Some(Channel { socket, tls })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the two have yet to agree on keys.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().is_handshaking())
    }

    /// Send a last few bytes, as far as they fit without waiting.
    pub(super) fn send_last(&self, bytes: &[u8]) {
        if !self.is_handshaking() {
            let _ = self.send(bytes);
        }
    }

    /// See `Socket::close`; says goodbye first, so that the client can tell an end from a cut.
    pub(super) fn close(&self, give_up: impl Fn() -> bool) {
        if let Some(tls) = &self.tls {
            let mut tls = tls.borrow_mut();
            tls.send_close_notify();
            let _ = self.send_records(&mut tls);
        }
        self.socket.close(give_up);
    }

    /// Hands what is encrypted to the kernel; pending if it does not take all.
    fn send_records(&self, tls: &mut ServerConnection) -> Poll<io::Result<()>> {
        while tls.wants_write() {
            let mut out = Out(&self.socket);
            match tls.write_tls(&mut out) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the socket has, up to one read of rustls, and decrypts it. Ready without new bytes once the client has
    /// said goodbye, whatever it sends then, or has ended: the reader knows.
    fn receive_records(&self, tls: &mut ServerConnection) -> Poll<io::Result<()>> {
        match tls.read_tls(&mut In(&self.socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        let decrypted = tls.process_new_packets();
        // What a handshake has to say, or the alert that tells the client what is wrong; data waits for no reader of ours.
        let sent = self.send_records(tls);
        if let Err(error) = decrypted {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        match sent {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Wire for Channel {
    fn receive<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Poll<io::Result<&'a [u8]>> {
        let Some(tls) = &self.tls else { return self.socket.receive(buffer) };
        let mut tls = tls.borrow_mut();
        let mut clear = [0; READ_BYTES];
        let room = buffer.len().min(READ_BYTES);
        for _ in 0..READS_MAX {
            // What is decrypted goes first: rustls takes no more while its buffer is full.
            match tls.reader().read(&mut clear[..room]) {
                Ok(count) => return Poll::Ready(Ok(buffer[..count].write_copy_of_slice(&clear[..count]))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Cut without a goodbye: an end, as with one and as without TLS. A body that is incomplete is noticed by
                // its length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(&[])),
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.receive_records(&mut tls))?;
        }
        // Records without data, or without an end in sight: the loop of the connection looks at the clock and comes back.
        self.socket.waker().wakeup();
        Poll::Pending
    }

    fn send(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(tls) = &self.tls else { return self.socket.send(bytes) };
        let mut tls = tls.borrow_mut();
        // What waits goes first: so no more waits than one buffer.
        ready!(self.send_records(&mut tls))?;
        let count = tls.writer().write(bytes)?;
        match self.send_records(&mut tls) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn flush(&self) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => self.send_records(&mut tls.borrow_mut()),
        }
    }
}

/// The socket as rustls reads from it.
struct In<'a>(&'a Socket);

impl io::Read for In<'_> {
    /// Asks the socket for no more than there is room, so nothing is taken that rustls does not get.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let room = bytes.len().min(READ_BYTES);
        match self.0.receive(&mut buffer[..room]) {
            Poll::Ready(Ok(received)) => {
                bytes[..received.len()].copy_from_slice(received);
                Ok(received.len())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// The socket as rustls writes to it.
struct Out<'a>(&'a Socket);

impl io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
