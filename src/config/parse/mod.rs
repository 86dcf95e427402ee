//! Turns the raw structs of all files into one [`Config`]: parse, don't validate.
//!
//! In:  the text of the routing file and its path, which `include` is relative to.
//! Out: a [`Config`], if there are no errors; and all problems.

mod backends;
mod checks;
mod conflicts;
mod listeners;
mod pools;
mod routes;
mod self_loops;
mod settings;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::at::{At, Spot};
use super::located::{self, Located};
use super::problem::{Place, Problems};
use super::raw::{self, Field};
use super::suggest::DidYouMean;
use super::{Config, Settings, Sources, files, yaml};

/// Parses `text` and the files it includes. Always returns which files were read, even on errors.
pub(super) fn config(text: &str, file: &Path, problems: &mut Problems) -> (Option<Config>, Sources) {
    let mut reading = Reading { files: Vec::new(), patterns: Vec::new(), hash: files::Hash::default() };
    let main: Arc<Path> = file.into();
    let top = At::top(&main);
    let Some(mut raw) = reading.raw::<raw::File>(text, &main, problems) else { return (None, Sources::new(file)) };

    let mut routes = vec![(Arc::clone(&main), raw.routes.take())];
    let mut pools = vec![(Arc::clone(&main), raw.pools.take())];
    for (file, included) in include(raw.include.take(), &top, &mut reading, problems) {
        routes.push((Arc::clone(&file), included.routes));
        pools.push((file, included.pools));
    }

    let token = settings::token_file(raw.admin.as_ref(), file);
    let sources = Sources { files: reading.files.clone(), patterns: reading.patterns, token };

    let congestion = settings::default_congestion(raw.tcp.as_mut(), &top, problems);
    let listeners = listeners::parse(raw.listeners, &top, congestion.as_ref(), problems);
    let around = pools::Around { bound: &listeners.bound, congestion: congestion.as_ref() };
    let mut pools = pools::parse(pools, around, problems);
    let routes = routes::parse(routes, &listeners.names, &pools.names, problems);
    checks::default_names(&mut pools, &routes.parsed, problems);
    let mut fallback = |raw, key, default| routes::fallback(raw, &top, key, default, &pools.names, problems);
    let settings = Settings {
        no_sni: fallback(raw.no_sni, "no_sni", super::Refuse::Alert),
        unmatched: fallback(raw.unmatched, "unmatched", super::Refuse::Alert),
        not_tls: fallback(raw.not_tls, "not_tls", super::Refuse::Close),
        timeouts: settings::timeouts(raw.timeouts, &top, problems),
        limits: settings::limits(raw.limits, &top, problems),
        relay: settings::relay(raw.relay, &top, problems),
        tcp: settings::tcp(raw.tcp, &top, problems),
        runtime: settings::runtime(raw.runtime, &top, problems),
        admin: settings::admin(raw.admin, &top, &listeners.bound, problems),
        log: settings::log(raw.log, &top),
        reload: settings::reload(raw.reload, &top, problems),
        hash: reading.hash.finish(),
        files: reading.files,
        sources: sources.clone(),
        listeners: listeners.parsed,
        pools: pools.parsed,
    };
    let config = Config { settings, routes: routes.parsed };
    conflicts::find(&config.routes, &routes.indices, config.listeners.len(), problems);
    if problems.errors() > 0 {
        return (None, sources);
    }
    pools::warn_of_unused(&config, &pools.places, problems);
    listeners::warn_of_unused(&config, &listeners.places, problems);
    (Some(config), sources)
}

/// The values of one key, from each file.
type FromFiles<T> = Vec<(Arc<Path>, Field<T>)>;

/// What has been read so far.
struct Reading {
    files: Vec<PathBuf>,
    patterns: Vec<String>,
    hash: files::Hash,
}

impl Reading {
    fn raw<T: for<'t> Deserialize<'t>>(&mut self, text: &str, file: &Arc<Path>, problems: &mut Problems) -> Option<T> {
        self.files.push(file.to_path_buf());
        self.hash.add(text);
        let top = At::top(file);
        files::check_start(text, &top, problems)?;
        let node = yaml::read(text, file, problems)?;
        located::read(node, &top, problems)
    }
}

/// Reads the files that `include` names, in the order of its patterns, then by file name.
fn include(
    field: Field<raw::OneOrMany<String>>,
    top: &At<'_>,
    reading: &mut Reading,
    problems: &mut Problems,
) -> Vec<(Arc<Path>, raw::Included)> {
    let main = top.place().file;
    let mut seen = HashSet::from([main.to_path_buf()]);
    let mut included = Vec::new();
    each(field, top, "include", problems, |pattern, at, problems| {
        reading.patterns.push(pattern.clone());
        let found = match files::find(&pattern, &main) {
            Ok(found) if found.is_empty() => {
                problems.warning(at, "no file matches");
                return None;
            }
            Ok(found) => found,
            Err(error) => {
                problems.error(at, error);
                return None;
            }
        };
        for path in found {
            if path == *main {
                problems.error(at, "the file includes itself; choose a pattern that does not match it");
            }
            if seen.len() > files::MAX_FILES {
                problems.error(at, format_args!("more than {} files are included", files::MAX_FILES));
                return None;
            }
            if seen.insert(path.clone()) {
                let file: Arc<Path> = path.into();
                let text = files::read(&file, problems);
                if let Some(raw) = text.and_then(|text| reading.raw(&text, &file, problems)) {
                    included.push((file, raw));
                }
            }
        }
        Some(())
    });
    included
}

/// Opens an optional map: its content and its place.
fn section<'a, T: Default>(field: Field<T>, outer: &'a At<'a>, key: &'a str) -> (T, At<'a>) {
    match field {
        Some(located) => (located.value.unwrap_or_default(), outer.key(key, located.spot)),
        None => (T::default(), outer.key(key, outer.spot)),
    }
}

/// Parses an optional value. `None`: it is absent, or invalid and reported.
fn read<T, R, E: fmt::Display>(
    field: Field<T>,
    outer: &At<'_>,
    key: &str,
    problems: &mut Problems,
    parse: impl FnOnce(T) -> Result<R, E>,
) -> Option<R> {
    let Located { spot, value } = field?;
    parse(value?).map_err(|error| problems.error(&outer.key(key, spot), error)).ok()
}

/// Parses a value or a list of values; invalid ones are reported and left out.
fn each<T, R>(
    field: Field<raw::OneOrMany<T>>,
    outer: &At<'_>,
    key: &str,
    problems: &mut Problems,
    mut parse: impl FnMut(T, &At<'_>, &mut Problems) -> Option<R>,
) -> Vec<R> {
    let Some(Located { spot, value: Some(value) }) = field else { return Vec::new() };
    let at = outer.key(key, spot);
    match value {
        raw::OneOrMany::One(one) => {
            one.value.and_then(|value| parse(value, &at.moved(one.spot), problems)).into_iter().collect()
        }
        raw::OneOrMany::Many(many) => each_of(many, &at, problems, parse),
    }
}

/// Parses a list of values; invalid ones are reported and left out.
fn each_of<T, R>(
    list: Vec<Located<T>>,
    at: &At<'_>,
    problems: &mut Problems,
    mut parse: impl FnMut(T, &At<'_>, &mut Problems) -> Option<R>,
) -> Vec<R> {
    let read = |(index, Located { spot, value })| parse(value?, &at.index(index, spot), problems);
    list.into_iter().enumerate().filter_map(read).collect()
}

/// Rejects a value that is not implemented, unless it equals the default.
fn only<T: PartialEq>(
    field: Field<T>,
    outer: &At<'_>,
    key: &str,
    (default, written): (T, &str),
    problems: &mut Problems,
) {
    read(field, outer, key, problems, |value| {
        if value == default { Ok(()) } else { Err(format_args!("not supported yet; only `{written}` is").to_string()) }
    });
}

/// Rejects a key that is not implemented.
fn refuse_unbuilt<T>(field: Option<&Located<T>>, outer: &At<'_>, key: &str, problems: &mut Problems) {
    if let Some(located) = field {
        problems.error(&outer.key(key, located.spot), "not supported yet");
    }
}

/// Reports that a key is missing from the map at `at`.
fn require<T>(field: Option<&T>, at: &At<'_>, key: &str, problems: &mut Problems) {
    if field.is_none() {
        problems.error(at, format_args!("`{key}` is missing"));
    }
}

/// Maps names to numbers, to resolve references.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, usize>,
    /// How many look-ups have failed. Each suggestion compares with every name.
    missed: Cell<usize>,
}

impl Names {
    /// Assigns the next number to `name`, wherever it is defined.
    fn define(&mut self, name: &Arc<str>, number: usize) {
        self.numbers.entry(Arc::clone(name)).or_insert(number);
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn find(&self, name: &str, kind: &'static str) -> Result<usize, Dangling<'_>> {
        self.numbers.get(name).copied().ok_or_else(|| {
            self.missed.set(self.missed.get() + 1);
            let suggest = self.missed.get() <= MAX_SUGGESTIONS;
            let known = self.numbers.keys().map(|known| &**known).take(if suggest { usize::MAX } else { 0 });
            let meant = DidYouMean::new(name, known);
            Dangling { kind, name: name.chars().take(MAX_NAME_BYTES).collect(), meant }
        })
    }
}

/// A reference to an undefined name.
struct Dangling<'n> {
    kind: &'static str,
    name: String,
    meant: DidYouMean<'n>,
}

impl fmt::Display for Dangling<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {} `{}`{}", self.kind, self.name.escape_debug(), self.meant)
    }
}

/// Validates a name that the operator chose; it is used verbatim in metrics and the log.
fn name(text: &str) -> Result<Arc<str>, NameError> {
    match text {
        "" => Err(NameError::Empty),
        _ if text.len() > MAX_NAME_BYTES => Err(NameError::Long),
        _ if text.chars().any(char::is_control) => Err(NameError::Control),
        _ => Ok(text.into()),
    }
}

#[derive(Clone, Copy, Debug)]
enum NameError {
    Empty,
    Long,
    Control,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the name is empty"),
            Self::Long => write!(f, "the name is longer than {MAX_NAME_BYTES} bytes"),
            Self::Control => f.write_str("the name contains a control character"),
        }
    }
}

/// Converts a spot in the file of `at` into a place.
fn place(at: &At<'_>, spot: Spot) -> Place {
    at.moved(spot).place()
}

/// No more problems than this are kept anyway.
const MAX_SUGGESTIONS: usize = 100;
/// The longest pattern, and so the longest default route name, is three bytes longer than a DNS name.
const MAX_NAME_BYTES: usize = 256;
