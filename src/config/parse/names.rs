//! Reads the names of a route: its patterns, and those of the files that it names.
//!
//! In:  `sni`, and where the route leads.
//! Out: [`Named`]: the patterns of the route, and those that the files send to other pools.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{Cursor, Names};
use crate::config::at::At;
use crate::config::lists::directory;
use crate::config::names::{Line, each};
use crate::config::problem::{Place, Problems};
use crate::config::{Destination, Listed, Route};
use crate::server_name::Pattern;
use crate::settings::{OneOrMany, SniEntry, Text};

/// The names of a route.
pub(super) struct Named {
    pub patterns: Vec<(Pattern, Place)>,
    pub listed: Option<Box<Listed>>,
    /// The names that have a pool of their own, by pool, in the order in which the pools first occur.
    pub with_pools: Vec<WithPool>,
}

/// The names that lead to a pool of their own.
pub(super) struct WithPool {
    pool: usize,
    name: Arc<str>,
    patterns: Vec<(Pattern, Place)>,
}

/// Reads `sni`; `None` if it has neither a pattern nor a file. `to` is where names without a pool of their own lead.
pub(super) fn named(
    sni: OneOrMany<Text<SniEntry>>,
    to: Option<&Destination>,
    cursor: &Cursor<'_>,
    pools: &Names,
) -> Option<Named> {
    let list = cursor.required_list("sni", "pattern")?;
    let (mut patterns, mut files) = (Vec::new(), Vec::new());
    for (entry, cursor) in sni.into_iter().zip(list.items()) {
        match entry.0 {
            SniEntry::Pattern(pattern) => patterns.push((pattern, cursor.at.place())),
            SniEntry::File(file) => files.push((file, cursor)),
        }
    }
    if files.is_empty() {
        return (!patterns.is_empty()).then_some(Named { patterns, listed: None, with_pools: Vec::new() });
    }
    let mut listed = Listed { files: Vec::new(), inline: patterns.len(), pool: None };
    let own = if let Some(Destination::Pool(pool)) = to { Some(*pool) } else { None };
    let mut sorted = Sorted { own, patterns, with_pools: Vec::new(), places: HashMap::default(), pools, last: None };
    for (file, cursor) in files {
        let lists = &mut *cursor.reading.lists.borrow_mut();
        let problems = &mut *cursor.reading.problems.borrow_mut();
        let path = directory(&cursor.at.place().file).join(&file);
        if let Some(text) = lists.names(&path, &cursor.at, problems) {
            sorted.read(&text, &path, problems);
        }
        listed.files.push(lists.relative_to_main(path));
    }
    let Sorted { patterns, with_pools, .. } = sorted;
    Some(Named { patterns, listed: Some(Box::new(listed)), with_pools })
}

/// What a route without a name is called, before that is made unique. `of_the_file` is the name of the last route before
/// it that the routing file has.
pub(super) fn name(route: &Route, of_the_file: &str) -> Option<Arc<str>> {
    let first_pattern = || Some(route.patterns.first()?.0.to_string().into());
    let Some(listed) = &route.listed else { return first_pattern() };
    match &listed.pool {
        Some(pool) => Some(format!("{of_the_file}:{pool}").into()),
        None if listed.inline > 0 => first_pattern(),
        None => Some(format!("@{}", listed.files.first()?.display()).into()),
    }
}

impl WithPool {
    /// The route of these names: as `of_the_file`, but for the pool.
    pub(super) fn route(self, of_the_file: &Route) -> Route {
        let Self { pool, name, patterns } = self;
        Route {
            name: Arc::default(),
            patterns,
            to: Destination::Pool(pool),
            listed: Some(Box::new(Listed { files: Vec::new(), inline: 0, pool: Some(name) })),
            conditions: of_the_file.conditions.clone(),
            access: of_the_file.access.clone(),
            per_client: of_the_file.per_client.clone(),
            ..*of_the_file
        }
    }
}

/// The patterns read so far, by pool.
struct Sorted<'n> {
    own: Option<usize>,
    patterns: Vec<(Pattern, Place)>,
    with_pools: Vec<WithPool>,
    /// Where each pool is in `with_pools`.
    places: HashMap<usize, usize, RandomState>,
    pools: &'n Names,
    /// The pool that was named last, which is likely to be named next.
    last: Option<(Box<str>, usize)>,
}

impl Sorted<'_> {
    fn read(&mut self, text: &str, path: &Path, problems: &mut Problems) {
        let file: Arc<Path> = path.into();
        let top = At::top(&file);
        if self.patterns.is_empty() {
            // About as many as there are lines, so that a million are not moved while the list grows.
            self.patterns.reserve(text.bytes().filter(|byte| *byte == b'\n').count());
        }
        each(text, top, problems, |Line { pattern, spot, pool }, problems| {
            let entry = (pattern, Place { file: Arc::clone(&file), line: spot.line, column: spot.column });
            match pool {
                None => self.patterns.push(entry),
                Some((name, spot)) => match self.number(name) {
                    Ok(pool) => self.add(name, pool, entry),
                    Err(dangling) => problems.error(&top.moved(spot), dangling),
                },
            }
        });
        self.patterns.shrink_to_fit();
    }

    fn number(&mut self, name: &str) -> Result<usize, super::Dangling<'_>> {
        if let Some((last, number)) = &self.last
            && **last == *name
        {
            return Ok(*number);
        }
        let number = self.pools.find(name, "pool")?;
        self.last = Some((name.into(), number));
        Ok(number)
    }

    fn add(&mut self, name: &str, pool: usize, entry: (Pattern, Place)) {
        if self.own == Some(pool) {
            return self.patterns.push(entry);
        }
        let at = *self.places.entry(pool).or_insert_with(|| {
            self.with_pools.push(WithPool { pool, name: name.into(), patterns: Vec::new() });
            self.with_pools.len() - 1
        });
        self.with_pools[at].patterns.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Config, Loaded, Problems};
    use crate::snapshot::Snapshot;
    use crate::telemetry::Metrics;

    fn load(directory: &Path, routes: &str) -> Result<Loaded, Problems> {
        let main = directory.join("config.yaml");
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0 }}]\npools: {{ p: {{ backends: [10.0.0.1:443] }}, q: {{ backends: \
             [10.0.0.2:443] }}, unused: {{ backends: [10.0.0.3:443] }} }}\nunmatched: {{ pool: unused }}\nroutes:\n{routes}\n"
        );
        fs::write(&main, text).unwrap();
        Config::load(&main)
    }

    fn config(directory: &Path, routes: &str) -> Config {
        let loaded = load(directory, routes).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        loaded.config
    }

    fn problems(directory: &Path, routes: &str) -> String {
        let problems = load(directory, routes).expect_err("it has problems").to_string();
        problems.replace(&format!("{}/", directory.display()), "")
    }

    /// Each route with its patterns and their places.
    fn shown(config: &Config) -> Vec<(String, Vec<String>)> {
        let pattern = |(pattern, place): &(Pattern, Place)| format!("{pattern} {}:{}", place.line, place.column);
        let routes = config.routes.iter();
        routes.map(|route| (route.name.to_string(), route.patterns.iter().map(pattern).collect())).collect()
    }

    const LINES: &str =
        "# names\r\n\r\nA.test\r\n  *.b.test # one label\r\nc.test q\r\nb\u{fc}cher.test\tp\r\n**.d.test  q#\r\n*";

    #[test]
    fn a_file_has_a_pattern_a_line_and_perhaps_a_pool() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("lists")).unwrap();
        fs::write(directory.path().join("lists/a.txt"), LINES).unwrap();
        let routes = "  - { sni: [\"@lists/a.txt\", e.test], pool: p, idle_timeout: 7s, source: [10.0.0.0/8] }\n\
                      \x20 - { sni: \"@lists/a.txt\", pool: q }";
        let config = config(directory.path(), routes);
        let wanted = |names: [&str; 2], first: &[&str]| {
            let own = ["a.test 3:1", "*.b.test 4:3", "xn--bcher-kva.test 6:1", "* 8:1"];
            let others = ["c.test 5:1", "**.d.test 7:1"];
            [(names[0], [first, &own].concat()), (names[1], others.to_vec())]
                .map(|(name, patterns)| (name.to_owned(), patterns.into_iter().map(str::to_owned).collect::<Vec<_>>()))
        };
        // In the second route, `q` is the pool of the route, and `p` that of one name.
        let [first, second] = wanted(["e.test", "e.test:q"], &["e.test 5:29"]);
        let shown = shown(&config);
        assert_eq!(shown[..2], [first, second]);
        assert_eq!((&*shown[2].0, &*shown[3].0), ("@lists/a.txt", "@lists/a.txt:p"));
        assert_eq!(shown[2].1, ["a.test 3:1", "*.b.test 4:3", "c.test 5:1", "**.d.test 7:1", "* 8:1"]);
        assert_eq!(shown[3].1, ["xn--bcher-kva.test 6:1"]);
        let [main, of_q, ..] = &*config.routes else { panic!("four routes") };
        assert_eq!((&main.to, &of_q.to), (&Destination::Pool(0), &Destination::Pool(1)));
        assert_eq!((main.idle_timeout, &main.conditions), (of_q.idle_timeout, &of_q.conditions));
    }

    #[test]
    fn what_is_written_names_the_file_and_reads_as_the_same() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.txt"), LINES).unwrap();
        let config = config(directory.path(), "  - { sni: [e.test, \"@a.txt\"], pool: p }");
        let written = Snapshot::build(config.clone(), None, &Metrics::new()).effective().to_text();
        assert!(written.contains("\"sni\":[\"e.test\",\"@a.txt\"]") && !written.contains("a.test\""), "{written}");
        let again = Config::parse(&written, &directory.path().join("config.yaml")).unwrap().config;
        let without_columns = |config: &Config| {
            let mut shown = shown(config);
            shown[0].1[0].truncate("e.test".len());
            shown
        };
        assert_eq!(without_columns(&again), without_columns(&config));
    }

    #[test]
    fn each_wrong_line_is_reported_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("a.txt");
        let lines =
            "a.test\nb.test pp\n  a*.test\nc.test p q\nA.TEST. q\n\"d.test\"\n@b.txt\nx_y.test\n10.0.0.1\nf.test\n";
        fs::write(&list, lines).unwrap();
        let routes = "  - { sni: [f.test, \"@a.txt\"], pool: p }\n  - { sni: x_y.test, pool: q }";
        let reported = problems(directory.path(), routes);
        let expected = [
            "config.yaml:6:12: routes[1].sni: route `f.test` already matches `x_y.test`, at a.txt:8:1",
            "a.txt:2:8: there is no pool `pp`; did you mean `p`?",
            "a.txt:3:3: `a*.test`: a star must replace whole labels at the front; write *.test (one label more) or",
            "a.txt:4:10: `q` is one word too many; write one pattern a line, and at most a pool behind it",
            "a.txt:5:1: route `f.test` already matches `a.test`, at a.txt:1:1",
            "a.txt:6:1: `\\\"d.test\\\"`: the quotes became part of the name",
            "a.txt:7:1: a file of names cannot name another file; write `@FILE` into the routing file",
            "a.txt:9:1: `10.0.0.1`: ",
            "a.txt:10:1: `f.test` is already in this route, at config.yaml:5:13; remove one of them",
        ];
        let lines: Vec<&str> = reported.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{reported}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\n{expected}");
        }
        for wrong in ["*x\n", "a.test nowhere\n", "a.test\n", "a.test p q\n"] {
            fs::write(&list, wrong.repeat(100_000)).unwrap();
            let reported = problems(directory.path(), "  - { sni: \"@a.txt\", pool: p }");
            assert_eq!(reported.lines().count(), 101, "{wrong}");
            assert!(reported.lines().last().unwrap().starts_with("and 99"), "{wrong}");
        }
        fs::write(&list, "x".repeat(1 << 20)).unwrap();
        assert!(problems(directory.path(), "  - { sni: \"@a.txt\", pool: p }").len() < 300);
    }

    #[test]
    fn a_file_may_be_empty_but_not_missing_and_is_watched() {
        let directory = tempfile::tempdir().unwrap();
        let (list, main) = (directory.path().join("a.txt"), directory.path().join("config.yaml"));
        let routes = "  - { sni: \"@a.txt\", pool: p }\n  - { sni: a.test, pool: q }";
        let reported = problems(directory.path(), routes);
        let missing = "config.yaml:5:12: routes[0].sni: `a.txt` does not exist; create it, even if it is empty";
        assert_eq!(reported, missing);
        assert!(Config::load_from(&main).1.present().contains(&list));
        for sni in ["\"@\"", "\"@.\"", "@a.txt", "[]"] {
            assert!(
                problems(directory.path(), &format!("  - {{ sni: {sni}, pool: p }}")).starts_with("config.yaml:5:")
            );
        }
        fs::write(&list, "# none yet\n").unwrap();
        let (before, names) = (config(directory.path(), routes), |config: &Config| -> Vec<String> {
            config.routes.iter().map(|route| route.name.to_string()).collect()
        });
        assert_eq!(names(&before), ["@a.txt", "a.test"]);
        assert_eq!(
            before.sources.present(),
            [main.clone(), list.clone()].into_iter().collect::<std::collections::BTreeSet<PathBuf>>()
        );
        fs::write(&list, "b.test q\n").unwrap();
        let after = config(directory.path(), routes);
        assert_eq!(names(&after), ["@a.txt", "@a.txt:q", "a.test"]);
        assert_ne!(before.hash, after.hash);
    }
}
