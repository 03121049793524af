//! How a command ends: an exit code that says the kind, and one line that says the rest.
//!
//! The codes are those of sysexits.h, so that scripts and service managers can tell a typing error from a full disk.
//! A `Failure` travels up to `main`, which prints it once as `quire <command>: <message>`.

use std::fmt;

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The answer is "no": unhealthy, differs, does not add up.
    No = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Data on disk is damaged.
    Damaged = 65,
    /// Something needed is not there: no store at that address, a port that is in use.
    Unavailable = 69,
    /// A fault of this program.
    Internal = 70,
    /// A file or directory cannot be created.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Another process holds it.
    Locked = 75,
    /// Not allowed.
    Permission = 77,
    /// A setting is missing or wrong, or a data directory belongs to another node.
    Config = 78,
}

impl Exit {
    /// The code as the operating system wants it.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind that a code stands for, if it is one of these.
    pub fn of_code(code: i32) -> Option<Exit> {
        [
            Exit::Ok,
            Exit::No,
            Exit::Usage,
            Exit::Damaged,
            Exit::Unavailable,
            Exit::Internal,
            Exit::CannotCreate,
            Exit::Io,
            Exit::Locked,
            Exit::Permission,
            Exit::Config,
        ]
        .into_iter()
        .find(|exit| i32::from(exit.code()) == code)
    }

    /// The kind of a code that starting again cannot help: the command line, the settings, the data or the
    /// permissions are wrong, and stay wrong until a person does something. `None` for every other code.
    pub fn lasting(code: i32) -> Option<Exit> {
        [Exit::Usage, Exit::Damaged, Exit::CannotCreate, Exit::Permission, Exit::Config]
            .into_iter()
            .find(|exit| i32::from(exit.code()) == code)
    }

    /// The code for an error met while creating or opening a file for writing.
    pub fn of_create(error: &std::io::Error) -> Exit {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Exit::Permission,
            _ => Exit::CannotCreate,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command could not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub exit: Exit,
    /// One line, lower case, without the program's name: the thing, what was found, what was wanted, what to do.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restart_cannot_help() {
        for code in [64, 65, 73, 77, 78] {
            assert_eq!(Exit::lasting(code).map(|exit| i32::from(exit.code())), Some(code));
        }
        for code in [0, 1, 69, 70, 74, 75, 101, 137] {
            assert_eq!(Exit::lasting(code), None, "{code}");
        }
    }
}
