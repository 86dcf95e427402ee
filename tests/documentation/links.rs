//! Follows the links of the pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::blocks::{Page, pages, root};

/// Where the files of this tree are on the web. Pages of docs/ link this way to files outside of docs/, which the book
/// does not contain.
const REPOSITORY: &str = "https://github.com/snigate/snigate/blob/main/";

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut pages = pages();
    for name in ["CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"] {
        pages.push(Page::read(name));
    }
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages.iter().map(|page| (&*page.name, anchors(page))).collect();
    let mut followed = 0;
    for page in &pages {
        for (number, line) in page.prose() {
            for target in targets(line) {
                let place = format!("{}:{number}: {target}", page.name);
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = match path.strip_prefix(REPOSITORY) {
                    Some(file) => PathBuf::from(file),
                    None if path.contains(':') => continue,
                    None if path.is_empty() => PathBuf::from(&page.name),
                    None => plain(&Path::new(&page.name).parent().unwrap().join(path)),
                };
                assert!(root().join(&file).exists(), "{place}: there is no {}", file.display());
                let in_book = page.name.starts_with("docs/") && !path.starts_with(REPOSITORY);
                assert!(!in_book || file.starts_with("docs"), "{place}: write {REPOSITORY}{}", file.display());
                let known = anchors.get(file.to_str().unwrap());
                let found = anchor.is_empty() || known.is_none_or(|known| known.contains(anchor));
                assert!(found, "{place}: {} has no such heading", file.display());
                followed += 1;
            }
        }
    }
    assert!(followed > 100, "{followed}");
}

#[test]
fn the_book_has_every_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<String> =
        summary.prose().flat_map(|(_, line)| targets(line)).map(|to| format!("docs/{to}")).collect();
    let once: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "{listed:?}");
    for page in pages().iter().filter(|page| page.name.starts_with("docs/") && page.name != "docs/SUMMARY.md") {
        assert!(once.contains(&page.name), "docs/SUMMARY.md does not list {}", page.name);
    }
}

/// The targets of the links and images of a line.
fn targets(line: &str) -> Vec<&str> {
    let parts = line.split("](").skip(1);
    parts.filter_map(|part| part.split(')').next()).filter(|target| !target.contains(' ')).collect()
}

/// The anchors of the headings of a page, as GitHub and mdbook make them.
fn anchors(page: &Page) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let headings = page.prose().filter_map(|(_, line)| {
        let text = line.trim_start_matches('#');
        (line.starts_with('#') && text.starts_with(' ')).then_some(text.trim())
    });
    let anchors = headings.map(|heading| {
        let kept = heading.chars().filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
        let count = counts.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    });
    anchors.collect()
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
