//! Turns the labels of a compose file into the tree that Traefik's own files have.
//!
//! In:  `services.*.labels`, as a list or a map; `command` with `--entrypoints.NAME.address=:443`.
//! Out: one tree for each service, in which the compose service is the backend.

use super::super::finding::Failure;
use super::super::source::Text;
use super::tree::{MOST_DEPTH, Node, Value};

/// Where a router finds the service of its own container.
pub(super) const OWN_SERVICE: &str = "service of this container";

/// The trees of all services of a compose file.
///
/// # Errors
/// The name of a label has too many parts.
pub(super) fn trees(file: &Node, text: &Text) -> Result<Vec<Node>, Failure> {
    let services = file.get("services").map(Node::entries).unwrap_or_default();
    services.iter().map(|(name, service)| tree(name, service, text)).collect()
}

fn tree(name: &str, service: &Node, text: &Text) -> Result<Node, Failure> {
    let insert = |tree: &mut Node, path: &[&str], line: usize, value: &str| {
        if path.len() > MOST_DEPTH {
            let message = format_args!("the name of this label has more than {MOST_DEPTH} parts");
            return Err(Failure::at(text.origin(line), message));
        }
        tree.insert(path, line, value);
        Ok(())
    };
    let mut tree = Node { line: service.line, value: Value::Map(Vec::new()) };
    for (key, line, value) in pairs(service.get("labels")).into_iter().chain(pairs(service.at("deploy.labels"))) {
        if let Some(key) = strip_start(&key, "traefik.") {
            insert(&mut tree, &key.split('.').collect::<Vec<_>>(), line, &value)?;
        }
    }
    for (key, line, value) in pairs(service.get("command")) {
        if let Some(key) = strip_start(&key, "--entrypoints.") {
            let path: Vec<&str> = std::iter::once("entryPoints").chain(key.split('.')).collect();
            insert(&mut tree, &path, line, &value)?;
        }
    }
    name_backends(&mut tree, name);
    Ok(tree)
}

/// `loadbalancer.server.port` is a port of the container itself.
fn name_backends(tree: &mut Node, host: &str) {
    let services: Vec<(String, usize, String)> = tree
        .at("tcp.services")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|(name, node)| {
            let port = node.at("loadbalancer.server.port")?;
            Some((name.clone(), port.line, port.as_text().to_owned()))
        })
        .collect();
    for (name, line, port) in &services {
        let server = Node {
            line: *line,
            value: Value::Map(vec![("address".to_owned(), Node::text(*line, &format!("{host}:{port}")))]),
        };
        put(
            tree,
            &["tcp", "services", name, "loadbalancer", "servers"],
            Node { line: *line, value: Value::List(vec![server]) },
        );
    }
    if let [(only, line, _)] = &services[..] {
        let routers: Vec<String> = tree
            .at("tcp.routers")
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        for router in routers {
            tree.insert(&["tcp", "routers", &router, OWN_SERVICE], *line, only);
        }
    }
}

fn put(tree: &mut Node, path: &[&str], node: Node) {
    tree.insert(path, node.line, "");
    let mut place = tree;
    for key in path {
        let Value::Map(entries) = &mut place.value else { return };
        let Some((_, next)) = entries.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(key)) else { return };
        place = next;
    }
    *place = node;
}

/// `KEY=VALUE` of a list, or the entries of a map.
fn pairs(node: Option<&Node>) -> Vec<(String, usize, String)> {
    let Some(node) = node else { return Vec::new() };
    // Compose writes a dollar sign twice.
    let value = |text: &str| text.replace("$$", "$");
    match &node.value {
        Value::Map(entries) => {
            entries.iter().map(|(key, node)| (key.clone(), node.line, value(node.as_text()))).collect()
        }
        Value::List(items) => items
            .iter()
            .filter_map(|item| {
                item.as_text().split_once('=').map(|(key, text)| (key.to_owned(), item.line, value(text)))
            })
            .collect(),
        Value::Text(text) => text
            .split_whitespace()
            .filter_map(|word| word.split_once('=').map(|(key, text)| (key.to_owned(), node.line, value(text))))
            .collect(),
    }
}

fn strip_start<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    let head = text.get(..start.len())?;
    head.eq_ignore_ascii_case(start).then(|| &text[start.len()..])
}
