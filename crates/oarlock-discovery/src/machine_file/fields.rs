//! Typed access to the fields of a JSON object; errors name the field's place in the file.

use std::error::Error;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::Problem;
use crate::error::excerpt;

/// One JSON object and where it is: "" for the whole file, `gpus[3]` for an entry.
pub(super) struct Fields {
    place: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn whole(value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(map) => Ok(Self { place: String::new(), map }),
            other => Err(wrong("the file".to_owned(), &other, "an object")),
        }
    }

    /// The field's place, for errors.
    pub(super) fn place(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// Takes a field out; null is the same as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there, be it null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Looks at a field and leaves it.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Puts a field back that was taken.
    pub(super) fn put_back(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// What was not taken.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.map
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(self.place(name), &other, "a text")),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong(self.place(name), &other, "true or false")),
        }
    }

    pub(super) fn count(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) => Ok(Some(count)),
                None => Err(wrong(self.place(name), &value, "a whole number from 0")),
            },
        }
    }

    /// A number that fits the kernel's own types for ids.
    pub(super) fn id(&mut self, name: &str) -> Result<Option<u32>, Problem> {
        match self.count(name)? {
            None => Ok(None),
            Some(count) => match u32::try_from(count) {
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(wrong(self.place(name), &Value::from(count), "a number below 4294967296")),
            },
        }
    }

    /// A text in another type's form.
    pub(super) fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse_text(self.place(name), &text, expected).map(Some)
    }

    /// An array of objects; absent is `None`.
    pub(super) fn objects(&mut self, name: &'static str, limit: usize) -> Result<Option<Vec<Fields>>, Problem> {
        let Some(values) = self.array(name, limit)? else { return Ok(None) };
        let mut objects = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let place = format!("{}[{index}]", self.place(name));
            match value {
                Value::Object(map) => objects.push(Self { place, map }),
                other => return Err(wrong(place, &other, "an object")),
            }
        }
        Ok(Some(objects))
    }

    /// An array of texts in another type's form; absent is `None`.
    pub(super) fn parsed_array<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        name: &'static str,
        limit: usize,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, Problem> {
        let Some(values) = self.array(name, limit)? else { return Ok(None) };
        let mut parsed = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let place = format!("{}[{index}]", self.place(name));
            match value {
                Value::String(text) => parsed.push(parse_text(place, &text, expected)?),
                other => return Err(wrong(place, &other, "a text")),
            }
        }
        Ok(Some(parsed))
    }

    fn array(&mut self, name: &'static str, limit: usize) -> Result<Option<Vec<Value>>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) if values.len() > limit => {
                Err(Problem::TooMany { field: name, count: values.len(), limit })
            }
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(wrong(self.place(name), &other, "an array")),
        }
    }
}

pub(super) fn parse_text<T: FromStr<Err: Error + Send + Sync + 'static>>(
    field: String,
    text: &str,
    expected: &'static str,
) -> Result<T, Problem> {
    text.parse().map_err(|source: T::Err| Problem::Text {
        field,
        found: excerpt(text),
        expected,
        source: source.into(),
    })
}

pub(super) fn wrong(field: String, found: &Value, expected: &'static str) -> Problem {
    // The value may be as large as the file: only its kind is printed where it is a container.
    let found = match found {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        other => excerpt(&other.to_string()),
    };
    Problem::Type { field, found, expected }
}
