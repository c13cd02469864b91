//! Where in a file a value stands, so that every error can say it.

use serde_json::Value;

use super::Error;

/// A value with its place: `job.yaml, document 2 (line 14): spec.template`. Absent is the same as null, as it is for
/// Kubernetes.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    document: &'a str,
    path: String,
    value: &'a Value,
}

impl<'a> Place<'a> {
    /// The top of a document, of which `document` says which one it is.
    pub(super) fn top(document: &'a str, value: &'a Value) -> Self {
        Self { document, path: String::new(), value }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// The value under a key of this mapping; absent where this is.
    pub(super) fn field(&self, key: &str) -> Result<Self, Error> {
        let value = match self.value {
            Value::Null => &Value::Null,
            Value::Object(map) => map.get(key).unwrap_or(&Value::Null),
            _ => return Err(self.wrong("a mapping is needed")),
        };
        Ok(self.under(key, value))
    }

    /// The value under several keys, one inside the other.
    pub(super) fn fields(&self, keys: &[&str]) -> Result<Self, Error> {
        keys.iter().try_fold(self.clone(), |place, key| place.field(key))
    }

    /// The keys of this mapping and their values; none where it is absent.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Self)>, Error> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => Ok(map.iter().map(|(key, value)| (key.as_str(), self.under(key, value))).collect()),
            _ => Err(self.wrong("a mapping is needed")),
        }
    }

    /// The items of this list; none where it is absent.
    pub(super) fn items(&self) -> Result<Vec<Self>, Error> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => Ok(list
                .iter()
                .enumerate()
                .map(|(index, value)| Self { document: self.document, path: format!("{}[{index}]", self.path), value })
                .collect()),
            _ => Err(self.wrong("a list is needed")),
        }
    }

    /// This text; `None` where it is absent.
    pub(super) fn text(&self) -> Result<Option<&'a str>, Error> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(self.wrong("a text is needed, so put it in quotes")),
        }
    }

    /// This number of pods or the like; `None` where it is absent.
    pub(super) fn count(&self) -> Result<Option<u32>, Error> {
        let wrong = || self.wrong("a whole number from 0 to 2147483647 is needed");
        match self.value {
            Value::Null => Ok(None),
            Value::Number(number) => {
                let number = number.as_u64().filter(|&number| i32::try_from(number).is_ok()).ok_or_else(wrong)?;
                Ok(Some(number as u32))
            }
            _ => Err(wrong()),
        }
    }

    /// An error about this value: what it is, and the rule that it breaks.
    pub(super) fn wrong(&self, rule: &str) -> Error {
        self.error(format!("is {}: {rule}", describe(self.value)))
    }

    /// An error at this place.
    pub(super) fn error(&self, message: String) -> Error {
        Error::Content { place: self.to_string(), message }
    }

    fn under(&self, key: &str, value: &'a Value) -> Self {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let path = match (plain, self.path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.path),
            (false, _) => format!("{}[{}]", self.path, Value::from(key)),
        };
        Self { document: self.document, path, value }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.document)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, ": {}", self.path) }
    }
}

/// A value in few words.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::Bool(yes) => format!("the truth value {yes}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", Value::from(text.chars().take(60).collect::<String>())),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
