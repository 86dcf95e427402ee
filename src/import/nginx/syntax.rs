//! Parses nginx's configuration into a tree of directives.
//!
//! In:  the text of a file, and of those it includes.
//! Out: [`Directive`]s with their arguments and blocks.
//! Source: nginx's documentation, "Configuration file's structure"; ngx_conf_file.c (quotes and escapes).

use std::path::{Path, PathBuf};

use super::super::finding::Failure;
use super::super::model::Origin;
use super::super::source::{Library, Text};

/// One directive.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    /// The name and the arguments.
    pub words: Vec<String>,
    pub block: Option<Vec<Directive>>,
    pub origin: Origin,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        self.word(0)
    }

    /// The word at a position, or nothing.
    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// Parses the file at `path`, with its includes, except those in blocks that cannot matter here.
///
/// # Errors
/// A file cannot be read or parsed.
pub(super) fn parse(path: &Path, library: &mut Library<'_>) -> Result<Vec<Directive>, Failure> {
    let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
    Includes { directory, library, open: Vec::new() }.file(path)
}

/// Opens included files.
struct Includes<'a, 'f> {
    /// Relative paths start at the directory of the main file.
    directory: PathBuf,
    library: &'a mut Library<'f>,
    open: Vec<PathBuf>,
}

impl Includes<'_, '_> {
    fn file(&mut self, path: &Path) -> Result<Vec<Directive>, Failure> {
        let text = self.library.open(path)?;
        let tree = tree(&text)?;
        self.open.push(path.to_path_buf());
        let expanded = self.expand(tree);
        self.open.pop();
        expanded
    }

    fn expand(&mut self, directives: Vec<Directive>) -> Result<Vec<Directive>, Failure> {
        let mut expanded = Vec::new();
        for mut directive in directives {
            if directive.name() == "include" && directive.block.is_none() {
                expanded.extend(self.include(&directive)?);
                continue;
            }
            let skipped = SKIPPED_BLOCKS.contains(&directive.name());
            directive.block = match directive.block {
                Some(inside) if !skipped => Some(self.expand(inside)?),
                block => block,
            };
            expanded.push(directive);
        }
        Ok(expanded)
    }

    fn include(&mut self, directive: &Directive) -> Result<Vec<Directive>, Failure> {
        let pattern = self.directory.join(directive.word(1));
        let files = if directive.word(1).contains(['*', '?', '[']) {
            self.library.matching(&pattern).map_err(|error| Failure::at(&directive.origin, error))?
        } else {
            vec![pattern]
        };
        let mut all = Vec::new();
        for file in files {
            if self.open.contains(&file) {
                let message = format!("{} includes itself", file.display());
                return Err(Failure::at(&directive.origin, message));
            }
            if self.open.len() >= MOST_INCLUDES {
                return Err(Failure::at(&directive.origin, "files include each other too deeply"));
            }
            let included = self.file(&file).map_err(|failure| match failure.place.contains(':') {
                true => failure,
                false => Failure { place: format!("{}: {}", directive.origin, failure.place), ..failure },
            });
            all.extend(included?);
        }
        Ok(all)
    }
}

/// A token with its line.
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Parses one file.
fn tree(text: &Text) -> Result<Vec<Directive>, Failure> {
    let mut tokens = Tokens { rest: &text.text, line: 1, text };
    // The directives of each open block, and the directive that opened it.
    let mut blocks: Vec<(Vec<Directive>, Option<Directive>)> = vec![(Vec::new(), None)];
    let mut words: Vec<String> = Vec::new();
    let mut begins = 1;
    while let Some(token) = tokens.next()? {
        if words.is_empty() {
            begins = tokens.line;
        }
        let directive = |words| Directive { words, block: None, origin: text.origin(begins) };
        match token {
            Token::Word(word) => words.push(word),
            Token::End if words.is_empty() => return Err(tokens.failure("unexpected `;`")),
            Token::End => last(&mut blocks).push(directive(std::mem::take(&mut words))),
            Token::Open if words.is_empty() => return Err(tokens.failure("unexpected `{`")),
            Token::Open if words[0].ends_with("_by_lua_block") => {
                tokens.skip_lua()?;
                last(&mut blocks).push(directive(std::mem::take(&mut words)));
            }
            Token::Open if blocks.len() > MOST_BLOCKS => return Err(tokens.failure("blocks are nested too deeply")),
            Token::Open => blocks.push((Vec::new(), Some(directive(std::mem::take(&mut words))))),
            Token::Close => match blocks.pop() {
                _ if !words.is_empty() => return Err(tokens.failure("a `;` is missing before this `}`")),
                Some((inside, Some(opened))) => {
                    last(&mut blocks).push(Directive { block: Some(inside), ..opened });
                }
                _ => return Err(tokens.failure("unexpected `}`")),
            },
        }
    }
    match blocks.pop() {
        Some((_, Some(opened))) => Err(Failure::at(&opened.origin, "this block is not closed; a `}` is missing")),
        _ if !words.is_empty() => {
            Err(Failure::at(text.origin(begins), "a `;` is missing at the end of this directive"))
        }
        Some((all, None)) => Ok(all),
        None => Ok(Vec::new()),
    }
}

fn last(blocks: &mut [(Vec<Directive>, Option<Directive>)]) -> &mut Vec<Directive> {
    &mut blocks.last_mut().expect("the outermost block is never popped alone").0
}

struct Tokens<'t> {
    rest: &'t str,
    line: usize,
    text: &'t Text,
}

impl<'t> Tokens<'t> {
    fn next(&mut self) -> Result<Option<Token>, Failure> {
        loop {
            let Some(c) = self.rest.chars().next() else { return Ok(None) };
            match c {
                '#' => drop(self.take(self.rest.find('\n').unwrap_or(self.rest.len()))),
                c if c.is_ascii_whitespace() => drop(self.take(1)),
                ';' | '{' | '}' => {
                    self.take(1);
                    return Ok(Some(if c == ';' {
                        Token::End
                    } else if c == '{' {
                        Token::Open
                    } else {
                        Token::Close
                    }));
                }
                '"' | '\'' => return self.quoted(c).map(Some),
                _ => return Ok(Some(self.plain())),
            }
        }
    }

    /// Takes so many bytes, which end at a character, and counts their lines.
    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn quoted(&mut self, quote: char) -> Result<Token, Failure> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|&(_, c)| {
            let is_end = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let Some((end, _)) = end else { return Err(self.failure("a quote is not closed")) };
        let inside = &self.take(end + 1)[1..end];
        Ok(Token::Word(unescaped(inside)))
    }

    /// A word without quotes. `${name}` belongs to it.
    fn plain(&mut self) -> Token {
        let mut escaped = false;
        let mut in_variable = false;
        let mut before = ' ';
        let end = self.rest.char_indices().find(|&(_, c)| {
            let ends = !escaped && (c.is_ascii_whitespace() || c == ';' || (c == '{' && before != '$'));
            let ends = ends || (!escaped && c == '}' && !in_variable);
            in_variable = (in_variable && c != '}') || (c == '{' && before == '$');
            escaped = c == '\\' && !escaped;
            before = c;
            ends
        });
        let word = self.take(end.map_or(self.rest.len(), |(at, _)| at));
        Token::Word(unescaped(word))
    }

    /// Skips a block of Lua, whose braces are balanced.
    fn skip_lua(&mut self) -> Result<(), Failure> {
        let mut depth = 1_usize;
        let end = self.rest.char_indices().find(|&(_, c)| {
            depth = match c {
                '{' => depth + 1,
                '}' => depth - 1,
                _ => depth,
            };
            depth == 0
        });
        let Some((end, _)) = end else { return Err(self.failure("a block of Lua is not closed")) };
        self.take(end + 1);
        Ok(())
    }

    fn failure(&self, message: &str) -> Failure {
        Failure::at(self.text.origin(self.line), message)
    }
}

/// A backslash before a quote, a space or itself goes; before other characters it stays, as in `\.`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('"' | '\'' | ' ' | ';' | '{' | '}')) => out.extend(chars.next()),
            ('\\', Some('\\')) => {
                chars.next();
                out.push('\\');
            }
            _ => out.push(c),
        }
    }
    out
}

/// Their includes cannot matter.
const SKIPPED_BLOCKS: &[&str] = &["http", "mail", "events", "types"];
const MOST_INCLUDES: usize = 16;
const MOST_BLOCKS: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, Failure> {
        tree(&Text { name: "n".into(), text: text.into() })
    }

    #[test]
    fn words_quotes_and_blocks_are_read() {
        let tree = read("a 'b c' \"d;\" ~^e\\.f$; # x }\nmap ${g}h $i {\n  j k;\n}").expect("good");
        assert_eq!(tree[0].words, ["a", "b c", "d;", "~^e\\.f$"]);
        assert_eq!(tree[1].words, ["map", "${g}h", "$i"]);
        let inside = &tree[1].block.as_ref().expect("a block")[0];
        assert_eq!((&*inside.text(), inside.origin.line), ("j k", 3));
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        for (text, place) in [
            ("a\nb", "n:1"),
            ("a;\n}", "n:2"),
            ("a {\n b;", "n:1"),
            ("a 'b", "n:1"),
            ("\n;", "n:2"),
            ("{", "n:1"),
            ("a { b }", "n:1"),
            ("x_by_lua_block { {", "n:1"),
        ] {
            assert_eq!(read(text).map_err(|failure| failure.place).map(drop), Err(place.to_owned()), "{text}");
        }
        assert!(read(&"a {".repeat(100)).is_err());
        assert!(read("x_by_lua_block { if a { b } } c;").is_ok_and(|tree| tree.len() == 2));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-c \\n;{}'\"\\\\#${}\u{e9}]{0,60}") {
            let _ = read(&text);
        }
    }
}
