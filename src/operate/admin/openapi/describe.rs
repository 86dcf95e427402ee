//! Makes the description of the API, for the test that holds `docs/openapi.json` to it.
//!
//! In:  the table of endpoints; the types of their queries and answers.
//! Out: the document.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::endpoints::{Answer, Endpoint, endpoints, of};
use crate::operate::admin::error::ProblemDetails;
use crate::operate::admin::schemas::ID;
use crate::operate::status::ReloadAnswer;
use crate::telemetry::VERSION;

fn build() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let operation = endpoint.operation(&mut schemas);
        paths.entry(endpoint.path).or_insert_with(|| json!({}))[endpoint.method] = operation;
    }
    let _ = of::<ProblemDetails>(&mut schemas);
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "snigate admin API",
            "version": VERSION,
            "description": "docs/admin.md explains it.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token of `admin.token_file`" },
                "socket": {
                    "type": "apiKey", "in": "header", "name": "X-Snigate-Control",
                    "description": "Any value, through a unix socket of `admin.bind`"
                }
            }
        }
    })
}

impl Endpoint {
    fn operation(&self, schemas: &mut SchemaGenerator) -> Value {
        let content = match self.answer {
            Answer::Json(schema) => json!({ "application/json": { "schema": schema(schemas) } }),
            Answer::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
            Answer::Texts(kinds) => {
                kinds.iter().map(|kind| ((*kind).to_owned(), json!({ "schema": { "type": "string" } }))).collect()
            }
        };
        let mut responses = Map::new();
        responses.insert("200".to_owned(), json!({ "description": "Done", "content": content }));
        let problem = json!({
            "description": "Why not",
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/ProblemDetails" } } }
        });
        // A name in `Host` that anybody may own, or a change without proof.
        let is_probe = matches!(self.path, "/healthz" | "/readyz");
        let denied: &[u16] = if is_probe { &[] } else { &[401, 403] };
        for status in self.errors.iter().chain(denied) {
            responses.insert(status.to_string(), problem.clone());
        }
        if self.path == "/readyz" {
            let content = json!({ "text/plain": { "schema": { "type": "string" } } });
            responses.insert("503".to_owned(), json!({ "description": "The stage", "content": content }));
        }
        if self.path == "/api/v1/reload" {
            let content = json!({ "application/json": { "schema": of::<ReloadAnswer>(schemas) } });
            responses.insert("422".to_owned(), json!({ "description": "It was rejected", "content": content }));
        }
        let mut operation = json!({
            "summary": self.summary,
            "operationId": self.id(),
            "parameters": self.parameters(schemas),
            "responses": responses,
            "security": if self.method == "get" { json!([{}, { "token": [] }]) } else { json!([{ "token": [] }, { "socket": [] }]) },
        });
        if self.method == "put" {
            operation["requestBody"] = self.body();
        }
        operation
    }

    fn id(&self) -> String {
        let words = self.path.trim_start_matches("/api/v1/").replace(['{', '}'], "").replace(['/', '.'], "_");
        format!("{}_{}", self.method, words.trim_matches('_'))
    }

    fn body(&self) -> Value {
        let (name, schema) = if self.path.ends_with("/state") {
            ("state", json!({ "enum": ["ready", "drain", "down"] }))
        } else {
            ("weight", json!({ "type": "integer", "minimum": 0, "maximum": crate::settings::MAX_WEIGHT }))
        };
        let object = json!({
            "type": "object", "properties": { name: schema }, "required": [name], "additionalProperties": false
        });
        json!({
            "required": true,
            "content": { "application/json": { "schema": object }, "text/plain": { "schema": schema } }
        })
    }

    fn parameters(&self, schemas: &mut SchemaGenerator) -> Vec<Value> {
        let in_path = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path
            .map(|name| {
                let schema =
                    if name == "id" { json!({ "type": "string", "pattern": ID }) } else { json!({ "type": "string" }) };
                json!({ "name": name, "in": "path", "required": true, "schema": schema })
            })
            .collect();
        let query = inline((self.query)(schemas), schemas);
        let required: Vec<&str> =
            query["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let all = query["properties"].as_object().into_iter().flatten();
        for (name, schema) in all.filter(|(name, _)| !self.without.contains(&&***name)) {
            // A parameter is absent instead.
            let mut schema = without_null(schema.clone());
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            if self.method == "delete" && schema["type"] == "string" {
                // A blank one would match everything.
                schema = json!({ "type": "string", "minLength": 1, "pattern": "\\S" });
            }
            parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required.contains(&&**name),
                "description": description.unwrap_or_default(),
                "schema": schema
            }));
        }
        if self.path == "/api/v1/events" {
            let schema = json!({ "type": "string" });
            parameters.push(json!({ "name": "Last-Event-ID", "in": "header", "required": false, "schema": schema }));
        }
        parameters
    }
}

/// What a reference leads to.
fn inline(schema: Value, schemas: &SchemaGenerator) -> Value {
    let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
    name.and_then(|name| schemas.definitions().get(name)).cloned().unwrap_or(schema)
}

fn without_null(mut schema: Value) -> Value {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = &types[..] {
            schema["type"] = one.clone();
        }
    }
    if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
        any.retain(|one| one["type"] != "null");
        if let [one] = &any[..] {
            return one.clone();
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_kept_document_is_that_of_the_endpoints() {
        crate::kept::compare("docs/openapi.json", &format!("{:#}\n", build()));
    }

    /// Each `.route("PATH", METHOD(…).METHOD(…))` of the router.
    fn routes() -> BTreeSet<(String, String)> {
        let code = include_str!("../mod.rs").split_once("fn router(").expect("the router").1;
        let code = code.split_once("\n}\n").expect("its end").0;
        let mut routes = BTreeSet::new();
        for route in code.split(".route(").skip(1) {
            let path = route.split('"').nth(1).expect("a path").to_owned();
            for method in ["get", "put", "post", "delete"] {
                if route.contains(&format!("{method}(")) {
                    routes.insert((path.clone(), method.to_owned()));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document = build();
        let paths = document["paths"].as_object().expect("paths");
        let methods = |(path, of): (&String, &Value)| {
            let methods: Vec<String> = of.as_object().expect("methods").keys().cloned().collect();
            methods.into_iter().map(|method| (path.clone(), method)).collect::<Vec<_>>()
        };
        let documented: BTreeSet<_> = paths.iter().flat_map(methods).collect();
        assert_eq!(documented, routes());
        assert!(documented.len() > 15, "{documented:?}");
    }

    #[test]
    fn the_document_is_closed_and_its_queries_are_parameters() {
        let document = build();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().expect("a reference");
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        let parameters = &document["paths"]["/api/v1/routes"]["get"]["parameters"];
        let names: Vec<_> = parameters.as_array().expect("a list").iter().map(|of| of["name"].as_str()).collect();
        assert_eq!(names.len(), 5, "{parameters}");
        let filters = document["paths"]["/api/v1/connections"]["delete"]["parameters"].as_array().expect("a list");
        let not_blank = json!({ "type": "string", "minLength": 1, "pattern": "\\S" });
        assert_eq!(filters.iter().filter(|of| of["schema"] == not_blank).count(), 6, "{filters:?}");
        let explain = &document["paths"]["/api/v1/explain"]["get"]["parameters"];
        let required = |name: &str| {
            explain.as_array().expect("a list").iter().any(|of| of["name"] == name && of["required"] == true)
        };
        assert!(required("name") && !required("alpn"), "{explain}");
    }
}
