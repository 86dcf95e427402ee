//! Splits a line of HAProxy's configuration into words.
//!
//! In:  one line.
//! Out: its words without quotes, escapes and comments.
//! Source: HAProxy's configuration manual, 2.2 (quoting and escaping).

/// The words of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub words: Vec<String>,
    /// An environment variable is named, whose value is not known here.
    pub has_variable: bool,
}

/// Splits `line`.
///
/// # Errors
/// A quote is not closed.
pub(super) fn split(line: &str) -> Result<Words, String> {
    let mut words = Words::default();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' => break,
            ' ' | '\t' | '\r' => words.words.extend(word.take()),
            '\'' => strong_quote(&mut chars, word.get_or_insert_default())?,
            '"' => weak_quote(&mut chars, word.get_or_insert_default(), &mut words.has_variable)?,
            '\\' => escape(&mut chars, word.get_or_insert_default()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.words.extend(word);
    Ok(words)
}

type Chars<'l> = std::iter::Peekable<std::str::Chars<'l>>;

fn strong_quote(chars: &mut Chars<'_>, word: &mut String) -> Result<(), String> {
    for c in chars {
        match c {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
    Err("a `'` is not closed".to_owned())
}

fn weak_quote(chars: &mut Chars<'_>, word: &mut String, has_variable: &mut bool) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => escape(chars, word),
            '$' => {
                *has_variable = true;
                word.push('$');
            }
            c => word.push(c),
        }
    }
    Err("a `\"` is not closed".to_owned())
}

/// What follows a backslash; one before any other character stays.
fn escape(chars: &mut Chars<'_>, word: &mut String) {
    match chars.peek().copied() {
        Some(c @ (' ' | '\\' | '"' | '\'' | '#' | '$')) => {
            chars.next();
            word.push(c);
        }
        Some(c @ ('n' | 'r' | 't')) => {
            chars.next();
            word.push(if c == 'n' {
                '\n'
            } else if c == 'r' {
                '\r'
            } else {
                '\t'
            });
        }
        Some('x') => hexadecimal(chars, word),
        _ => word.push('\\'),
    }
}

/// `\x41`
fn hexadecimal(chars: &mut Chars<'_>, word: &mut String) {
    let digits: String = chars.clone().skip(1).take(2).collect();
    match u8::from_str_radix(&digits, 16) {
        Ok(byte) if digits.len() == 2 && byte.is_ascii() => {
            chars.nth(2);
            word.push(char::from(byte));
        }
        _ => word.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_escapes_and_comments_are_read() {
        let split = |line: &str| split(line).map(|words| words.words.join("|"));
        assert_eq!(split("acl a  req.ssl_sni -i \"a b\" # c").as_deref(), Ok("acl|a|req.ssl_sni|-i|a b"));
        assert_eq!(split(r"a\ b \#c '\x' d\x41\.e").as_deref(), Ok(r"a b|#c|\x|dA\.e"));
        assert_eq!(split("a''\"\" ''").as_deref(), Ok("a|"));
        assert!(split("a 'b").is_err() && split("a \"b").is_err());
    }

    #[test]
    fn variables_count_in_double_quotes_only() {
        assert!(split("bind \"${A}:443\"").unwrap().has_variable);
        assert!(!split("bind '$A' $A").unwrap().has_variable);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[ a\\\\x4'\"#${}\u{e9}]{0,30}") {
            let _ = split(&line);
        }
    }
}
