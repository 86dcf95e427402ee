//! Reads the configuration of sniproxy.
//!
//! In:  sniproxy.conf.
//! Out: a [`Model`] of its listeners for TLS and their tables.
//! Source: sniproxy.conf(5); escapes, order, case and fallbacks as sniproxy 0.6.0 shows them when it runs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::finding::{Failure, Findings};
use super::model::{Backend, Key, Listener, Model, Origin, Pool, Rule, Target, free_name};
use super::names::{Names, regex};
use super::source::{Library, Text};
use super::values;
use super::writer::scalar;
use crate::server_name::Pattern;

/// Reads the files.
///
/// # Errors
/// A file cannot be read or parsed.
pub(super) fn read(paths: &[PathBuf], library: &mut Library<'_>, findings: &mut Findings) -> Result<Model, Failure> {
    let mut statements = Vec::new();
    for path in paths {
        statements.extend(parse(&library.open(path)?)?);
    }
    let mut reader =
        Reader { tables: HashMap::new(), pools: HashMap::new(), resolver: None, model: Model::default(), findings };
    for statement in &statements {
        reader.global(statement);
    }
    for statement in statements.iter().filter(|statement| matches!(statement.word(0), "listen" | "listener")) {
        reader.listen(statement);
    }
    Ok(reader.model)
}

/// A line, and the block behind it.
#[derive(Clone, Debug)]
struct Statement {
    words: Vec<String>,
    block: Option<Vec<Statement>>,
    origin: Origin,
}

impl Statement {
    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    fn inside(&self) -> &[Statement] {
        self.block.as_deref().unwrap_or_default()
    }

    fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// An entry of a table.
#[derive(Clone, Debug)]
struct Entry {
    patterns: Vec<Pattern>,
    address: String,
    /// `proxy_protocol`
    sends_header: bool,
    origin: Origin,
}

struct Reader<'a> {
    tables: HashMap<String, Vec<Entry>>,
    /// The pool of an address with certain options.
    pools: HashMap<(String, String), Arc<str>>,
    /// The nameservers.
    resolver: Option<Key>,
    model: Model,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn global(&mut self, statement: &Statement) {
        match statement.word(0) {
            "table" => {
                let entries = self.table(statement);
                self.tables.entry(statement.word(1).to_owned()).or_default().extend(entries);
            }
            "resolver" => self.resolver(statement),
            "listen" | "listener" | "user" | "username" | "group" | "pidfile" | "error_log" | "access_log" => {}
            _ => self.left_out(statement, "snigate has nothing like it"),
        }
    }

    fn left_out(&mut self, statement: &Statement, why: &str) {
        self.findings.left_out(&statement.origin, &statement.text(), why);
    }

    fn resolver(&mut self, statement: &Statement) {
        let servers = statement.inside().iter().filter(|line| line.word(0) == "nameserver");
        let servers: Vec<_> = servers.filter(|line| line.word(1).parse::<IpAddr>().is_ok()).collect();
        if let Some(first) = servers.first() {
            let list: Vec<_> = servers.iter().map(|line| scalar(line.word(1))).collect();
            self.resolver = Some(Key::new("resolve.nameservers", format_args!("[{}]", list.join(", ")), &first.origin));
        }
    }

    fn table(&mut self, table: &Statement) -> Vec<Entry> {
        let uses_header =
            |line: &Statement| line.word(0) == "use_proxy_header" && matches!(line.word(1), "yes" | "true" | "on");
        let all_send = table.inside().iter().any(uses_header);
        let mut entries = Vec::new();
        for line in table.inside().iter().filter(|line| line.word(0) != "use_proxy_header") {
            match regex(line.word(0)) {
                Ok(Names { patterns, besides }) => {
                    if let Some(others) = besides {
                        self.findings.left_out_in_part(&line.origin, line.word(0), others);
                    }
                    let sends_header = all_send || line.words.iter().skip(2).any(|word| word == "proxy_protocol");
                    let address = line.word(1).to_owned();
                    entries.push(Entry { patterns, address, sends_header, origin: line.origin.clone() });
                }
                Err(why) => self.left_out(line, &why),
            }
        }
        entries
    }

    fn listen(&mut self, statement: &Statement) {
        let option = |name: &[&str]| statement.inside().iter().find(|line| name.contains(&line.word(0)));
        let protocol = option(&["protocol", "proto"]).map_or("tls", |line| line.word(1));
        if !matches!(protocol, "tls" | "https") {
            let why =
                "it does not serve TLS; a listener with `protocol: http` answers challenges and redirects to https";
            return self.left_out(statement, why);
        }
        let address = match listen_address(statement.word(1)) {
            Ok(address) => address,
            Err(why) => return self.left_out(statement, &why),
        };
        let number = self.model.listeners.len() + 1;
        let name = if number == 1 { "https".to_owned() } else { format!("https-{number}") };
        let mut listener = Listener::new(&name, &statement.origin);
        listener.bind.push((address.to_string(), statement.origin.clone()));
        let source = option(&["source"]).and_then(|line| self.source(line));
        let table = option(&["table"]).map_or("", |line| line.word(1)).to_owned();
        for entry in self.tables.get(&table).cloned().unwrap_or_default() {
            let to = self.target(&entry, address.port(), source.as_ref());
            let rule = |pattern| Rule {
                pattern,
                source: Vec::new(),
                to: to.clone(),
                origin: entry.origin.clone(),
                is_rest: false,
            };
            listener.rules.extend(entry.patterns.iter().cloned().map(rule));
        }
        if let Some(line) = option(&["fallback"]) {
            let sends_header = line.words.iter().skip(2).any(|word| word == "proxy_protocol");
            let (patterns, origin) = (vec![Pattern::Any], line.origin.clone());
            let entry = Entry { patterns, address: line.word(1).to_owned(), sends_header, origin };
            let to = self.target(&entry, address.port(), source.as_ref());
            let origin = line.origin.clone();
            listener.rules.push(Rule {
                pattern: Pattern::Any,
                source: Vec::new(),
                to: to.clone(),
                origin: origin.clone(),
                is_rest: true,
            });
            (listener.no_sni, listener.not_tls) = (Some((to.clone(), origin.clone())), Some((to, origin)));
        }
        self.model.listeners.push(listener);
        self.others(statement);
    }

    fn others(&mut self, statement: &Statement) {
        for line in statement.inside() {
            let known = [
                "protocol",
                "proto",
                "table",
                "fallback",
                "source",
                "access_log",
                "bad_requests",
                "reuseport",
                "ipv6_v6only",
            ];
            if !known.contains(&line.word(0)) {
                self.left_out(line, "snigate has nothing like it");
            }
        }
    }

    fn source(&mut self, line: &Statement) -> Option<Key> {
        match line.word(1).parse::<IpAddr>() {
            Ok(ip) => Some(Key::new("source_addresses", format_args!("[{}]", scalar(&ip.to_string())), &line.origin)),
            Err(_) if line.word(1) == "client" => Some(Key::new("transparent", true, &line.origin)),
            Err(_) => {
                self.left_out(line, "only an IP address is supported");
                None
            }
        }
    }

    /// The pool of an address. Without a port, it is that of the listener.
    fn target(&mut self, entry: &Entry, port: u16, source: Option<&Key>) -> Target {
        let address = match backend_address(&entry.address, port) {
            Ok(address) => address,
            Err(why) => {
                self.findings.left_out(&entry.origin, &entry.address, why);
                return Target::Close;
            }
        };
        let header = entry.sends_header.then(|| Key::new("send_proxy_protocol", "v1", &entry.origin));
        let keys: Vec<Key> = [source.cloned(), self.resolver.clone(), header].into_iter().flatten().collect();
        let options: Vec<_> = keys.iter().map(|key| format!("{}={}", key.path, key.value)).collect();
        let identity = (address.clone(), options.join(" "));
        if let Some(pool) = self.pools.get(&identity) {
            return Target::Pool(Arc::clone(pool));
        }
        let name = free_name(&self.model.pools, &address);
        self.pools.insert(identity, Arc::clone(&name));
        let origin = Some(entry.origin.clone());
        let backends = vec![Backend { address, keys: Vec::new(), origin: origin.clone() }];
        self.model.pools.push(Pool { name: Arc::clone(&name), origin, keys, backends });
        Target::Pool(name)
    }
}

/// `443`, `192.0.2.1:443`, `[::]:443`
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    match (text.parse::<u16>(), text.parse::<SocketAddr>()) {
        (Ok(port @ 1..), _) => Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        (_, Ok(address)) if address.port() > 0 => Ok(address),
        _ => Err("this is not an IP address with a port; write one".to_owned()),
    }
}

fn backend_address(text: &str, port: u16) -> Result<String, String> {
    if text.starts_with('*') || text.is_empty() {
        return Err(
            "snigate never connects to a name that the client chose; list the names and their backends".to_owned()
        );
    }
    let text = match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if text.contains(':') => text.to_owned(),
        Err(_) => format!("{text}:{port}"),
    };
    values::backend(&text)
}

/// Parses statements. A line end or `;` ends one; `{` opens its block.
fn parse(text: &Text) -> Result<Vec<Statement>, Failure> {
    let mut open: Vec<(Vec<Statement>, Option<Statement>)> = vec![(Vec::new(), None)];
    for (line, origin) in text.lines() {
        let mut words = Vec::new();
        let failure = |message: &str| Failure::at(&origin, message);
        let statement =
            |words: &mut Vec<String>| Statement { words: std::mem::take(words), block: None, origin: origin.clone() };
        for token in tokens(line).map_err(|message| failure(&message))? {
            match token {
                Token::Word(word) => words.push(word),
                Token::End if words.is_empty() => {}
                Token::End => open.last_mut().expect("never empty").0.push(statement(&mut words)),
                Token::Open if open.len() > MOST_BLOCKS => return Err(failure("blocks are nested too deeply")),
                Token::Open => {
                    let inside = &mut open.last_mut().expect("never empty").0;
                    // `listen 443` and `{` may stand on two lines.
                    let opened = if words.is_empty() { inside.pop() } else { Some(statement(&mut words)) };
                    let opened = opened.ok_or_else(|| failure("unexpected `{`"))?;
                    open.push((Vec::new(), Some(opened)));
                }
                Token::Close => {
                    if !words.is_empty() {
                        open.last_mut().expect("never empty").0.push(statement(&mut words));
                    }
                    match open.pop() {
                        Some((inside, Some(opened))) => {
                            open.last_mut()
                                .expect("the outermost stays")
                                .0
                                .push(Statement { block: Some(inside), ..opened });
                        }
                        _ => return Err(failure("unexpected `}`")),
                    }
                }
            }
        }
    }
    match open.pop() {
        Some((_, Some(opened))) => Err(Failure::at(&opened.origin, "this block is not closed; a `}` is missing")),
        Some((all, None)) => Ok(all),
        None => Ok(Vec::new()),
    }
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// The tokens of a line. A backslash makes the next character an ordinary one, and goes.
fn tokens(line: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            c if is_quoted => word.get_or_insert_default().push(c),
            '#' => break,
            ' ' | '\t' | '\r' | ';' | '{' | '}' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.extend(match c {
                    ';' => Some(Token::End),
                    '{' => Some(Token::Open),
                    '}' => Some(Token::Close),
                    _ => None,
                });
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if is_quoted {
        return Err("a quote is not closed".to_owned());
    }
    tokens.extend(word.map(Token::Word));
    tokens.push(Token::End);
    Ok(tokens)
}

const MOST_BLOCKS: usize = 8;
