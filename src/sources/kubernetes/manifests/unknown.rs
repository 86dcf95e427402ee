//! Finds the fields of a manifest that its type does not have.
//!
//! In:  a manifest as it was written, and the object that was read from it.
//! Out: the paths of fields that the object has lost: `spec.listeners[0].hostName`.

use serde::Serialize;
use serde_json::Value;

/// The fields of `written` that are not in `object`. What the status has is for the cluster.
pub(super) fn fields(written: &Value, object: &impl Serialize) -> Vec<String> {
    let mut lost = Vec::new();
    if let Ok(kept) = serde_json::to_value(object) {
        compare(written, &kept, "", &mut lost);
    }
    lost.retain(|path| path != "status" && !path.starts_with("status."));
    lost
}

fn compare(written: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match kept.get(key) {
                    Some(kept) => compare(value, kept, &path, lost),
                    // The object is written without what is empty.
                    None if is_empty(value) => {}
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (number, (written, kept)) in written.iter().zip(kept).enumerate() {
                compare(written, kept, &format!("{path}[{number}]"), lost);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
