//! Turns the trees of all files into one [`Config`]: parse, don't validate.
//!
//! In:  the text of the routing file and its path, which `include` is relative to.
//! Out: a [`Config`], if there are no errors; and all problems.

mod checks;
mod conflicts;
mod ech;
mod first_bytes;
mod listeners;
mod per_client;
mod lists;
mod names;
mod pools;
mod ranges;
mod routes;
mod self_loops;
mod settings;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::self_loops::Ours;
use super::at::At;
use super::lists::Lists;
use super::problem::{Problem, Problems};
use super::reader::{Cursor, Reading};
use super::suggest::DidYouMean;
use super::yaml::Node;
use super::{AdminSection, Config, Settings, Sources, file, files, yaml};

/// Parses `text` and the files it includes. Always returns which files were read, even on errors.
pub(super) fn config(text: &str, file: &Path, problems: &mut Problems) -> (Option<Config>, Sources) {
    let mut texts = Texts { files: Vec::new(), patterns: Vec::new(), hash: files::Hash::default() };
    let main: Arc<Path> = file.into();
    let Some(node) = texts.tree(text, &main, problems) else { return (None, Sources::new(file)) };
    let reading = Reading::default();
    reading.lists.replace(Lists::beside(file));
    reading.problems.replace(std::mem::take(problems));
    let parsed = with_included(&node, &main, texts, &reading);
    *problems = reading.problems.take();
    parsed
}

/// Why there is no [`AdminSection`].
pub(super) enum NoAdmin {
    /// The text has no tree of keys.
    Tree(Problems),
    /// The section has errors.
    Section(Problems),
}

/// Reads only the `admin` section of `text`.
pub(super) fn admin(text: &str, file: &Path) -> Result<AdminSection, NoAdmin> {
    let mut problems = Problems::default();
    let mut texts = Texts { files: Vec::new(), patterns: Vec::new(), hash: files::Hash::default() };
    let file: Arc<Path> = file.into();
    let Some(node) = texts.tree(text, &file, &mut problems) else { return Err(NoAdmin::Tree(problems)) };
    let reading = Reading::default();
    let top = Cursor::new(&node, &file, &reading);
    let token_file = settings::token_file(&top);
    let section = AdminSection { admin: top.section("admin"), token_file, unreadable: None };
    // Those of the tree are variables of the environment that are not set here, wherever they stand.
    let of_admin = |problem: &&Problem| problem.path == "admin" || problem.path.starts_with("admin.");
    let reported = reading.problems.take();
    let wrong: Vec<Problem> = problems.iter().filter(of_admin).chain(reported.iter()).cloned().collect();
    let mut problems = Problems::default();
    wrong.into_iter().for_each(|problem| problems.push(problem));
    if problems.errors() == 0 { Ok(section) } else { Err(NoAdmin::Section(problems)) }
}

fn with_included(node: &Node<'_>, main: &Arc<Path>, mut texts: Texts, reading: &Reading) -> (Option<Config>, Sources) {
    let top = Cursor::new(node, main, reading);
    if !top.is_map(file::KEYS) {
        return (None, Sources::new(main));
    }
    let included = include(&top, &mut texts);
    let trees: Vec<(&Arc<Path>, Node<'_>)> = (included.iter())
        .filter_map(|(file, text)| {
            let mut problems = reading.problems.borrow_mut();
            Some((file, texts.tree(text, file, &mut problems)?))
        })
        .collect();
    let mut tops = vec![top];
    for (file, node) in &trees {
        let top = Cursor::new(node, file, reading);
        if top.is_map(file::INCLUDED_KEYS) {
            tops.push(top);
        }
    }
    let mut sources = Sources {
        files: texts.files.clone(),
        patterns: texts.patterns.clone(),
        token: settings::token_file(&top),
        ech: settings::ech_paths(&top),
        lists: Vec::new(),
    };
    let mut config = merged(&tops, texts);
    sources.lists = reading.lists.take().files;
    if let Some(config) = &mut config {
        config.settings.sources = sources.clone();
    }
    (config, sources)
}

/// The configuration that the files, the main one first, make together.
fn merged(tops: &[Cursor<'_>], mut texts: Texts) -> Option<Config> {
    let top = &tops[0];
    let tcp = settings::tcp(top);
    let limits = settings::limits(top);
    let per_client = limits.per_client.as_ref().and_then(|limits| limits.0.as_ref());
    let mut listeners = listeners::parse(top, &tcp.congestion, per_client);
    let (admin, token) = settings::admin(top, &mut listeners.bound);
    let pools = pools::parse(tops, Ours { bound: &listeners.bound, admin: &admin }, &tcp.congestion);
    let timeouts = settings::timeouts(top);
    first_bytes::silent(&listeners.parsed, top, &pools.names, timeouts.hello);
    listeners::check_pools(top, &pools.names);
    let routes = routes::parse(tops, &listeners.names, &pools.names, per_client);
    let fallback = |key, default| routes::fallback(top, key, default, &pools.names);
    if let Some(hash) = top.reading.lists.borrow().hash() {
        texts.hash.add(&hash);
    }
    let (ech, ech_keys) = settings::ech(top);
    // Of what everybody may know: a hash of the private keys would say something about them.
    for key in ech_keys.iter().flat_map(|keys| keys.iter()) {
        texts.hash.add(&key.file);
        texts.hash.add(&key.config.bytes.escape_ascii().to_string());
    }
    let settings = Settings {
        no_sni: fallback("no_sni", file::DEFAULT_REFUSE),
        unmatched: fallback("unmatched", file::DEFAULT_REFUSE),
        not_tls: fallback("not_tls", file::DEFAULT_REFUSE_NOT_TLS),
        ech,
        ech_keys,
        timeouts,
        limits,
        relay: settings::relay(top),
        tcp,
        runtime: settings::runtime(top),
        sandbox: top.section("sandbox"),
        admin,
        token,
        log: settings::log(top),
        reload: settings::reload(top),
        docker: settings::docker(top),
        kubernetes: settings::kubernetes(top, &pools.names),
        hash: texts.hash.finish(),
        files: texts.files,
        sources: Sources::default(),
        listeners: listeners.parsed,
        pools: pools.parsed,
    };
    let mut config = Config { settings, routes: routes.parsed };
    pools::default_check_names(&mut config, &pools.places, top);
    first_bytes::starttls(&mut config, &pools.places, top);
    let problems = &mut *top.reading.problems.borrow_mut();
    conflicts::find(&config.routes, &routes.indices, config.listeners.len(), problems);
    if problems.errors() > 0 {
        return None;
    }
    ech::warn(&config, top, problems);
    pools::warn_of_unused(&config, &pools.places, problems);
    pools::warn_of_relays(&config, &pools.places, problems);
    self_loops::warn_of_challenges(&config, &pools.places, problems);
    listeners::warn_of_unused(&config, &listeners.places, problems);
    Some(config)
}

/// The texts that have been read so far.
struct Texts {
    files: Vec<PathBuf>,
    patterns: Vec<String>,
    hash: files::Hash,
}

impl Texts {
    fn tree<'t>(&mut self, text: &'t str, file: &Arc<Path>, problems: &mut Problems) -> Option<Node<'t>> {
        self.files.push(file.to_path_buf());
        self.hash.add(text);
        files::check_start(text, &At::top(file), problems)?;
        let mut environment = yaml::Environment::default();
        let tree = yaml::read(text, file, &mut environment, problems);
        environment.used.iter().for_each(|(name, value)| {
            self.hash.add(name);
            self.hash.add(value);
        });
        tree
    }
}

/// Reads the files that `include` names, in the order of its patterns, then by file name.
fn include(top: &Cursor<'_>, texts: &mut Texts) -> Vec<(Arc<Path>, String)> {
    let main = top.at.place().file;
    let mut seen = HashSet::from([main.to_path_buf()]);
    let mut included = Vec::new();
    let patterns = top.key("include");
    for cursor in patterns.iter().flat_map(Cursor::items) {
        let Some(pattern) = cursor.read::<String>() else { continue };
        texts.patterns.push(pattern.clone());
        let found = match files::find(&pattern, &main) {
            Ok(found) if found.is_empty() => {
                cursor.warning("no file matches");
                continue;
            }
            Ok(found) => found,
            Err(error) => {
                cursor.error(error);
                continue;
            }
        };
        for path in found {
            if path == *main {
                cursor.error("the file includes itself; choose a pattern that does not match it");
            }
            if seen.len() > files::MAX_FILES {
                cursor.error(format_args!("more than {} files are included", files::MAX_FILES));
                break;
            }
            if seen.insert(path.clone()) {
                let file: Arc<Path> = path.into();
                let text = match files::bytes(&file, files::MAX_FILE_BYTES) {
                    Ok(bytes) => files::decode(bytes, &At::top(&file), &mut cursor.reading.problems.borrow_mut()),
                    Err(error) => {
                        cursor.error(format_args!("`{}`: {error}", file.display()));
                        None
                    }
                };
                included.extend(text.map(|text| (file, text)));
            }
        }
    }
    included
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
            Dangling { kind, name: name.chars().take(MAX_NAME_SHOWN).collect(), meant }
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

/// No more problems than this are kept anyway.
const MAX_SUGGESTIONS: usize = 100;
/// In characters.
const MAX_NAME_SHOWN: usize = 256;
