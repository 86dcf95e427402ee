//! One run of `snigate doctor`: `Visit::new().route("a.test", "web").pool("web", &[address]).findings()`.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

#[derive(Clone, Default)]
pub struct Visit {
    routes: String,
    pools: String,
    rest: String,
    arguments: Vec<String>,
}

/// What the doctor printed as JSON, and how it ended.
pub struct Told {
    pub code: i32,
    pub json: Value,
}

impl Visit {
    /// One backend in pool `web`, to which `names` lead.
    pub fn one(names: &[&str], backend: SocketAddr) -> Self {
        names.iter().fold(Self::default(), |visit, name| visit.route(name, "web")).pool("web", &[backend])
    }

    pub fn route(mut self, pattern: &str, pool: &str) -> Self {
        self.routes += &format!("  - {{ sni: \"{pattern}\", pool: {pool} }}\n");
        self
    }

    pub fn pool(self, name: &str, backends: &[SocketAddr]) -> Self {
        self.pool_with(name, backends, "")
    }

    pub fn pool_with(mut self, name: &str, backends: &[impl Display], more: &str) -> Self {
        let list: Vec<_> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
        self.pools += &format!("  {name}: {{ backends: [{}]{more} }}\n", list.join(", "));
        self
    }

    /// Further keys of the routing file.
    pub fn line(mut self, line: &str) -> Self {
        self.rest += &format!("{line}\n");
        self
    }

    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_str().expect("text").to_owned());
        self
    }

    pub fn trusting(self, root: &Path) -> Self {
        self.argument("--ca").argument(root)
    }

    /// Runs it with `--json`.
    pub fn reported(&self) -> Told {
        let (code, stdout, stderr) = self.run(&["--json"]);
        let json = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
        Told { code, json }
    }

    /// Exit code, standard output and standard error.
    pub fn run(&self, more: &[&str]) -> (i32, String, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.yaml");
        let routes = if self.routes.is_empty() { String::new() } else { format!("routes:\n{}", self.routes) };
        let text = format!(
            "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\n{routes}pools:\n{}{}",
            self.pools, self.rest
        );
        fs::write(&file, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.args(["doctor", "--config"]).arg(&file).args(&self.arguments).args(more);
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("no signal ends it"), text(output.stdout), text(output.stderr))
    }
}

impl Told {
    /// Severity and kind of each finding.
    pub fn findings(&self) -> Vec<(&str, &str)> {
        let all = self.json["findings"].as_array().expect("findings");
        all.iter().map(|one| (one["severity"].as_str().expect("text"), one["kind"].as_str().expect("text"))).collect()
    }

    pub fn has(&self, kind: &str) -> bool {
        self.findings().iter().any(|(_, found)| *found == kind)
    }

    /// The one finding of this kind.
    #[track_caller]
    pub fn one(&self, kind: &str) -> &Value {
        let all = self.json["findings"].as_array().expect("findings");
        let mut found = all.iter().filter(|finding| finding["kind"] == kind);
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            _ => panic!("not one {kind}: {:#}", self.json),
        }
    }

    /// What was seen, of the one finding of this kind.
    #[track_caller]
    pub fn seen(&self, kind: &str) -> &str {
        self.one(kind)["seen"].as_str().expect("text")
    }
}
