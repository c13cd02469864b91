//! `values.schema.json`: helm checks values against it before it renders anything.

use anyhow::Result;
use serde_json::{Map, Value as Json, json};

use super::values::{Value, Values};

/// The schema, as the text of its file.
pub(super) fn of(values: &Values) -> Result<String> {
    let mut schema = object(values, &[]);
    schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("title".to_owned(), json!("Values of the chart oarlock"));
    // What helm itself sets for charts that have others below them.
    if let Some(Json::Object(properties)) = schema.get_mut("properties") {
        properties.insert("global".to_owned(), json!({ "type": "object", "description": "Of charts above this one." }));
    }
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// An object with these keys, and no others: a misspelt one is refused.
fn object(values: &Values, path: &[String]) -> Map<String, Json> {
    let properties = values.below(path).map(|value| (value.key().to_owned(), Json::Object(one(values, value))));
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("properties".to_owned(), Json::Object(properties.collect()));
    schema
}

fn one(values: &Values, value: &Value) -> Map<String, Json> {
    let mut schema = if value.is_leaf() { Map::new() } else { object(values, &value.path) };
    let kind = match &value.default {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    schema.insert("type".to_owned(), json!(kind));
    if !value.description.is_empty() {
        schema.insert("description".to_owned(), json!(value.description));
    }
    if value.is_leaf() {
        schema.insert("default".to_owned(), value.default.clone());
    }
    schema.extend(value.schema.clone());
    schema
}
