//! How a command fails, and what it then prints and returns.

use std::io::Write as _;
use std::process::ExitCode;

use oarlock_core::Refusal;

/// Everything that ends a command early. The exit status is a contract: 1 refused, failed, or not as planned; 2 the call
/// is wrong; 126 and 127 as shells have them for a command that cannot be run or found.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call is wrong: exit status 2.
    Usage(anyhow::Error),
    /// The request is refused: exit status 1.
    Refused(Refusal),
    /// Something did not work: exit status 1.
    Failed(anyhow::Error),
    /// The command to run could not be run: exit status 126 or 127.
    Command {
        /// The exit status.
        status: u8,
        /// Why.
        error: anyhow::Error,
    },
}

/// What a refusal is in JSON.
#[derive(serde::Serialize)]
struct RefusalObject<'a> {
    refusal: &'a Refusal,
}

impl Failure {
    /// A wrong call, in words.
    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self::Usage(anyhow::anyhow!("{message}"))
    }

    /// The command that could not be executed, with the exit status that shells give.
    pub(crate) fn command(program: &std::ffi::OsStr, error: std::io::Error) -> Self {
        let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        let what = format!("failed to execute {:?}", program.to_string_lossy());
        Self::Command { status, error: anyhow::Error::new(error).context(what) }
    }

    /// Prints the one line (or, for a refusal in JSON, the object) and gives the exit status.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let (status, line) = match self {
            Self::Refused(refusal) if json => {
                // A closed pipe changes nothing about the refusal.
                drop(serde_json::to_writer(std::io::stdout(), &RefusalObject { refusal }));
                drop(writeln!(std::io::stdout()));
                return ExitCode::from(1);
            }
            Self::Refused(refusal) => (1, format!("refused: {refusal}")),
            Self::Usage(error) => (2, chain(error)),
            Self::Failed(error) => (1, chain(error)),
            Self::Command { status, error } => (*status, chain(error)),
        };
        drop(writeln!(std::io::stderr(), "oarlock: {}", one_line(&line)));
        ExitCode::from(status)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The error and its causes on one line, the cause last.
fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// Values come from files, annotations and environments: a line stays one line, and a terminal stays as it was.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
