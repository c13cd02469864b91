//! What a call of a program did.

use std::process::Output;

/// What a call printed and returned.
#[derive(Debug)]
pub struct Call {
    /// Its exit status.
    pub status: i32,
    /// What is on its standard output.
    pub stdout: String,
    /// What is on its standard error.
    pub stderr: String,
}

impl From<Output> for Call {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Call {
    /// The one line on standard error, after checking that it is one, that it begins with the program's name, and the exit
    /// status.
    #[track_caller]
    pub fn says(&self, program: &str, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        let begins = format!("{program}: ");
        assert!(self.stderr.starts_with(&begins) && self.stderr.matches('\n').count() == 1, "{self:?}");
        self.stderr.trim_end()
    }
}
