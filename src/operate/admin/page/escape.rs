//! Escapes text for HTML, and makes characters visible that could make a text display as another one.
//!
//! In:  text from the network, from the file, or our own.
//! Out: text for HTML elements and quoted attributes.
//! Source: HTML Living Standard §13.1.2; Unicode Standard Annex #9 (directional formatting characters).

use std::fmt::{self, Write};

use askama::filters::Escaper;

/// The escaper of all templates; `askama.toml` names it.
#[derive(Clone, Copy)]
pub(crate) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut to: W, text: &str) -> fmt::Result {
        let mut rest = text;
        // Nearly all text needs no escaping, and is copied as a whole.
        while let Some(at) = rest.find(needs_escape) {
            to.write_str(&rest[..at])?;
            let Some(c) = rest[at..].chars().next() else { break };
            write_char(&mut to, c)?;
            rest = &rest[at + c.len_utf8()..];
        }
        to.write_str(rest)
    }
}

fn write_char(to: &mut impl Write, c: char) -> fmt::Result {
    match c {
        '<' => to.write_str("&lt;"),
        '>' => to.write_str("&gt;"),
        '&' => to.write_str("&amp;"),
        '"' => to.write_str("&quot;"),
        '\'' => to.write_str("&#39;"),
        c => write!(to, "\\u{{{:x}}}", u32::from(c)),
    }
}

fn needs_escape(c: char) -> bool {
    // Line ends and tabs are harmless in HTML, and lines of the routing file have them.
    matches!(c, '<' | '>' | '&' | '"' | '\'') || is_invisible(c) || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Zero-width and directional characters, and separators that break a line.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Visible.write_escaped_str(&mut out, text).unwrap();
        out
    }

    #[test]
    fn markup_is_text_and_what_misleads_is_visible() {
        for (text, shown) in [
            ("shop.example.com", "shop.example.com"),
            ("grüße.example", "grüße.example"),
            ("<b onclick=\"x\">&'", "&lt;b onclick=&quot;x&quot;&gt;&amp;&#39;"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\u{202e}moc.live", "a\\u{202e}moc.live"),
            ("pay\u{200b}pal", "pay\\u{200b}pal"),
            ("one\ntwo\tthree", "one\ntwo\tthree"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_leaves_an_attribute_or_an_element(text in "\\PC*|[<>&\"'\\x00-\\x9f\u{202e}]*") {
            let shown = escaped(&text);
            prop_assert!(!shown.contains(['<', '>', '"', '\'']), "{shown}");
            prop_assert!(shown.chars().all(|c| !is_invisible(c)), "{shown}");
        }
    }
}
