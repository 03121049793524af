//! Settings of a tool that may be given the URL of a daemon's API.

use std::io::Read;
use std::path::Path;

use clap::Args;

use super::{AdminClientSettings, bad};
use crate::exit::Failure;

/// Where distributions keep the certificates that a system trusts: Debian and Alpine, Fedora, the BSDs.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Longest file with certificates, in bytes; a longer one is refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a tool shows to a daemon that it has the URL of, and what the daemon must show where that is `https`.
#[derive(Debug, Clone, Default, Args)]
pub struct ApiClientSettings {
    /// For daemons that have a token.
    #[command(flatten)]
    pub admin: AdminClientSettings,
    /// File with the certificates, in PEM, one of which a daemon with an https URL must show or be signed by. Default: those
    /// that the system trusts
    #[arg(long, env = "QUIRE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<String>,
}

impl ApiClientSettings {
    /// The certificates to trust, in PEM.
    ///
    /// # Errors
    /// `Exit::Config` if the file cannot be read, or the system has none where it is looked for.
    pub fn trusted(&self) -> Result<Vec<u8>, Failure> {
        if let Some(file) = self.ca_file.as_deref().filter(|file| !file.is_empty()) {
            let unread = |why: String| bad(format!("--ca-file (QUIRE_CA_FILE) {file} cannot be read: {why}"));
            return read(Path::new(file)).map_err(unread);
        }
        let found = BUNDLES.iter().find_map(|bundle| read(Path::new(bundle)).ok());
        found.ok_or_else(|| {
            let places = BUNDLES.join(", ");
            bad(format!("no certificates to trust at {places}; name a file with --ca-file (QUIRE_CA_FILE)"))
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(format!("it is longer than {FILE_BYTES_MAX} bytes")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn settings(file: &Path) -> ApiClientSettings {
        ApiClientSettings { ca_file: Some(file.display().to_string()), ..ApiClientSettings::default() }
    }

    #[test]
    fn a_file_that_is_named_is_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let refused = settings(&file).trusted().unwrap_err();
        assert_eq!(refused.exit, Exit::Config);
        assert!(refused.message.contains("--ca-file (QUIRE_CA_FILE)"), "{refused}");
        std::fs::write(&file, "pem").unwrap();
        assert_eq!(settings(&file).trusted().unwrap(), b"pem");
        std::fs::File::create(&file).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let refused = settings(&file).trusted().unwrap_err();
        assert!(refused.message.contains("longer than 16777216 bytes"), "{refused}");
    }
}
