//! Reads the conditions of HAProxy's rules.
//!
//! In:  `if a !b or { req.ssl_sni -i x }`, and the `acl` lines of the section.
//! Out: the sets of clients for which a condition holds, one for each alternative; or why that is not known.
//! Source: HAProxy's configuration manual, 7 (ACLs and sample fetches).

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::finding::{Failure, Findings};
use super::super::model::Origin;
use super::super::names::{Names, domain, ending, exact, regex};
use super::super::source::Library;
use super::super::values;
use super::clients::Clients;
use super::sections::Line;
use crate::server_name::Pattern;

/// The named ACLs of a section. Several lines with one name are alternatives.
#[derive(Default)]
pub(super) struct Acls(HashMap<String, Vec<Arc<Line>>>);

/// What a condition says.
pub(super) enum Condition {
    /// One set for each alternative.
    Clients(Vec<Clients>),
    /// Clients that are not in these networks.
    NotIn(Vec<IpNet>),
}

/// One test, such as `{ req.ssl_sni -i a.test }`.
enum Test {
    Names(Vec<(Pattern, Option<Origin>)>),
    Source(Vec<IpNet>),
    /// It sends a ClientHello.
    Tls,
    /// It sends a server name.
    Named,
    Always,
    Never,
}

impl Acls {
    pub(super) fn of(lines: &[Arc<Line>]) -> Self {
        let mut acls: HashMap<String, Vec<Arc<Line>>> = HashMap::new();
        for line in lines.iter().filter(|line| line.word(0) == "acl") {
            acls.entry(line.word(1).to_owned()).or_default().push(Arc::clone(line));
        }
        Self(acls)
    }
}

/// Reads conditions; opens the files that they name.
pub(super) struct Conditions<'a, 'f> {
    pub acls: &'a Acls,
    pub library: &'a mut Library<'f>,
    pub findings: &'a mut Findings,
}

impl Conditions<'_, '_> {
    /// The condition that begins at word `from` of `line` with `if` or `unless`; without one, everybody.
    pub(super) fn read(&mut self, line: &Line, from: usize) -> Result<Condition, String> {
        let negated = match line.word(from) {
            "" => return Ok(Condition::Clients(vec![Clients::all()])),
            "if" => false,
            "unless" => true,
            other => return Err(format!("`{other}` is not supported")),
        };
        let mut alternatives = vec![Vec::new()];
        for term in terms(line.words.get(from + 1..).unwrap_or_default())? {
            match term {
                Term::Or => alternatives.push(Vec::new()),
                Term::Test { negated: not, words } => {
                    let tests = self.tests(&words, &line.origin)?;
                    alternatives.last_mut().expect("there is one").push((not, tests));
                }
            }
        }
        if negated || matches!(&alternatives[..], [terms] if matches!(&terms[..], [(true, _)])) {
            return self.negated(alternatives, negated);
        }
        let mut all = Vec::new();
        for terms in alternatives {
            all.extend(conjunction(terms)?);
        }
        Ok(Condition::Clients(all))
    }

    /// `unless a`, or `if !a`: only for one test.
    fn negated(&self, alternatives: Vec<Vec<(bool, Vec<Test>)>>, unless: bool) -> Result<Condition, String> {
        let single = alternatives.into_iter().flatten().collect::<Vec<_>>();
        let Ok([(not, tests)]) = <[_; 1]>::try_from(single) else {
            return Err(
                "a negated condition with several tests cannot be written as routes; write a route for each case"
                    .to_owned(),
            );
        };
        match (not != unless, &tests[..]) {
            (true, [Test::Source(networks)]) => Ok(Condition::NotIn(networks.clone())),
            (negated, _) => conjunction(vec![(negated, tests)]).map(Condition::Clients),
        }
    }

    /// The alternatives of a term: a named ACL may have several lines. Names are gathered in one.
    fn tests(&mut self, words: &[String], origin: &Origin) -> Result<Vec<Test>, String> {
        let (lines, skip) = match words {
            [name] => match self.acls.0.get(name) {
                Some(lines) => (lines.clone(), 2),
                None => return predefined(name).map(|test| vec![test]),
            },
            _ => (vec![Arc::new(Line { words: words.to_vec(), origin: origin.clone() })], 0),
        };
        let (mut names, mut tests) = (Vec::new(), Vec::new());
        for line in lines {
            match self.test(&line, skip)? {
                Test::Names(more) => names.extend(more),
                test => tests.push(test),
            }
        }
        if !names.is_empty() {
            tests.push(Test::Names(names));
        }
        Ok(tests)
    }

    /// `FETCH FLAGS PATTERNS`, from word `at` of a line.
    fn test(&mut self, line: &Line, at: usize) -> Result<Test, String> {
        let words = line.words.get(at..).unwrap_or_default();
        let Some((fetch, rest)) = words.split_first() else { return Err("the ACL is empty".to_owned()) };
        let Flags { method, ignores_case, files, patterns } = flags(rest)?;
        let (fetch, converters) = fetch.split_once(',').map_or((&**fetch, ""), |(fetch, rest)| (fetch, rest));
        if !matches!(converters, "" | "lower") {
            return Err(format!("the converter `{converters}` is not supported"));
        }
        match fetch {
            "req.ssl_sni" | "req_ssl_sni" if method == "found" => Ok(Test::Named),
            "req.ssl_sni" | "req_ssl_sni" => {
                let texts = self.texts(patterns, &files, &line.origin)?;
                self.note_case(&texts, ignores_case, converters == "lower", &line.origin);
                self.names(method, &texts).map(Test::Names)
            }
            "req.ssl_hello_type" | "req_ssl_hello_type" if patterns == ["1"] => Ok(Test::Tls),
            "src" => {
                let texts = self.texts(patterns, &files, &line.origin)?;
                let wrong = |text: &str| format!("`{text}` is not a network");
                let parsed = texts.iter().map(|(text, _)| values::network(text).ok_or_else(|| wrong(text)));
                parsed.collect::<Result<_, _>>().map(Test::Source)
            }
            "always_true" => Ok(Test::Always),
            "always_false" => Ok(Test::Never),
            other => Err(unknown(other)),
        }
    }

    /// The patterns in the line and in the files that it names.
    fn texts(&mut self, inline: &[String], files: &[&str], origin: &Origin) -> Result<Vec<(String, Origin)>, String> {
        let mut texts: Vec<_> = inline.iter().map(|text| (text.clone(), origin.clone())).collect();
        for file in files {
            let text = self
                .library
                .open(file.as_ref())
                .map_err(|Failure { place, message, .. }| format!("{place}: {message}"))?;
            let lines = text.lines().map(|(line, origin)| (line.trim().to_owned(), origin));
            texts.extend(lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')));
        }
        Ok(texts)
    }

    fn note_case(&mut self, texts: &[(String, Origin)], ignores: bool, lower: bool, origin: &Origin) {
        let upper = texts.iter().find(|(text, _)| text.chars().any(|c| c.is_ascii_uppercase()));
        match upper {
            Some((text, at)) if !ignores => {
                self.findings.note(
                    at,
                    format_args!(
                        "`{text}` now matches without regard to case; in HAProxy, without `-i`, it is case-sensitive"
                    ),
                );
            }
            _ if !ignores && !lower => {
                self.findings.note(origin, "without `-i`, HAProxy is case-sensitive; snigate never is");
            }
            _ => {}
        }
    }

    fn names(&mut self, method: &str, texts: &[(String, Origin)]) -> Result<Vec<(Pattern, Option<Origin>)>, String> {
        let read = reader(method)?;
        let mut names = Vec::new();
        for (text, origin) in texts {
            match read(text) {
                Ok(Names { patterns, besides }) => {
                    if let Some(others) = besides {
                        self.findings.left_out_in_part(origin, text, others);
                    }
                    names.extend(patterns.into_iter().map(|pattern| (pattern, Some(origin.clone()))));
                }
                Err(why) => self.findings.left_out(origin, text, why),
            }
        }
        Ok(names)
    }
}

/// Turns what a rule says into names.
type ReadNames = fn(&str) -> Result<Names, String>;

/// How a matching method reads its patterns; also those of maps.
pub(super) fn reader(method: &str) -> Result<ReadNames, String> {
    match method {
        "str" => Ok(exact),
        "end" => Ok(ending),
        "dom" => Ok(domain),
        "reg" => Ok(regex),
        "beg" | "sub" | "dir" => {
            Err(format!("`{method}` compares parts of a name, which no pattern of snigate can do; list the names"))
        }
        other => Err(format!("the matching method `{other}` is not supported")),
    }
}

fn unknown(fetch: &str) -> String {
    let encrypted = ["ssl_fc", "ssl_c_", "ssl_f_", "hdr", "req.hdr", "path", "url", "method", "http_", "cook", "base"];
    let name = fetch.split('(').next().unwrap_or_default();
    if encrypted.iter().any(|start| fetch.starts_with(start)) {
        return format!("`{name}` needs decrypted data, and snigate does not decrypt; use `req.ssl_sni`");
    }
    format!(
        "`{name}` is not supported; routes can depend on the server name, ALPN, the client's address and the listener"
    )
}

fn predefined(name: &str) -> Result<Test, String> {
    match name {
        "TRUE" | "WAIT_END" => Ok(Test::Always),
        "FALSE" => Ok(Test::Never),
        "LOCALHOST" => Ok(Test::Source(["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network")).into())),
        _ => Err(format!("there is no ACL `{name}`")),
    }
}

/// All combinations of the alternatives of tests that hold together.
fn conjunction(terms: Vec<(bool, Vec<Test>)>) -> Result<Vec<Clients>, String> {
    let mut all = vec![Clients::all()];
    for (negated, tests) in terms {
        if negated && tests.len() != 1 {
            return Err(
                "a negated ACL with several lines cannot be written as routes; write a route for each case".to_owned()
            );
        }
        let sets = tests.iter().map(|test| test.clients(negated)).collect::<Result<Vec<_>, _>>()?;
        let pairs = all.iter().flat_map(|clients| sets.iter().map(move |set| clients.clone().and(set)));
        let both: Option<Vec<Clients>> = pairs.collect();
        all =
            both.ok_or("two conditions on `src` cannot be written as one route; write the networks that are in both")?;
        if all.len() > MOST_ALTERNATIVES {
            return Err(format!("the condition has more than {MOST_ALTERNATIVES} alternatives"));
        }
    }
    Ok(all)
}

impl Test {
    fn clients(&self, negated: bool) -> Result<Clients, String> {
        let (all, nobody) = (Clients::all(), Clients::nobody());
        Ok(match (self, negated) {
            (Self::Always, false) | (Self::Never, true) => all,
            (Self::Always, true) | (Self::Never, false) => nobody,
            (Self::Tls, false) => Clients { not_tls: false, ..all },
            (Self::Tls, true) => Clients { not_tls: true, ..nobody },
            (Self::Named, false) => Clients { not_tls: false, unnamed: false, ..all },
            (Self::Named, true) => Clients { not_tls: true, unnamed: true, ..nobody },
            (Self::Names(names), false) => Clients { names: names.clone(), ..nobody },
            (Self::Source(source), false) => Clients { source: source.clone(), ..all },
            (Self::Names(_) | Self::Source(_), true) => {
                return Err(
                    "a negated condition cannot be written as a route; write a route for the exception".to_owned()
                );
            }
        })
    }
}

enum Term {
    Or,
    Test { negated: bool, words: Vec<String> },
}

/// `a !b or { c d } || !{ e }`
fn terms(words: &[String]) -> Result<Vec<Term>, String> {
    let mut terms = Vec::new();
    let mut words = words.iter();
    let mut negated = false;
    while let Some(word) = words.next() {
        let inner = word.strip_prefix('!').unwrap_or(word);
        negated ^= inner.len() != word.len();
        match inner {
            "" => continue,
            "or" | "||" => terms.push(Term::Or),
            "{" => {
                let inside: Vec<String> = words.by_ref().take_while(|word| *word != "}").cloned().collect();
                terms.push(Term::Test {
                    negated,
                    words: if inside.len() == 1 { [inside, vec![String::new()]].concat() } else { inside },
                });
            }
            name => terms.push(Term::Test { negated, words: vec![name.to_owned()] }),
        }
        negated = false;
    }
    if terms.is_empty() { Err("the condition is empty".to_owned()) } else { Ok(terms) }
}

struct Flags<'w> {
    method: &'w str,
    ignores_case: bool,
    files: Vec<&'w str>,
    patterns: &'w [String],
}

/// Flags in front of patterns; `--` ends them.
fn flags(words: &[String]) -> Result<Flags<'_>, String> {
    let mut flags = Flags { method: "str", ignores_case: false, files: Vec::new(), patterns: words };
    while let Some((flag, rest)) = flags.patterns.split_first().filter(|(flag, _)| flag.starts_with('-')) {
        let value = rest.first().map_or("", String::as_str);
        let taken = match flag.as_str() {
            "-i" => {
                flags.ignores_case = true;
                0
            }
            "-n" | "-M" => 0,
            "-m" => {
                flags.method = value;
                1
            }
            "-f" => {
                flags.files.push(value);
                1
            }
            "-u" => 1,
            "--" => {
                flags.patterns = rest;
                break;
            }
            other => return Err(format!("the flag `{other}` is not supported")),
        };
        flags.patterns = rest.get(taken..).unwrap_or_default();
    }
    // `{ TRUE }` and the like have no pattern.
    if flags.patterns == [String::new()] {
        flags.patterns = &[];
    }
    Ok(flags)
}

const MOST_ALTERNATIVES: usize = 1_000;
