//! The name of an extended resource.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of an extended resource, `domain/name`, by Kubernetes' rules for such names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

/// The rule that a resource name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no resource name: {rule}", name.escape_debug())]
pub struct ResourceNameError {
    /// The name as given, cut to a readable length.
    pub name: String,
    /// The rule.
    pub rule: &'static str,
}

/// A socket path that the kernel cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the socket path {} has {} bytes: the kernel allows {SOCKET_PATH_BYTES}", .0.display(), .0.as_os_str().len())]
pub struct SocketPathTooLong(pub PathBuf);

/// The longest path of a unix socket: `sun_path` has 108 bytes, the last of which is its end.
pub const SOCKET_PATH_BYTES: usize = 107;

/// The domain's bound in Kubernetes is 253, and a quota puts `requests.` before it.
const DOMAIN_BYTES: usize = 253 - "requests.".len();

impl ResourceName {
    /// The name, `domain/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The base name of the resource's socket. Distinct resources have distinct sockets, since no domain holds an
    /// underscore.
    pub fn endpoint(&self) -> String {
        format!("{}.sock", self.0.replacen('/', "_", 1))
    }

    /// The resource's socket in `folder`.
    pub fn socket_in(&self, folder: &Path) -> Result<PathBuf, SocketPathTooLong> {
        let path = folder.join(self.endpoint());
        if path.as_os_str().len() > SOCKET_PATH_BYTES { Err(SocketPathTooLong(path)) } else { Ok(path) }
    }
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(text: &str) -> Result<Self, ResourceNameError> {
        match broken_rule(text) {
            None => Ok(Self(text.to_owned())),
            Some(rule) => Err(ResourceNameError { name: text.chars().take(320).collect(), rule }),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ResourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResourceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The first rule of Kubernetes' for extended resources that `text` breaks.
fn broken_rule(text: &str) -> Option<&'static str> {
    let Some((domain, name)) = text.split_once('/') else { return Some("it has the form domain/name") };
    let alphanumeric = |character: char| character.is_ascii_alphanumeric();
    let label = |label: &str| {
        label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && label.starts_with(alphanumeric)
            && label.ends_with(alphanumeric)
    };
    let rules = [
        (!name.contains('/'), "it has one slash"),
        (!domain.is_empty(), "the domain before the slash is not empty"),
        (!name.is_empty(), "the name after the slash is not empty"),
        (!domain.starts_with("requests."), "it does not begin with \"requests.\""),
        (!domain.ends_with("kubernetes.io"), "the domain is not kubernetes.io, nor ends so"),
        (domain.len() <= DOMAIN_BYTES, "the domain has at most 244 characters (253 less those of \"requests.\")"),
        (
            domain.split('.').all(label),
            "the domain is lower-case letters, digits, \"-\" and \".\", each part beginning and ending with a letter or digit",
        ),
        (name.len() <= 63, "the name after the slash has at most 63 characters"),
        (
            name.chars().all(|c| alphanumeric(c) || "-_.".contains(c))
                && name.starts_with(alphanumeric)
                && name.ends_with(alphanumeric),
            "the name after the slash is letters, digits, \"-\", \"_\" and \".\", beginning and ending with a letter or digit",
        ),
    ];
    rules.into_iter().find(|(kept, _)| !kept).map(|(_, rule)| rule)
}

#[cfg(test)]
mod tests;
