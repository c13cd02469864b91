//! Who a plugin is to its runtime.

use std::fmt;

/// A plugin's index and name. The rules are the runtimes': one that breaks them is refused when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    index: String,
    name: String,
}

/// Why a plugin cannot be called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The index is not two digits.
    #[error("{0:?} is no index of an NRI plugin: it has exactly two digits")]
    Index(String),
    /// The name is empty, or has another character.
    #[error("{0:?} is no name of an NRI plugin: it has letters, digits and - _ . + only, and at least one of them")]
    Name(String),
}

impl Identity {
    /// The plugin `index-name`. Runtimes ask plugins in the order of their indices.
    pub fn new(index: &str, name: &str) -> Result<Self, IdentityError> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IdentityError::Index(index.to_owned()));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        Ok(Self { index: index.to_owned(), name: name.to_owned() })
    }

    /// Two digits.
    pub fn index(&self) -> &str {
        &self.index
    }

    /// The name without the index.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.index, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_two_digits_and_a_name_plain_letters() {
        assert_eq!(Identity::new("07", "oar-lock_1.0+x").unwrap().to_string(), "07-oar-lock_1.0+x");
        for index in ["", "7", "007", "a7", "7 ", "٧٧"] {
            assert_eq!(Identity::new(index, "oarlock"), Err(IdentityError::Index(index.to_owned())));
        }
        for name in ["", "oar lock", "oar/lock", "örlock", "oarlock\n"] {
            assert_eq!(Identity::new("10", name), Err(IdentityError::Name(name.to_owned())));
        }
    }
}
