//! Settings of who may do what: the cluster key, the admin token, and what goes without them.
//!
//! A secret comes from a file that a flag or variable names, from a variable, or from the service manager
//! (`$CREDENTIALS_DIRECTORY`, systemd's `LoadCredential=`): never from the command line, which every user of a machine
//! can read. No error text holds one.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use super::{Common, Source, bad, named};
use crate::admin::{AdminFrom, AdminPolicy, AdminToken};
use crate::api_plane::Tls;
use crate::credentials::{ClusterKey, Credentials};
use crate::exit::Failure;

/// Variables that hold a secret and have no flag.
pub const SECRET_VARIABLES: [&str; 2] = ["QUIRE_CLUSTER_KEY", "QUIRE_ADMIN_TOKEN"];
/// Longest file with a secret, in bytes.
const FILE_BYTES_MAX: usize = 16 * 1024;

const CLUSTER_KEY: Secret = Secret {
    variable: "QUIRE_CLUSTER_KEY",
    file_variable: "QUIRE_CLUSTER_KEY_FILE",
    credential: "cluster-key",
};
const ADMIN_TOKEN: Secret = Secret {
    variable: "QUIRE_ADMIN_TOKEN",
    file_variable: "QUIRE_ADMIN_TOKEN_FILE",
    credential: "admin-token",
};

/// Who may do what, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessSettings {
    /// File with the key that all daemons of a store share; two keys, the current one first, while it is changed. Also
    /// variable QUIRE_CLUSTER_KEY or credential cluster-key. Default: none, and whoever comes from a private address is
    /// taken for a daemon
    #[arg(long, env = "QUIRE_CLUSTER_KEY_FILE", value_name = "FILE")]
    pub cluster_key_file: Option<String>,
    /// Speak to daemons that have no cluster key although this one has: for as long as the first key is handed out.
    /// Default: false
    #[arg(
        long,
        env = "QUIRE_ACCEPT_WITHOUT_KEY",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub accept_without_key: Option<String>,
    /// File with the token that changing the catalog needs; two tokens while it is changed. Also variable
    /// QUIRE_ADMIN_TOKEN or credential admin-token. Default: none, and --admin-from decides
    #[arg(long, env = "QUIRE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<String>,
    /// Who may change the catalog while no admin token is set: clients on loopback or on private addresses.
    /// Default: loopback
    #[arg(long, env = "QUIRE_ADMIN_FROM", value_name = "loopback|private")]
    pub admin_from: Option<String>,
    /// File with the certificate chain of the API plane, in PEM: it then speaks TLS alone. Read again when it changes and on
    /// SIGHUP. Default: none, and no TLS
    #[arg(long, env = "QUIRE_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<String>,
    /// File with the private key that belongs to it, in PEM. Default: none
    #[arg(long, env = "QUIRE_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<String>,
}

/// Who may do what, checked. The default is that of no settings: no secrets, and administrators on loopback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// For the peer plane and the links.
    pub credentials: Credentials,
    /// For the routes that administer.
    pub admin: AdminPolicy,
    /// Certificate and key of the API plane; `None` for no TLS.
    pub tls: Option<Tls>,
}

impl Access {
    /// What is open that an operator may want closed; said at every start, and to whoever asks.
    pub fn warnings(&self) -> Vec<String> {
        let tls = self.tls.as_ref().and_then(Tls::warning);
        [self.credentials.warning(), self.admin.warning(), tls].into_iter().flatten().collect()
    }
}

impl Common {
    /// Who may do what, by these settings. Apart from `validate`, because a probe of the daemon need not know it.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is wrong.
    pub fn access(&self) -> Result<Access, Failure> {
        access(&self.access, &Source::open(self)?, environment)
    }

    /// Whether the API plane speaks TLS.
    ///
    /// # Errors
    /// `Exit::Config` if the environment file cannot be read.
    pub fn speaks_tls(&self) -> Result<bool, Failure> {
        Ok(Source::open(self)?.get(&self.access.tls_cert_file, "QUIRE_TLS_CERT_FILE").is_some())
    }
}

/// The settings of a tool that sends the admin token.
#[derive(Debug, Clone, Default, Args)]
pub struct AdminClientSettings {
    /// File with the admin token of the catalog replicas, if they have one. Also variable QUIRE_ADMIN_TOKEN
    #[arg(long, env = "QUIRE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<String>,
}

impl AdminClientSettings {
    /// The token to send, if there is one.
    ///
    /// # Errors
    /// `Exit::Config` if there is one and it cannot be used.
    pub fn token(&self) -> Result<Option<AdminToken>, Failure> {
        let tokens = tokens(&self.admin_token_file, &Source::default(), environment)?;
        Ok(tokens.into_iter().next())
    }
}

/// The settings of a tool that asks daemons on their peer plane.
#[derive(Debug, Clone, Default, Args)]
pub struct PeerClientSettings {
    /// File with the cluster key of the store, if it has one. Also variable QUIRE_CLUSTER_KEY
    #[arg(long, env = "QUIRE_CLUSTER_KEY_FILE", value_name = "FILE")]
    pub cluster_key_file: Option<String>,
}

impl PeerClientSettings {
    /// What to show to the daemons.
    ///
    /// # Errors
    /// `Exit::Config` if there is a key and it cannot be used.
    pub fn credentials(&self) -> Result<Credentials, Failure> {
        let settings =
            AccessSettings { cluster_key_file: self.cluster_key_file.clone(), ..AccessSettings::default() };
        Ok(access(&settings, &Source::default(), environment)?.credentials)
    }
}

fn environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

/// The text of a variable. One that is set and is no text must not count as unset: that would open what it closes.
fn text_of(
    variable: &'static str,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, Failure> {
    let text = environment(variable).map(OsString::into_string).transpose();
    text.map_err(|_| bad(format!("{variable} is set to what is no text in UTF-8")))
}

fn access(
    settings: &AccessSettings,
    source: &Source,
    environment: impl Fn(&str) -> Option<OsString> + Copy,
) -> Result<Access, Failure> {
    let keys = CLUSTER_KEY.read(&settings.cluster_key_file, source, environment)?;
    let keys = keys.map_or(Ok(Vec::new()), |(text, name)| {
        ClusterKey::parse_list(&text).map_err(|why| bad(format!("{name}: {why}")))
    })?;
    let without_key = source.get(&settings.accept_without_key, "QUIRE_ACCEPT_WITHOUT_KEY");
    let without_key = without_key.map_or(Ok(false), |given| given.truth())?;
    if without_key && keys.is_empty() {
        return Err(bad(format!(
            "{} is set, but there is no cluster key; without one, daemons without a key are taken anyway",
            named("QUIRE_ACCEPT_WITHOUT_KEY")
        )));
    }
    let from = match source.get(&settings.admin_from, "QUIRE_ADMIN_FROM") {
        None => AdminFrom::Loopback,
        Some(given) => match given.text.as_str() {
            "loopback" => AdminFrom::Loopback,
            "private" => AdminFrom::Private,
            _ => return Err(given.unwanted("loopback or private")),
        },
    };
    let tokens = tokens(&settings.admin_token_file, source, environment)?;
    let certificate = source.get(&settings.tls_cert_file, "QUIRE_TLS_CERT_FILE");
    let key = source.get(&settings.tls_key_file, "QUIRE_TLS_KEY_FILE");
    let tls = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(Tls::open(Path::new(&certificate.text), Path::new(&key.text)).map_err(bad)?)
        }
        _ => {
            return Err(bad(
                "TLS needs both QUIRE_TLS_CERT_FILE and QUIRE_TLS_KEY_FILE; one of them is not set",
            ));
        }
    };
    Ok(Access { credentials: Credentials::new(keys, without_key), admin: AdminPolicy { tokens, from }, tls })
}

fn tokens(
    file: &Option<String>,
    source: &Source,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<AdminToken>, Failure> {
    match ADMIN_TOKEN.read(file, source, environment)? {
        None => Ok(Vec::new()),
        Some((text, name)) => AdminToken::parse_list(&text).map_err(|why| bad(format!("{name}: {why}"))),
    }
}

/// Where a secret may come from.
struct Secret {
    variable: &'static str,
    file_variable: &'static str,
    /// Its name among the service manager's credentials.
    credential: &'static str,
}

impl Secret {
    /// The text, and how to name where it came from; `None` if there is none.
    fn read(
        &self,
        file: &Option<String>,
        source: &Source,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<(String, String)>, Failure> {
        // A tool without a flag for it has it from the environment alone.
        let in_environment = text_of(self.file_variable, &environment)?;
        let file = source.get(&file.clone().or(in_environment), self.file_variable);
        let text = source.get(&text_of(self.variable, &environment)?, self.variable);
        match (file, text) {
            (Some(_), Some(_)) => Err(bad(format!(
                "both {} and {} are set; wanted one of them",
                self.variable, self.file_variable
            ))),
            (Some(file), None) => read_file(Path::new(&file.text), &file.name).map(Some),
            // The name that `Source` gives is that of a flag, which this variable has not.
            (None, Some(given)) => Ok(Some((given.text, self.variable.to_owned()))),
            (None, None) => {
                let Some(directory) = environment("CREDENTIALS_DIRECTORY") else { return Ok(None) };
                let path = Path::new(&directory).join(self.credential);
                let is_there = path.try_exists().unwrap_or(true);
                is_there.then(|| read_file(&path, "the credential")).transpose()
            }
        }
    }
}

fn read_file(path: &Path, name: &str) -> Result<(String, String), Failure> {
    let name = format!("{name} {}", path.display());
    let bytes = std::fs::read(path).map_err(|error| bad(format!("{name} cannot be read: {error}")))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(bad(format!("{name} has {} bytes; wanted one secret or two, a line each", bytes.len())));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad(format!("{name} is no text")))?;
    Ok((text, name))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn none(_: &str) -> Option<OsString> {
        None
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, Option<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, Some(path))
    }

    #[test]
    fn without_settings_there_is_no_secret_and_loopback_may() {
        let access = access(&AccessSettings::default(), &Source::default(), none).unwrap();
        assert_eq!(access.credentials, Credentials::none());
        assert_eq!(access.admin, AdminPolicy::default());
        assert_eq!(access.warnings().len(), 2);
    }

    #[test]
    fn a_secret_comes_from_a_file_a_variable_or_the_service_manager() {
        let wanted = Credentials::new(ClusterKey::parse_list(KEY).unwrap(), false);
        let (_kept, path) = file(&format!("{KEY}\n"));
        let by_file = AccessSettings { cluster_key_file: path, ..AccessSettings::default() };
        assert_eq!(access(&by_file, &Source::default(), none).unwrap().credentials, wanted);

        let by_variable = |name: &str| (name == "QUIRE_CLUSTER_KEY").then(|| KEY.into());
        let settings = AccessSettings::default();
        assert_eq!(access(&settings, &Source::default(), by_variable).unwrap().credentials, wanted);

        let in_file = vec![("QUIRE_CLUSTER_KEY".to_owned(), KEY.to_owned())];
        let by_env_file = Source { path: "env".into(), file: in_file };
        assert_eq!(access(&settings, &by_env_file, none).unwrap().credentials, wanted);

        let directory = tempfile::tempdir().unwrap();
        let credentials = directory.path().to_str().unwrap().to_owned();
        let by_manager = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| credentials.clone().into());
        let nothing = access(&settings, &Source::default(), by_manager).unwrap();
        assert_eq!(nothing.credentials, Credentials::none(), "a directory with other credentials");
        std::fs::write(directory.path().join("cluster-key"), format!("{KEY}\n{OTHER}\n")).unwrap();
        std::fs::write(directory.path().join("admin-token"), "0123456789abcdef").unwrap();
        let both = access(&settings, &Source::default(), by_manager).unwrap();
        assert_eq!(both.credentials.keys().len(), 2);
        assert_eq!(both.admin.tokens.len(), 1);
        assert_eq!(both.warnings(), [""; 0]);
    }

    #[test]
    fn a_variable_that_is_no_text_does_not_count_as_unset() {
        use std::os::unix::ffi::OsStringExt;
        for variable in
            SECRET_VARIABLES.into_iter().chain(["QUIRE_CLUSTER_KEY_FILE", "QUIRE_ADMIN_TOKEN_FILE"])
        {
            let mangled = |name: &str| {
                let value = OsString::from_vec([KEY.as_bytes(), &[0xff]].concat());
                (name == variable).then_some(value)
            };
            let failure = access(&AccessSettings::default(), &Source::default(), mangled).unwrap_err();
            assert_eq!(failure.message, format!("{variable} is set to what is no text in UTF-8"));
            assert_eq!(failure.exit, crate::exit::Exit::Config);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_not_told() {
        let secret = "too-short-but-secret";
        let by_variable = |name: &str| SECRET_VARIABLES.contains(&name).then(|| secret.into());
        let (_kept, path) = file(secret);
        let by_file = AccessSettings { cluster_key_file: path.clone(), ..AccessSettings::default() };
        let (_no_text, binary) = file("");
        std::fs::write(_no_text.path(), [0xff, 0xfe]).unwrap();
        let settings = AccessSettings::default;
        let some = |text: &str| Some(text.to_owned());
        let source = Source::default();
        for (failure, says) in [
            (
                access(&settings(), &source, by_variable).unwrap_err(),
                "QUIRE_CLUSTER_KEY: key 1 has 20 characters",
            ),
            (access(&by_file, &source, none).unwrap_err(), "--cluster-key-file (QUIRE_CLUSTER_KEY_FILE) /"),
            (
                access(&by_file, &source, by_variable).unwrap_err(),
                "both QUIRE_CLUSTER_KEY and QUIRE_CLUSTER_KEY_FILE",
            ),
            (
                access(&AccessSettings { admin_token_file: some("/nowhere"), ..settings() }, &source, none)
                    .unwrap_err(),
                "--admin-token-file (QUIRE_ADMIN_TOKEN_FILE) /nowhere cannot be read",
            ),
            (
                access(&AccessSettings { cluster_key_file: binary, ..settings() }, &source, none)
                    .unwrap_err(),
                "is no text",
            ),
            (
                access(&AccessSettings { tls_key_file: some("key.pem"), ..settings() }, &source, none)
                    .unwrap_err(),
                "both QUIRE_TLS_CERT_FILE and QUIRE_TLS_KEY_FILE",
            ),
            (
                access(&AccessSettings { accept_without_key: some("true"), ..settings() }, &source, none)
                    .unwrap_err(),
                "there is no cluster key",
            ),
            (
                access(&AccessSettings { admin_from: some("everywhere"), ..settings() }, &source, none)
                    .unwrap_err(),
                "loopback or private",
            ),
        ] {
            assert_eq!(failure.exit, crate::exit::Exit::Config);
            assert!(failure.message.contains(says), "{failure}\nlacks: {says}");
            assert!(!failure.message.contains(secret), "{failure}");
        }
    }
}
