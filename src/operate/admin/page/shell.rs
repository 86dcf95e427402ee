//! The page around its sections: style, script, frame, and the headers that let the browser run nothing else.
//!
//! In:  the HTML of the sections.
//! Out: a whole page, or the sections alone; the headers of both.

use std::sync::LazyLock;

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;

use super::sections;
use super::tone::Tone;
use crate::operate::status::Status;

/// Whether the reader can change anything from the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayChange {
    WithToken,
    /// No token is configured; a browser cannot use the unix socket.
    NoToken,
    Never,
}

/// The page with `main`.
pub(super) fn page(status: &Status, may_change: MayChange, main: &str) -> askama::Result<String> {
    let icon = icon(sections::mood(status));
    Shell { title: sections::title(status), icon, css: &CSS, script: &SCRIPT, main, may_change }.render()
}

/// The answer with the sections that have changed; also the title and the icon, which depend on the problems.
pub(super) fn fragment(status_title: &str, mood: Tone, main: &str) -> askama::Result<String> {
    Fragment { title: status_title, icon: icon(mood), main }.render()
}

/// The sections in their frame. `generation` is what the script passes as `since`, to get only what changed later.
pub(super) fn main<'s>(generation: u64, sections: impl Iterator<Item = &'s str>) -> String {
    let mut main = format!("<main data-generation=\"{generation}\" data-build=\"{}\">\n", &*BUILD);
    sections.for_each(|section| main += section);
    main + "\n</main>"
}

/// Allows the style and the script of this page, and answers of this server. Nothing else is loaded, run or sent.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        hash(&CSS),
        hash(&SCRIPT)
    )
});

/// Differs between versions of the page: a page of another version is replaced.
static BUILD: LazyLock<String> = LazyLock::new(|| hash(&format!("{}{}", *CSS, *SCRIPT))[..12].to_owned());

#[derive(Template)]
#[template(path = "page.html")]
struct Shell<'s> {
    title: String,
    icon: String,
    css: &'s str,
    script: &'s str,
    main: &'s str,
    may_change: MayChange,
}

#[derive(Template)]
#[template(path = "fragment.html")]
struct Fragment<'s> {
    title: &'s str,
    icon: String,
    main: &'s str,
}

/// A dot in the colour of the most serious problem.
fn icon(mood: Tone) -> String {
    let (colour, shape) = match mood {
        Tone::Bad => ("c8242b", "M5 1h6l4 4v6l-4 4H5l-4-4V5z"),
        Tone::Warn | Tone::Note => ("c98500", "M8 1l7.5 14H.5z"),
        Tone::Off | Tone::Ok => ("16874d", "M8 1a7 7 0 1 0 .01 0z"),
    };
    format!(
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%23{colour}' d='{shape}'/%3E%3C/svg%3E"
    )
}

/// As the policy names it.
fn hash(text: &str) -> String {
    BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

static CSS: LazyLock<String> = LazyLock::new(|| {
    // No value and no selector of it depends on these spaces.
    let pairs = [("}\n", "}"), (" { ", "{"), (" }", "}"), ("; ", ";"), (": ", ":"), (", ", ",")];
    pairs.iter().fold(compact(include_str!("page.css")), |css, (long, short)| css.replace(long, short))
});
static SCRIPT: LazyLock<String> = LazyLock::new(|| compact(include_str!("page.js")));

/// Without indentation and lines that only comment.
fn compact(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines
        .filter(|line| !(line.starts_with("/*") && line.ends_with("*/")))
        .fold(String::new(), |text, line| text + line + "\n")
}
