//! Reads one answer of /metrics.
//!
//! Source: Prometheus text exposition format 0.0.4.

use std::collections::BTreeMap;

/// All series of one scrape.
pub struct Scrape {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { series: samples.map(sample).collect() }
    }

    /// The sum over the series of `name` (without the prefix `snigate_`) that carry all of `labels`.
    ///
    /// # Panics
    /// If the name has no series at all, so that a slip of the pen is no zero.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut named = self.series.iter().filter(|(full, ..)| full.strip_prefix("snigate_") == Some(name)).peekable();
        assert!(named.peek().is_some(), "no series is called snigate_{name}");
        let carries = |has: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| has.get(*key).is_some_and(|has| has == value))
        };
        named.filter(|(_, has, _)| carries(has)).map(|(.., value)| value).sum()
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
    let value = value.parse().expect("the value is a number");
    match series.split_once('{') {
        None => (series.to_owned(), BTreeMap::new(), value),
        Some((name, labels)) => (name.to_owned(), label_pairs(labels), value),
    }
}

/// `a="1",b="2"}`, where a value may hold an escaped quote or a comma.
fn label_pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => break,
                },
                other => value.push(other),
            }
        }
        pairs.insert(key.trim_start_matches(',').to_owned(), value);
        rest = &after[end..];
    }
    pairs
}
