//! Makes the JSON Schema of the routing file, for the test that holds `config.schema.json` to it. The program prints that
//! file: what makes it would be a thirtieth of the program.
//!
//! In:  the types of the file.
//! Out: the schema.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};

use super::file::File;

/// The JSON Schema (draft 2020-12) of the routing file.
pub(super) fn schema() -> Schema {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    RecursiveTransform(tidy).transform(&mut schema);
    schema
}

/// An `Option` here is a key that may be left out, never one that may be null; and a required key has no default.
fn tidy(schema: &mut Schema) {
    if schema.get("default").is_some_and(serde_json::Value::is_null) {
        schema.remove("default");
    }
    let required = schema.get("required").and_then(|keys| keys.as_array()).cloned().unwrap_or_default();
    for key in required.iter().filter_map(|key| key.as_str()) {
        let property = schema.get_mut("properties").and_then(|properties| properties.get_mut(key));
        property.and_then(|property| property.as_object_mut()).map(|property| property.remove("default"));
    }
    if let Some(types) = schema.get_mut("type").and_then(|types| types.as_array_mut()) {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(choices) = schema.get_mut("anyOf").and_then(|choices| choices.as_array_mut()) else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    if let [only] = choices.as_slice() {
        let only = only.as_object().cloned().unwrap_or_default();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.ensure_object().entry(key).or_insert(value);
        }
    }
}

#[test]
fn the_kept_schema_is_that_of_the_settings() {
    let made = format!("{:#}\n", schema().to_value());
    crate::kept::compare("config.schema.json", &made);
}
