//! Reads the code blocks of a page.
//!
//! In:  the text of a Markdown page.
//! Out: its [`Block`]s, in order.
//! Source: CommonMark 0.31, fenced code blocks.

use std::fs;
use std::path::{Path, PathBuf};

/// One fenced block of code.
#[derive(Debug)]
pub struct Block {
    /// `docs/cli.md:85`, the line of its fence.
    pub place: String,
    /// The first word of its first line, up to a comma: `sh`.
    pub language: String,
    /// What follows the comma: `skip`.
    pub mark: String,
    /// The rest of that line.
    pub rest: String,
    pub text: String,
}

/// A page with its blocks.
#[derive(Debug)]
pub struct Page {
    /// Relative to the root: `docs/cli.md`.
    pub name: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, then the pages of docs/ by name.
pub fn pages() -> Vec<Page> {
    let mut names: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .expect("docs/")
        .map(|entry| Path::new("docs").join(entry.expect("readable").file_name()))
        .filter(|name| name.extension().is_some_and(|extension| extension == "md"))
        .collect();
    names.sort();
    names.insert(0, "README.md".into());
    names.iter().map(|name| Page::read(&name.display().to_string())).collect()
}

impl Page {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let blocks = blocks(name, &text);
        Self { name: name.to_owned(), text, blocks }
    }

    /// Its lines outside of code, each with its number.
    pub fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut fenced = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            (!fenced && !fence).then_some((index + 1, line))
        })
    }
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(Block, usize)> = None;
    for (index, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(first), None) => open = Some((Block::open(format!("{page}:{}", index + 1), first), indent)),
            (Some(_), Some(_)) => found.extend(open.take().map(|(block, _)| block)),
            (None, Some((block, indent))) => {
                block.text.push_str(line.get(*indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a code block is not closed");
    found
}

impl Block {
    fn open(place: String, first: &str) -> Self {
        let (word, rest) = first.split_once(' ').unwrap_or((first, ""));
        let (language, mark) = word.split_once(',').unwrap_or((word, ""));
        let [language, mark, rest] = [language, mark, rest].map(str::to_owned);
        Self { place, language, mark, rest, text: String::new() }
    }
}

/// Nothing escapes the other tests: each block has a language, and none is merely indented.
#[test]
fn every_code_block_has_a_language() {
    for page in pages() {
        for block in &page.blocks {
            assert!(!block.language.is_empty(), "{}: write the language behind ```", block.place);
            assert_ne!((&*block.language, &*block.rest), ("sh", "skip"), "{}", block.place);
            if block.mark == "skip" {
                assert!(block.rest.len() > 8, "{}: write why it is not run: `sh,skip REASON`", block.place);
            }
        }
        let mut before = "";
        let mut in_list = false;
        for (number, line) in page.prose() {
            in_list = line.trim_start().starts_with(['-', '*'])
                || line.trim_start().starts_with(|first: char| first.is_ascii_digit())
                || in_list && (line.is_empty() || line.starts_with(' '));
            let indented = before.is_empty() && line.starts_with("    ") && !in_list;
            assert!(!indented, "{}:{number}: put code between ``` and ```", page.name);
            before = line;
        }
    }
}
