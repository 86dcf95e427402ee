//! Escapes text for a log line, whatever bytes it holds, and writes `key: value` pairs as JSON or as logfmt.
//!
//! In:  keys (ours) and values (untrusted).
//! Out: a line that is safe to parse and to print on a terminal: control characters (below 0x20, DEL, C1) and
//!      characters that are invisible, or that reorder or break lines, are escaped.
//! Source: RFC 8259 §7; logfmt, which has no formal specification: `key=value`, quoted as in JSON where necessary.

use std::fmt::{self, Write};

/// How the pairs of a line are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    Logfmt,
}

/// A line under construction. `finish` ends it.
pub(super) struct Pairs<'o> {
    out: &'o mut String,
    syntax: Syntax,
    is_first: bool,
}

impl<'o> Pairs<'o> {
    pub(super) fn new(out: &'o mut String, syntax: Syntax) -> Self {
        if syntax == Syntax::Json {
            out.push('{');
        }
        Self { out, syntax, is_first: true }
    }

    /// A number, or text that needs no escaping in either syntax.
    pub(super) fn plain(&mut self, key: impl fmt::Display, value: impl fmt::Display) {
        self.key(key);
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }

    /// Text from us or from outside.
    pub(super) fn text(&mut self, key: impl fmt::Display, value: impl fmt::Display) {
        self.key(key);
        match self.syntax {
            Syntax::Json => write_quoted(self.out, value),
            Syntax::Logfmt => write_bare(self.out, value),
        }
    }

    pub(super) fn list<T: fmt::Display>(&mut self, key: impl fmt::Display, values: impl Iterator<Item = T>) {
        match self.syntax {
            Syntax::Json => {
                self.key(key);
                self.out.push('[');
                for (at, value) in values.enumerate() {
                    if at > 0 {
                        self.out.push(',');
                    }
                    write_quoted(self.out, value);
                }
                self.out.push(']');
            }
            Syntax::Logfmt => self.text(key, values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")),
        }
    }

    /// Ends the line.
    pub(super) fn finish(self) {
        self.out.push_str(if self.syntax == Syntax::Json { "}\n" } else { "\n" });
    }

    fn key(&mut self, key: impl fmt::Display) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let (before, after) = match (self.syntax, is_first) {
            (Syntax::Json, true) => ("\"", "\":"),
            (Syntax::Json, false) => (",\"", "\":"),
            (Syntax::Logfmt, true) => ("", "="),
            (Syntax::Logfmt, false) => (" ", "="),
        };
        let _ = write!(self.out, "{before}{key}{after}");
    }
}

/// Bytes that should be text: invalid UTF-8 is written as `\xNN`.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// The text without what could change how a line is read, escaped as in JSON but without quotes around it.
pub(super) fn escaped(value: impl fmt::Display) -> String {
    let mut out = String::new();
    let _ = write!(Escaping(&mut out), "{value}");
    out
}

/// Text from outside for a person to read: of at most `most` characters, in one line, with the characters escaped that
/// control a terminal or make a line display misleadingly.
pub(crate) fn readable(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    for (at, c) in text.chars().enumerate() {
        if at >= most {
            shown.push('…');
            break;
        }
        if c.is_control() || misleads(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

fn write_quoted(out: &mut String, value: impl fmt::Display) {
    out.push('"');
    let _ = write!(Escaping(out), "{value}");
    out.push('"');
}

/// Quotes only where a parser needs it.
fn write_bare(out: &mut String, value: impl fmt::Display) {
    let start = out.len();
    write_quoted(out, value);
    let quoted = &out[start + 1..out.len() - 1];
    if !quoted.is_empty() && !quoted.contains([' ', '\\', '=']) {
        out.truncate(out.len() - 1);
        out.remove(start);
    }
}

/// Escapes what is written to it, for use inside a JSON string.
struct Escaping<'o>(&'o mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly all text needs no escaping, and is copied as a whole.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
            self.0.push_str(text);
            return Ok(());
        }
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        match c {
            '"' => self.0.push_str("\\\""),
            '\\' => self.0.push_str("\\\\"),
            '\n' => self.0.push_str("\\n"),
            '\r' => self.0.push_str("\\r"),
            '\t' => self.0.push_str("\\t"),
            c if c.is_control() || misleads(c) => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(self.0, "\\u{unit:04x}"))?;
            }
            c => self.0.push(c),
        }
        Ok(())
    }
}

/// Line and paragraph separators, characters that make a line display misleadingly (bidirectional controls), and those
/// that cannot be seen (UAX #9 §2, UTS #39).
pub(crate) const fn misleads(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(syntax: Syntax, value: &str) -> String {
        let mut out = String::new();
        let mut pairs = Pairs::new(&mut out, syntax);
        pairs.text("a", value);
        pairs.plain("n", 1);
        pairs.finish();
        out
    }

    #[test]
    fn logfmt_quotes_only_what_needs_it() {
        assert_eq!(line(Syntax::Logfmt, "shop.example.com"), "a=shop.example.com n=1\n");
        assert_eq!(line(Syntax::Logfmt, ""), "a=\"\" n=1\n");
        assert_eq!(line(Syntax::Logfmt, "two words"), "a=\"two words\" n=1\n");
        assert_eq!(line(Syntax::Logfmt, "x=1"), "a=\"x=1\" n=1\n");
        assert_eq!(line(Syntax::Logfmt, "\u{1b}[2J\"\r\n"), "a=\"\\u001b[2J\\\"\\r\\n\" n=1\n");
    }

    #[test]
    fn bytes_that_are_no_text_stay_readable() {
        assert_eq!(Bytes(b"h2").to_string(), "h2");
        assert_eq!(Bytes(b"\xff\xfeok\xc3").to_string(), "\\xff\\xfeok\\xc3");
        assert_eq!(Bytes("grüße".as_bytes()).to_string(), "grüße");
    }

    #[test]
    fn readable_text_is_short_and_controls_nothing() {
        assert_eq!(readable("grüße <b>", 20), "grüße <b>");
        assert_eq!(readable("\u{1b}[2Ja\u{202e}b\r\n", 20), "\\u{1b}[2Ja\\u{202e}b\\u{d}\\u{a}");
        assert_eq!(readable(&"ä".repeat(300), 4), "ääää…");
    }

    #[test]
    fn a_list_is_an_array_or_joined() {
        for (syntax, expected) in
            [(Syntax::Json, "{\"l\":[\"h2\",\"a\\\"b\"]}\n"), (Syntax::Logfmt, "l=\"h2,a\\\"b\"\n")]
        {
            let mut out = String::new();
            let mut pairs = Pairs::new(&mut out, syntax);
            pairs.list("l", ["h2", "a\"b"].into_iter());
            pairs.finish();
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_comes_back(
            value in "\\PC*|[\\x00-\\x9f\u{61c}\u{200b}\u{2028}\u{202e}\u{2066}\u{e0041}\u{10ffff}\"\\\\]*",
        ) {
            let json = line(Syntax::Json, &value);
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(parsed["a"].as_str().unwrap(), &value);
            for line in [json, line(Syntax::Logfmt, &value), escaped(&value) + "\n"] {
                prop_assert!(line.strip_suffix('\n').unwrap().chars().all(|c| !c.is_control() && !misleads(c)));
            }
        }
    }
}
