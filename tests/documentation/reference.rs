//! Holds docs/reference.md to the settings: it is made from the schema that `snigate schema` prints.
//!
//! After a change to a setting, `SNIGATE_BLESS=1 cargo test --test documentation reference` writes the page.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value};

use crate::blocks::root;

/// The keys at the top of a file, in the order of the page, with the pages that explain them.
const SECTIONS: [(&str, &str); 19] = [
    ("listeners", "[Listeners](listeners.md), [port 80](port-80.md), [PostgreSQL and silent clients](starttls.md)"),
    ("routes", "[Routing](routing.md), [access control](access.md)"),
    ("no_sni", "[Routing](routing.md#no_sni-unmatched-not_tls)"),
    ("unmatched", "[Routing](routing.md#no_sni-unmatched-not_tls)"),
    ("not_tls", "[Routing](routing.md#no_sni-unmatched-not_tls)"),
    (
        "pools",
        "[Pools and balancing](balancing.md), [health](health.md), [DNS names](names.md), [PROXY protocol](proxy-protocol.md)",
    ),
    ("include", "[Configuration](configuration.md#include)"),
    ("ech", "[Encrypted ClientHello](ech.md)"),
    ("timeouts", "[Limits and timeouts](limits.md#timeouts)"),
    ("limits", "[Limits and timeouts](limits.md#limits)"),
    ("relay", "[Tuning](tuning.md#relay)"),
    ("tcp", "[Tuning](tuning.md#tcp)"),
    ("runtime", "[Tuning](tuning.md#runtime)"),
    ("sandbox", "[Security](security.md#the-sandbox)"),
    ("admin", "[Observability](observability.md#admin), [the admin address](admin.md)"),
    ("log", "[Observability](observability.md#log), [log](logs.md)"),
    ("reload", "[Reload and upgrade](reload.md#when-a-change-is-read)"),
    ("docker", "[Containers found by label](docker.md)"),
    ("kubernetes", "[Kubernetes](kubernetes.md#settings)"),
];

const HEAD: &str = "# Every key\n\n\
    <!-- Made from the settings by tests/documentation/reference.rs, which holds it current. Do not edit it. -->\n\n\
    All keys of the routing file, with their types and defaults. The pages of the topics explain them with examples. `[]` stands for an \
    entry\nof a list, `NAME` for a name of your choice. Durations are written `500ms`, `5s`, `10m`, `1h`; sizes `512B`, `16KiB`, `1MiB`, `1GiB`.\n";

#[test]
fn the_reference_is_that_of_the_settings() {
    let made = page(&schema());
    let path = root().join("docs/reference.md");
    if std::env::var_os("SNIGATE_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let difference = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "docs/reference.md is not current; `SNIGATE_BLESS=1 cargo test --test documentation reference` writes it\n{difference:#?}"
    );
}

fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_snigate")).arg("schema").output().unwrap();
    serde_json::from_slice(&output.stdout).expect("a schema")
}

fn page(schema: &Value) -> String {
    let top = schema["properties"].as_object().expect("keys");
    let mut sections: Vec<(&str, &str)> = SECTIONS.into_iter().filter(|(key, _)| top.contains_key(*key)).collect();
    let listed = |key: &str| SECTIONS.iter().any(|(other, _)| *other == key);
    sections.extend(top.keys().filter(|key| !listed(key)).map(|key| (&**key, "")));
    let mut page = HEAD.to_owned();
    for (key, more) in sections {
        write!(page, "\n## `{key}`\n\n").unwrap();
        if !more.is_empty() {
            write!(page, "Explained in {more}.\n\n").unwrap();
        }
        page += "| key | type | default | meaning |\n|---|---|---|---|\n";
        let mut rows = Rows { schema, text: String::new() };
        rows.add(key, &top[key], is_required(schema, key));
        page += &rows.text;
    }
    page
}

/// The rows of one table.
struct Rows<'a> {
    schema: &'a Value,
    text: String,
}

impl Rows<'_> {
    /// A row for `key`, and one for each key below it.
    fn add(&mut self, key: &str, node: &Value, required: bool) {
        let node = self.resolved(node);
        let default = match node.get("default") {
            _ if required => "required".to_owned(),
            None | Some(Value::Object(_)) => String::new(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(Value::Array(list)) if list.is_empty() => "none".to_owned(),
            Some(value) => format!("`{value}`").replace('"', ""),
        };
        let kind = self.kind(&node);
        let row = format!("| `{key}` | {kind} | {default} | {} |\n", self.meaning(&node));
        self.text += &row;
        self.add_below(key, &node);
    }

    fn add_below(&mut self, key: &str, node: &Map<String, Value>) {
        if let Some(Value::Object(properties)) = node.get("properties") {
            for (name, property) in properties {
                let required = is_required(&Value::Object(node.clone()), name);
                self.add(&format!("{key}.{name}"), property, required);
            }
        }
        if let Some(entry @ Value::Object(_)) = node.get("additionalProperties") {
            let entry = self.resolved(entry);
            self.add_below(&format!("{key}.NAME"), &entry);
        }
        if let Some(items) = node.get("items") {
            let items = self.resolved(items);
            self.add_below(&format!("{key}[]"), &items);
        }
        for variant in variants(node) {
            let variant = self.resolved(variant);
            self.add_below(key, &variant);
        }
    }

    /// With what its `$ref` leads to; what stands beside the reference wins.
    fn resolved(&self, node: &Value) -> Map<String, Value> {
        let node = node.as_object().cloned().unwrap_or_default();
        let Some(name) = node.get("$ref").and_then(|to| to.as_str()?.strip_prefix("#/$defs/")) else { return node };
        let mut whole = self.resolved(&self.schema["$defs"][name]);
        whole.extend(node.clone().into_iter().filter(|(key, _)| key != "$ref"));
        whole
    }

    fn kind(&self, node: &Map<String, Value>) -> String {
        if let Some(word) = node.get("const") {
            return format!("`{word}`").replace('"', "");
        }
        let mut kinds: Vec<String> = Vec::new();
        for variant in variants(node) {
            let kind = self.kind(&self.resolved(variant));
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if !kinds.is_empty() {
            let words = kinds.iter().all(|kind| kind.starts_with('`'));
            return kinds.join(if words { ", " } else { " or " });
        }
        match node.get("type").and_then(Value::as_str) {
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("array") => match node.get("items").map(|items| self.kind(&self.resolved(items))) {
                Some(kind) if kind != "text" => format!("list of: {kind}"),
                _ => "list of text".to_owned(),
            },
            Some("integer") => range(node),
            Some("object") => "map".to_owned(),
            _ => match node.get("pattern").and_then(Value::as_str) {
                Some(pattern) if pattern.contains("ms|s") => "duration".to_owned(),
                Some(pattern) if pattern.contains("KiB") => "size".to_owned(),
                _ => "text".to_owned(),
            },
        }
    }

    /// What it is for, then what its words mean.
    fn meaning(&self, node: &Map<String, Value>) -> String {
        let mut meaning = sentence(node);
        for variant in variants(node) {
            let variant = self.resolved(variant);
            let described = sentence(&variant);
            if let (Some(Value::String(word)), false) = (variant.get("const"), described.is_empty()) {
                write!(meaning, " `{word}`: {described}").unwrap();
            }
        }
        meaning.trim().replace('|', "\\|")
    }
}

fn sentence(node: &Map<String, Value>) -> String {
    node.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
}

fn variants(node: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let lists = ["anyOf", "oneOf"].into_iter().filter_map(|key| node.get(key)?.as_array());
    lists.flatten()
}

fn range(node: &Map<String, Value>) -> String {
    match (node.get("minimum"), node.get("maximum")) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("number from {least}"),
        _ => "number".to_owned(),
    }
}

fn is_required(schema: &Value, key: &str) -> bool {
    schema["required"].as_array().is_some_and(|keys| keys.iter().any(|other| other == key))
}
