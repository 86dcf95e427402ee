//! Writes `key: value` pairs as one JSON object or one line of text, whatever bytes the values hold.
//!
//! In:  keys (ours) and values (untrusted).
//! Out: a line that is safe to parse and to print on a terminal: control characters (below 0x20, DEL, C1) and
//!      characters that reorder or break lines are escaped.
//! Source: RFC 8259 §7; logfmt, which has no formal specification: `key=value`, quoted as in JSON where necessary.

use std::fmt::{self, Write};

use crate::settings::LogFormat;

/// A line under construction. `finish` ends it.
pub(super) struct Fields<'o> {
    out: &'o mut String,
    format: LogFormat,
    is_first: bool,
}

impl<'o> Fields<'o> {
    pub(super) fn new(out: &'o mut String, format: LogFormat) -> Self {
        if format == LogFormat::Json {
            out.push('{');
        }
        Self { out, format, is_first: true }
    }

    /// A number, or text that needs no escaping in either format.
    pub(super) fn plain(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }

    /// Text from us or from outside.
    pub(super) fn text(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        match self.format {
            LogFormat::Json => write_quoted(self.out, value),
            LogFormat::Text => write_bare(self.out, value),
        }
    }

    pub(super) fn list<T: fmt::Display>(&mut self, key: &str, values: impl Iterator<Item = T>) {
        match self.format {
            LogFormat::Json => {
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
            LogFormat::Text => self.text(key, values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")),
        }
    }

    /// Ends the line.
    pub(super) fn finish(self) {
        self.out.push_str(if self.format == LogFormat::Json { "}\n" } else { "\n" });
    }

    fn key(&mut self, key: &str) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.format {
            LogFormat::Json => {
                self.out.push_str(if is_first { "\"" } else { ",\"" });
                self.out.push_str(key);
                self.out.push_str("\":");
            }
            LogFormat::Text => {
                self.out.push_str(if is_first { "" } else { " " });
                self.out.push_str(key);
                self.out.push('=');
            }
        }
    }
}

/// Bytes that should be text: invalid UTF-8 is written as `\xNN`.
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

/// Line and paragraph separators, and characters that make a line display misleadingly (bidirectional overrides).
pub(crate) const fn misleads(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(format: LogFormat, value: &str) -> String {
        let mut out = String::new();
        let mut fields = Fields::new(&mut out, format);
        fields.text("a", value);
        fields.plain("n", 1);
        fields.finish();
        out
    }

    #[test]
    fn text_quotes_only_what_needs_it() {
        assert_eq!(line(LogFormat::Text, "shop.example.com"), "a=shop.example.com n=1\n");
        assert_eq!(line(LogFormat::Text, ""), "a=\"\" n=1\n");
        assert_eq!(line(LogFormat::Text, "two words"), "a=\"two words\" n=1\n");
        assert_eq!(line(LogFormat::Text, "x=1"), "a=\"x=1\" n=1\n");
        assert_eq!(line(LogFormat::Text, "\u{1b}[2J\"\r\n"), "a=\"\\u001b[2J\\\"\\r\\n\" n=1\n");
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
        for (format, expected) in
            [(LogFormat::Json, "{\"l\":[\"h2\",\"a\\\"b\"]}\n"), (LogFormat::Text, "l=\"h2,a\\\"b\"\n")]
        {
            let mut out = String::new();
            let mut fields = Fields::new(&mut out, format);
            fields.list("l", ["h2", "a\"b"].into_iter());
            fields.finish();
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_comes_back(value in "\\PC*|[\\x00-\\x9f\u{2028}\u{202e}\u{10ffff}\"\\\\]*") {
            let json = line(LogFormat::Json, &value);
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(parsed["a"].as_str().unwrap(), &value);
            for line in [json, line(LogFormat::Text, &value)] {
                prop_assert!(line.strip_suffix('\n').unwrap().chars().all(|c| !c.is_control() && !misleads(c)));
            }
        }
    }
}
