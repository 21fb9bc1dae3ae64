//! The JSON Schema of a contract document, generated from its types: editors complete and check by it, and so does [`read`].
//!
//! [`read`]: super::read

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use super::Contract;

/// The schema (draft 2020-12).
pub fn json_schema() -> &'static Value {
    &SCHEMA
}

/// The schema as `schemas/contract.schema.json` has it.
pub fn json_schema_text() -> String {
    format!("{:#}\n", *SCHEMA)
}

/// What `$ref` names, or the schema itself.
pub(super) fn resolve(schema: &'static Value) -> &'static Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(|name| json_schema().get("$defs")?.get(name)).unwrap_or(schema)
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with_transform(WithoutNull);
    settings.into_generator().into_root_schema_for::<Contract>().to_value()
});

/// An optional field is left out, never `null`: a field without a value is a forgotten one.
#[derive(Debug, Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        transform_subschemas(self, schema);
        let Some(map) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(any)) = map.get_mut("anyOf") {
            any.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = any.as_slice() {
                let only = only.clone();
                map.remove("anyOf");
                map.extend(only);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contract.schema.json");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(stored == json_schema_text(), "run: hydrometer contract schema > schemas/contract.schema.json");
    }

    /// The reader walks by these keywords; another one would be checked by editors and not by it.
    #[test]
    fn the_schema_says_nothing_that_the_reader_does_not_check() {
        const KEYWORDS: [&str; 17] = [
            "$schema",
            "title",
            "description",
            "type",
            "properties",
            "required",
            "additionalProperties",
            "$ref",
            "$defs",
            "items",
            "enum",
            "const",
            "oneOf",
            "pattern",
            "format",
            "minimum",
            "maximum",
        ];
        fn check(schema: &Value) {
            for (keyword, value) in schema.as_object().unwrap() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{keyword}");
                match keyword.as_str() {
                    "properties" | "$defs" => value.as_object().unwrap().values().for_each(check),
                    "oneOf" => value.as_array().unwrap().iter().for_each(check),
                    "items" => check(value),
                    "additionalProperties" if value.is_object() => check(value),
                    "pattern" => assert_eq!(value, super::super::DECIMAL_PATTERN),
                    _ => (),
                }
            }
        }
        check(json_schema());
        assert!(!json_schema_text().contains("null"));
    }
}
