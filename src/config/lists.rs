//! Reads the files that lists of networks name.
//!
//! In:  the path of a file, and the entry that names it.
//! Out: the set of its networks; a problem for each line that is not one. Each file is read once.
//! Source: docs/access.md, "Files of networks".

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::at::{At, Spot};
use super::files::{self, Hash};
use super::problem::{Place, Problems, Severity};
use super::wording::shortened;
use crate::networks::Networks;
use crate::settings::network;

/// The files of networks and of names that were read so far.
#[derive(Default)]
pub(super) struct Lists {
    /// That of the main file.
    directory: PathBuf,
    /// `None`: the file cannot be used, which has been reported.
    sets: HashMap<PathBuf, Option<Arc<Networks>>>,
    /// In the order in which they were first named.
    pub files: Vec<PathBuf>,
    hash: Hash,
}

impl Lists {
    pub(super) fn beside(main: &Path) -> Self {
        Self { directory: directory(main).to_path_buf(), ..Self::default() }
    }

    /// A hash over the content of all files.
    pub(super) fn hash(&self) -> Option<String> {
        (!self.files.is_empty()).then(|| self.hash.finish())
    }

    /// The networks of a file that the entry `at` names.
    pub(super) fn set(&mut self, path: &Path, at: &At<'_>, problems: &mut Problems) -> Option<Arc<Networks>> {
        if let Some(known) = self.sets.get(path) {
            return known.clone();
        }
        self.files.push(path.to_path_buf());
        let set = self.read(path, at, problems).map(Arc::new);
        self.sets.insert(path.to_path_buf(), set.clone());
        set
    }

    /// `path`, relative to the main file if it is below its directory.
    pub(super) fn relative_to_main(&self, path: PathBuf) -> PathBuf {
        match path.strip_prefix(&self.directory) {
            Ok(below) => below.to_path_buf(),
            Err(_) => std::path::absolute(&path).unwrap_or(path),
        }
    }

    /// The text of a file of names that the entry `at` names. It is watched as those of networks are.
    pub(super) fn names(&mut self, path: &Path, at: &At<'_>, problems: &mut Problems) -> Option<String> {
        if !self.files.iter().any(|known| known == path) {
            self.files.push(path.to_path_buf());
        }
        self.text(path, at, problems)
    }

    fn text(&mut self, path: &Path, at: &At<'_>, problems: &mut Problems) -> Option<String> {
        let bytes = files::bytes(path, files::MAX_FILE_BYTES).map_err(|error| {
            let path = path.display();
            match error.is_not_found() {
                true => problems.error(at, format_args!("`{path}` does not exist; create it, even if it is empty")),
                false => problems.error(at, format_args!("`{path}`: {error}")),
            }
        });
        let file: Arc<Path> = path.into();
        let top = At::top(&file);
        let text = files::decode(bytes.ok()?, &top, problems)?;
        files::check_start(&text, &top, problems)?;
        self.hash.add(&text);
        Some(text)
    }

    fn read(&mut self, path: &Path, at: &At<'_>, problems: &mut Problems) -> Option<Networks> {
        let text = self.text(path, at, problems)?;
        let file: Arc<Path> = path.into();
        let top = At::top(&file);
        let mut networks = Vec::new();
        let before = problems.errors();
        for (number, line) in (1..).zip(text.lines()) {
            match parse(line) {
                Ok(network) => networks.extend(network),
                Err(wrong) => problems.add(Severity::Error, || {
                    top.moved(Spot { line: number, column: column(line) }).problem(Severity::Error, explain(wrong))
                }),
            }
        }
        (problems.errors() == before).then(|| networks.into_iter().collect())
    }
}

/// The network of a line; `None` if the line is empty or only a comment.
fn parse(line: &str) -> Result<Option<IpNet>, &str> {
    let text = line.split_once('#').map_or(line, |(text, _)| text).trim();
    match text {
        "" => Ok(None),
        text => network(text).map(Some).map_err(|_| text),
    }
}

fn explain(wrong: &str) -> String {
    let shown = shortened(wrong);
    match network(wrong) {
        _ if wrong.contains([';', ',']) || wrong.split_whitespace().nth(1).is_some() => {
            format!("`{shown}` is not one network; write one a line, and `#` before a comment")
        }
        // An error shows the text, and this one may be as long as the file.
        Err(error) if wrong.len() <= LONGEST_NETWORK => error.to_string(),
        _ => format!("`{shown}` is not a valid network; write it as `10.0.0.0/8`"),
    }
}

/// Where the network of a line begins.
fn column(line: &str) -> u32 {
    line.chars().take_while(|c| c.is_whitespace()).map(|_| 1).sum::<u32>() + 1
}

/// The path of a file of a loaded list.
pub(crate) fn path(main: &Path, named: &Path) -> PathBuf {
    directory(main).join(named)
}

/// The directory that the names in `file` are relative to.
pub(super) fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// The first line of a file of networks that holds `address`, for an explanation: the path does not keep the lines.
pub(crate) fn find(path: &Path, address: IpAddr) -> Option<(IpNet, Place)> {
    let text = String::from_utf8(files::bytes(path, files::MAX_FILE_BYTES).ok()?).ok()?;
    (1..).zip(text.lines()).find_map(|(number, line)| {
        let network = parse(line).ok()?.filter(|network| network.contains(&address))?;
        Some((network, Place { file: path.into(), line: number, column: column(line) }))
    })
}

/// In bytes, with some more for a mistake.
const LONGEST_NETWORK: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, Loaded, Problems};

    fn load(directory: &Path, rest: &str) -> Result<Loaded, Problems> {
        let main = directory.join("config.yaml");
        let text = format!(
            "listeners:\n  - name: l\n    bind: 127.0.0.1:0\n{rest}\npools: {{ p: {{ backends: [10.0.0.1:443] }} }}\n\
             unmatched: {{ pool: p }}\n"
        );
        fs::write(&main, text).unwrap();
        Config::load(&main)
    }

    fn problems(directory: &Path, rest: &str) -> String {
        let problems = load(directory, rest).map(|loaded| loaded.warnings).unwrap_or_else(|problems| problems);
        problems.to_string().replace(&format!("{}/", directory.display()), "")
    }

    #[test]
    fn a_file_has_a_network_a_line_and_comments() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("lists")).unwrap();
        let text =
            "# all kinds\r\n\r\n10.0.0.0/8\r\n  192.0.2.1 # one\n\t::ffff:172.16.0.0/108\n10.1.0.0/16\n10.0.0.0/8";
        fs::write(directory.path().join("lists/a.txt"), text).unwrap();
        let config = load(directory.path(), "    deny: [\"@lists/a.txt\", 2001:db8::1]").unwrap().config;
        let deny = &config.listeners[0].deny;
        for (address, is_in) in [
            ("10.255.0.0", true),
            ("192.0.2.1", true),
            ("172.16.1.1", true),
            ("2001:db8::1", true),
            ("192.0.2.2", false),
            ("172.32.0.0", false),
        ] {
            assert_eq!(deny.contains(address.parse().unwrap()), is_in, "{address}");
        }
        // As a file of its own it means the same.
        let written = config.to_text();
        assert!(written.contains("\"deny\":[\"@lists/a.txt\",\"2001:db8::1/128\"]"), "{written}");
        assert_eq!(
            &Config::parse(&written, &directory.path().join("config.yaml")).unwrap().config.listeners[0].deny,
            deny
        );
    }

    #[test]
    fn each_wrong_line_is_reported_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("a.txt");
        fs::write(&list, "10.0.0.0/8\n10.0.0.1/8\n  x\n10.0.0.0/8 ; SBL1\n1.1.1.1 2.2.2.2\n10.0.0.0/33\n").unwrap();
        let reported = problems(directory.path(), "    deny: [\"@a.txt\"]");
        assert_eq!(
            reported,
            "a.txt:2:1: the address has bits beyond the prefix; write `10.0.0.0/8`, or `/32` or `/128` for one address\n\
             a.txt:3:3: `x` is not a valid network; write it as `10.0.0.0/8`\n\
             a.txt:4:1: `10.0.0.0/8…` is not one network; write one a line, and `#` before a comment\n\
             a.txt:5:1: `1.1.1.1…` is not one network; write one a line, and `#` before a comment\n\
             a.txt:6:1: `10.0.0.0/33` is not a valid network; write it as `10.0.0.0/8`"
        );
        fs::write(&list, "x\n".repeat(1000)).unwrap();
        assert!(problems(directory.path(), "    deny: [\"@a.txt\"]").ends_with("\nand 900 more"));
        fs::write(&list, "x".repeat(1 << 20)).unwrap();
        assert!(problems(directory.path(), "    deny: [\"@a.txt\"]").len() < 200);
        for (bytes, wanted) in [
            (&b"10.0.0.1\n\xff"[..], "a.txt:2:1: the file is not UTF-8"),
            (b"\xef\xbb\xbf10.0.0.1\n", "a.txt:1:1: the file begins with a byte order mark"),
            (b"\xff\xfe1\0", "a.txt:1:1: the file is written in UTF-16"),
        ] {
            fs::write(&list, bytes).unwrap();
            let reported = problems(directory.path(), "    deny: [\"@a.txt\"]");
            assert!(reported.starts_with(wanted), "{reported}");
        }
    }

    #[test]
    fn a_wrong_entry_is_reported_in_the_routing_file() {
        let directory = tempfile::tempdir().unwrap();
        for (rest, wanted) in [
            (
                "    deny: [\"@gone.txt\"]",
                "config.yaml:4:12: listeners[0].deny[0]: `gone.txt` does not exist; create it",
            ),
            ("    deny: [\"@.\"]", "config.yaml:4:12: listeners[0].deny[0]: `.`: this is a directory, not a file"),
            ("    allow: []", "config.yaml:4:12: listeners[0].allow: an empty list would refuse every client"),
            ("    allow: 10.0.0.0/8", "config.yaml:4:12: listeners[0].allow: expected a list (write `[10.0.0.0/8]`)"),
            ("    deny: [10.0.0.1/8]", "config.yaml:4:12: listeners[0].deny[0]: the address has bits"),
            (
                "    deny: [banned.txt]",
                "config.yaml:4:12: listeners[0].deny[0]: `banned.txt` is not a valid network; write",
            ),
        ] {
            let reported = problems(directory.path(), rest);
            assert!(reported.starts_with(wanted), "{rest}\n{reported}\n{wanted}");
        }
        assert_eq!(problems(directory.path(), "    deny: []"), "");
    }

    #[test]
    fn a_file_is_read_once_is_watched_and_its_content_is_part_of_the_hash() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("a.txt");
        fs::write(&list, "10.0.0.1\n").unwrap();
        let rest = "    allow: [\"@a.txt\"]\n    deny: [10.0.0.2, \"@a.txt\"]\n\
                    routes: [{ sni: a.test, pool: p, deny: [\"@a.txt\"] }]";
        let config = || load(directory.path(), rest).unwrap_or_else(|problems| panic!("{problems}")).config;
        let before = config();
        let [listener] = &*before.listeners else { panic!("one listener") };
        let (allow, deny) = (&listener.allow.as_ref().unwrap().sets[0], &listener.deny.sets[1]);
        let route = &before.routes[0].access.as_ref().unwrap().deny.sets[0];
        assert!(Arc::ptr_eq(allow, deny) && Arc::ptr_eq(allow, route));
        assert!(before.sources.present().contains(&list));
        fs::write(&list, "10.0.0.3\n").unwrap();
        let after = config();
        assert_ne!(before.hash, after.hash);
        // A file that is gone is waited for.
        fs::remove_file(&list).unwrap();
        let (loaded, sources) = Config::load_from(&directory.path().join("config.yaml"));
        assert!(loaded.is_err() && sources.present().contains(&list));
    }

    #[test]
    fn a_million_lines_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let lines = (0..1_000_000u32).map(|n| format!("{}/31\r\n", std::net::Ipv4Addr::from(n * 4)));
        fs::write(directory.path().join("a.txt"), lines.collect::<String>()).unwrap();
        let config = load(directory.path(), "    deny: [\"@a.txt\"]").unwrap().config;
        let deny = &config.listeners[0].deny;
        assert_eq!(deny.sets[0].len(), 1_000_000);
        assert!(deny.sets[0].bytes() <= 5_000_000, "{} bytes", deny.sets[0].bytes());
        assert!(deny.contains("0.0.0.9".parse().unwrap()) && !deny.contains("0.0.0.10".parse().unwrap()));
    }
}
