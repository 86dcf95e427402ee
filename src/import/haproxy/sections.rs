//! Splits HAProxy's configuration into sections.
//!
//! In:  the files, in their order.
//! Out: [`Sections`]: frontends and backends, each with the lines of its `defaults` before its own.
//! Source: HAProxy's configuration manual, 2.1 (format), 2.4 (conditional blocks), 4 (proxies).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::finding::{Failure, Findings};
use super::super::model::Origin;
use super::super::source::Library;
use super::words;

/// A line of a section.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub words: Vec<String>,
    pub origin: Origin,
}

impl Line {
    /// The word at a position, or nothing.
    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// A `frontend`, `backend` or `listen`.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub kind: Kind,
    pub name: String,
    pub origin: Origin,
    /// Those of a `defaults` are shared by all sections that inherit them.
    pub lines: Vec<Arc<Line>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Frontend,
    Backend,
    Listen,
}

impl Section {
    /// Whether it relays bytes; HAProxy's default mode.
    pub(super) fn is_tcp(&self) -> bool {
        let mode = self.lines.iter().rev().find(|line| line.word(0) == "mode");
        mode.is_none_or(|line| line.word(1) == "tcp")
    }
}

/// All sections that matter here.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub proxies: Vec<Section>,
    /// The lines of `global`.
    pub global: Vec<Line>,
    /// Nameservers by the name of their `resolvers` section.
    pub resolvers: HashMap<String, Vec<Line>>,
}

impl Sections {
    pub(super) fn read(paths: &[PathBuf], library: &mut Library<'_>, findings: &mut Findings) -> Result<Self, Failure> {
        let mut reader =
            Reader { sections: Self::default(), open: Open::None, defaults: Vec::new(), inherited: 0, skipping: None };
        for path in paths {
            for (line, origin) in library.open(path)?.lines() {
                let words = words::split(line).map_err(|error| Failure::at(&origin, error))?;
                reader.add(words, origin, findings)?;
            }
        }
        if let Some(Skipping { begins, .. }) = reader.skipping {
            return Err(Failure::at(begins, "this `.if` has no `.endif`"));
        }
        Ok(reader.sections)
    }

    /// The section that connections can be sent to.
    pub(super) fn backend(&self, name: &str) -> Option<&Section> {
        self.proxies.iter().find(|section| section.name == name && section.kind != Kind::Frontend)
    }
}

/// The section that lines belong to.
enum Open {
    None,
    Global,
    /// The last of [`Reader::defaults`].
    Defaults,
    /// The last of [`Sections::proxies`].
    Proxy,
    Resolvers(String),
    /// One that has nothing to do with routing.
    Other,
}

/// A block of `.if`, which is not evaluated.
struct Skipping {
    depth: usize,
    begins: Origin,
}

struct Reader {
    sections: Sections,
    open: Open,
    /// Names and lines.
    defaults: Vec<(String, Vec<Arc<Line>>)>,
    /// Lines that sections have from others.
    inherited: usize,
    skipping: Option<Skipping>,
}

impl Reader {
    fn add(&mut self, words: words::Words, origin: Origin, findings: &mut Findings) -> Result<(), Failure> {
        let Some(first) = words.words.first().cloned() else { return Ok(()) };
        let line = Line { words: words.words, origin };
        if first.starts_with('.') {
            return self.directive(&line, findings);
        }
        if self.skipping.is_some() {
            return Ok(());
        }
        if words.has_variable {
            let why = "environment variables are not expanded; write the value, or `${NAME}` in the result";
            findings.left_out(&line.origin, &line.text(), why);
            return Ok(());
        }
        match first.as_str() {
            "global" if line.words.len() == 1 => self.open = Open::Global,
            "defaults" => self.open_defaults(&line)?,
            "frontend" => self.open_proxy(Kind::Frontend, line)?,
            "backend" => self.open_proxy(Kind::Backend, line)?,
            "listen" => self.open_proxy(Kind::Listen, line)?,
            "resolvers" => self.open = Open::Resolvers(line.word(1).to_owned()),
            other if OTHER_SECTIONS.contains(&other) => self.open = Open::Other,
            _ => self.line(line)?,
        }
        Ok(())
    }

    /// `.if`, `.else`, `.notice` and others.
    fn directive(&mut self, line: &Line, findings: &mut Findings) -> Result<(), Failure> {
        match (line.word(0), &mut self.skipping) {
            (".if", None) => {
                let why = "preprocessor conditions are not evaluated, and everything up to `.endif` was left out; keep only \
                           the branch that applies";
                findings.left_out(&line.origin, &line.text(), why);
                self.skipping = Some(Skipping { depth: 1, begins: line.origin.clone() });
            }
            (".if", Some(block)) => block.depth += 1,
            (".endif", Some(block)) => {
                block.depth -= 1;
                if block.depth == 0 {
                    self.skipping = None;
                }
            }
            (".endif" | ".else" | ".elif", None) => {
                return Err(Failure::at(&line.origin, format_args!("this `{}` has no `.if`", line.word(0))));
            }
            _ => {}
        }
        Ok(())
    }

    fn open_defaults(&mut self, line: &Line) -> Result<(), Failure> {
        let inherited = self.inherited(line)?.unwrap_or_default();
        self.count(&inherited, line)?;
        self.defaults.push((line.word(1).to_owned(), inherited));
        self.open = Open::Defaults;
        Ok(())
    }

    fn open_proxy(&mut self, kind: Kind, line: Line) -> Result<(), Failure> {
        let name = line.word(1).to_owned();
        if name.is_empty() {
            return Err(Failure::at(&line.origin, format_args!("this `{}` has no name", line.word(0))));
        }
        let last = || self.defaults.last().map(|(_, lines)| lines.clone()).unwrap_or_default();
        let mut lines = self.inherited(&line)?.unwrap_or_else(last);
        self.count(&lines, &line)?;
        // A rest of old times: `listen NAME ADDRESS:PORT`.
        if line.words.len() == 3 {
            let words = vec!["bind".to_owned(), line.word(2).to_owned()];
            lines.push(Arc::new(Line { words, origin: line.origin.clone() }));
        }
        self.sections.proxies.push(Section { kind, name, origin: line.origin, lines });
        self.open = Open::Proxy;
        Ok(())
    }

    fn count(&mut self, inherited: &[Arc<Line>], line: &Line) -> Result<(), Failure> {
        self.inherited += inherited.len();
        if self.inherited > MOST_INHERITED {
            let what = format_args!(
                "sections inherit more than {MOST_INHERITED} lines of `defaults` together; import the frontends one by one"
            );
            return Err(Failure::at(&line.origin, what));
        }
        Ok(())
    }

    /// The lines of the section that `from` names.
    fn inherited(&self, line: &Line) -> Result<Option<Vec<Arc<Line>>>, Failure> {
        let Some(at) = line.words.iter().position(|word| word == "from") else { return Ok(None) };
        let name = line.word(at + 1);
        let found = self.defaults.iter().rev().find(|(defaults, _)| defaults == name);
        let missing = || Failure::at(&line.origin, format_args!("there is no section `defaults {name}`"));
        found.map(|(_, lines)| Some(lines.clone())).ok_or_else(missing)
    }

    fn line(&mut self, line: Line) -> Result<(), Failure> {
        match &self.open {
            Open::None => {
                let what = format_args!("`{}` is outside any section; is this an HAProxy configuration?", line.word(0));
                return Err(Failure::at(&line.origin, what));
            }
            Open::Global => self.sections.global.push(line),
            Open::Defaults => self.defaults.last_mut().expect("it is open").1.push(line.into()),
            Open::Proxy => self.sections.proxies.last_mut().expect("it is open").lines.push(line.into()),
            Open::Resolvers(name) => self.sections.resolvers.entry(name.clone()).or_default().push(line),
            Open::Other => {}
        }
        Ok(())
    }
}

/// More than 20 lines of `defaults` for each of 50,000 sections.
const MOST_INHERITED: usize = 1_000_000;
const OTHER_SECTIONS: &[&str] = &[
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "ring",
    "traces",
    "userlist",
];
