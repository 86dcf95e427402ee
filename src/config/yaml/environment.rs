//! Replaces `${NAME}` and `${NAME:-default}` in values by environment variables.
//!
//! In:  the text of a value.
//! Out: the text with the variables' values, or which variable is not set. `$${` stands for `${`.

use std::collections::BTreeMap;
use std::{env, fmt};

/// The variables that have been used, with their values, since the hash of a configuration covers them.
#[derive(Default)]
pub(in crate::config) struct Environment {
    pub used: BTreeMap<String, String>,
}

/// Why a value could not be completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnvironmentError {
    NotSet(String),
    NotUnicode(String),
    /// `${` without `}`, or not followed by a name.
    Malformed,
}

impl Environment {
    /// # Errors
    /// A variable without a default is not set, or the text is malformed.
    pub(super) fn expand(&mut self, text: &str) -> Result<String, EnvironmentError> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = &from[2..];
                continue;
            }
            let (inside, after) = from[2..].split_once('}').ok_or(EnvironmentError::Malformed)?;
            expanded.push_str(before);
            expanded.push_str(&self.value(inside)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn value(&mut self, inside: &str) -> Result<String, EnvironmentError> {
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !is_name(name) || name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(EnvironmentError::Malformed);
        }
        // As in a shell, `:-` also replaces an empty value.
        let value = match (env::var(name), default) {
            (Ok(value), None) => value,
            (Ok(value), Some(_)) if !value.is_empty() => value,
            (Ok(_) | Err(env::VarError::NotPresent), Some(default)) => default.to_owned(),
            (Err(env::VarError::NotPresent), None) => return Err(EnvironmentError::NotSet(name.to_owned())),
            (Err(env::VarError::NotUnicode(_)), _) => return Err(EnvironmentError::NotUnicode(name.to_owned())),
        };
        self.used.insert(name.to_owned(), value.clone());
        Ok(value)
    }
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSet(name) => {
                write!(
                    f,
                    "the environment variable `{name}` is not set; set it, or write a default: `${{{name}:-VALUE}}`"
                )
            }
            Self::NotUnicode(name) => write!(f, "the environment variable `{name}` is not UTF-8"),
            Self::Malformed => f.write_str(
                "write an environment variable as `${NAME}` or `${NAME:-default}`, and `$${` for a literal `${`",
            ),
        }
    }
}

impl std::error::Error for EnvironmentError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_defaults_and_literals_are_replaced() {
        let mut environment = Environment::default();
        let mut expand = |text| environment.expand(text);
        let manifest = env!("CARGO_MANIFEST_DIR");
        assert_eq!(expand("${CARGO_MANIFEST_DIR}/x"), Ok(format!("{manifest}/x")));
        assert_eq!(expand("a${SNIGATE_UNSET:-b}c${SNIGATE_UNSET:-}"), Ok("abc".to_owned()));
        assert_eq!(expand("$${HOME} $x {"), Ok("${HOME} $x {".to_owned()));
        assert_eq!(expand("${SNIGATE_UNSET}"), Err(EnvironmentError::NotSet("SNIGATE_UNSET".to_owned())));
        for malformed in ["${", "${}", "${A", "${1A}", "${a b}", "${:-x}"] {
            assert_eq!(expand(malformed), Err(EnvironmentError::Malformed), "{malformed}");
        }
        assert!(environment.used.contains_key("CARGO_MANIFEST_DIR"));
    }
}
