//! Reads rules that take the name of a backend from a map.
//!
//! In:  `%[req.ssl_sni,lower,map_end(FILE,default)]`.
//! Out: [`Lookup`]: the entries in the order in which HAProxy tries them, and the default.
//! Source: HAProxy's configuration manual, 7.3.1 (map), 8.2.4 (log-format expressions).

use super::super::finding::Findings;
use super::super::model::Origin;
use super::super::source::{Library, Text};
use super::acl::reader;
use crate::server_name::Pattern;

/// A map from names to backends.
pub(super) struct Lookup {
    /// The first that matches wins.
    pub entries: Vec<(Pattern, String, Origin)>,
    /// What the expression gives for other names.
    pub otherwise: Option<String>,
}

/// Reads an expression; `None`: it is not one.
pub(super) fn lookup(
    expression: &str,
    library: &mut Library<'_>,
    findings: &mut Findings,
) -> Option<Result<Lookup, String>> {
    let inner = expression.strip_prefix("%[")?.strip_suffix(']')?;
    Some(read(inner, library, findings))
}

fn read(expression: &str, library: &mut Library<'_>, findings: &mut Findings) -> Result<Lookup, String> {
    let Some((fetch, converters)) = expression.split_once(',') else {
        return Err("a name that the client chose cannot be the name of a pool; write routes".to_owned());
    };
    if !matches!(fetch, "req.ssl_sni" | "req_ssl_sni") {
        return Err(format!("`{fetch}` cannot choose a pool; only the server name can"));
    }
    let converter = converters.strip_prefix("lower,").unwrap_or(converters);
    let (name, arguments) = converter
        .strip_suffix(')')
        .and_then(|call| call.split_once('('))
        .ok_or_else(|| format!("the converter `{converter}` is not supported"))?;
    let method = match name {
        "map" | "map_str" => "str",
        other => other.strip_prefix("map_").ok_or_else(|| format!("the converter `{name}` is not supported"))?,
    };
    let (file, otherwise) = arguments.split_once(',').map_or((arguments, None), |(file, other)| (file, Some(other)));
    let text = library.open(file.as_ref()).map_err(|failure| failure.to_string())?;
    let entries = entries(&text, method, findings)?;
    Ok(Lookup { entries, otherwise: otherwise.map(str::to_owned) })
}

/// A name and a backend a line. Empty lines and those that begin with `#` count for nothing.
fn entries(text: &Text, method: &str, findings: &mut Findings) -> Result<Vec<(Pattern, String, Origin)>, String> {
    let read = reader(method)?;
    let mut entries = Vec::new();
    for (line, origin) in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, backend)) = line.split_once([' ', '\t']) else {
            findings.left_out(&origin, line, "it has no value");
            continue;
        };
        match read(key) {
            Ok(names) => {
                if let Some(others) = names.besides {
                    findings.left_out_in_part(&origin, key, others);
                }
                let entry = |pattern| (pattern, backend.trim().to_owned(), origin.clone());
                entries.extend(names.patterns.into_iter().map(entry));
            }
            Err(why) => findings.left_out(&origin, key, why),
        }
    }
    Ok(entries)
}
