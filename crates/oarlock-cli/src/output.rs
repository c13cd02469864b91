//! What commands print.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;

use crate::failure::{Failure, one_line};
use crate::render::text::Style;

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
    /// For pages: a picture.
    Svg,
}

/// The form of what a command prints that has no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextOrJson {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
}

/// Prints to standard output, with a line end. A reader that has gone away has seen enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written =
        out.write_all(text.as_bytes()).and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(anyhow::Error::new(error).context("writing to standard output")))
        }
        _ => Ok(()),
    }
}

/// Says something that is no result, one line, on standard error.
pub(crate) fn note(text: &str) {
    // Nobody is left to be told that standard error is closed.
    drop(writeln!(io::stderr(), "oarlock: {text}"));
}

/// Says what a person should know and what ends nothing, likewise.
pub(crate) fn warn(message: impl std::fmt::Display) {
    note(&format!("warning: {}", one_line(&message.to_string())));
}

/// How text on standard output looks.
pub(crate) fn style() -> Style {
    Style::choose(io::stdout().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}
