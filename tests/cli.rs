//! The commands as a shell sees them: what they print, where, and the exit code.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use harness::{DEADLINE, Lb, Running};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How a command ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Both outputs and the code must be as wanted.
    #[track_caller]
    fn says(&self, code: i32, stdout: &str, stderr: &str) {
        assert_eq!((self.code, &*self.stdout, &*self.stderr), (code, stdout, stderr));
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

/// A directory with files in it, where commands are run.
struct Desk(TempDir);

impl Desk {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("written");
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.args(arguments).current_dir(self.path()).env_remove("SNIGATE_CONFIG").stdin(Stdio::null());
        let output = command.output().expect("it runs");
        Ended {
            code: output.status.code().expect("no signal ends it"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

const SHOP: &str = r#"listeners:
  - { name: https, bind: "127.0.0.1:0" }
  - { name: inner, bind: "127.0.0.1:0" }
routes:
  - name: office
    sni: shop.example.com
    source: [10.0.0.0/8]
    pool: staging
  - name: shop
    sni: [shop.example.com, "*.shop.example.com"]
    pool: shop
  - { sni: old.example.com, refuse: reset }
pools:
  shop:
    backends: [10.0.0.11:443, { address: 10.0.0.12:443, weight: 3 }, { address: 10.0.0.13:443, backup: true }]
  staging:
    backends: [10.0.9.1:443]
"#;

#[test]
fn a_routing_file_that_would_be_ignored_is_a_usage_error() {
    let desk = Desk::with(&[("a.yaml", SHOP), ("b.yaml", SHOP)]);
    for arguments in [
        "check a.yaml b.yaml",
        "check a.yaml -c b.yaml",
        "-c b.yaml check a.yaml",
        "run a.yaml --config b.yaml",
        "run a.yaml b.yaml",
        "explain a.test a.yaml -c b.yaml",
        "explain a.test --admin 127.0.0.1:1 -c b.yaml",
        "doctor a.yaml -c b.yaml",
        "diff a.yaml b.yaml -c b.yaml",
        "demo -c b.yaml",
        "import nginx a.conf -c b.yaml",
        "schema -c b.yaml",
        "man -c b.yaml",
        "completions bash -c b.yaml",
    ] {
        let ended = desk.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!((ended.code, &*ended.stdout), (2, ""), "{arguments}: {}", ended.stderr);
        let names_it = ended.stderr.contains("--config") || ended.stderr.contains("'b.yaml'");
        assert!(names_it && ended.stderr.contains("Usage:"), "{arguments}: {}", ended.stderr);
    }
    // The variable is for whatever needs it, as a container sets it for all commands.
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.args(["check", "a.yaml"]).env("SNIGATE_CONFIG", "b.yaml").current_dir(desk.path());
    let output = command.output().expect("it runs");
    assert!(output.status.success() && output.stdout.starts_with(b"a.yaml: ok"), "{output:?}");
    let ended = desk.run(&["check", "-c", "a.yaml"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn the_demo_on_a_busy_port_says_what_to_do() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!("--bind={}", busy.local_addr().unwrap());
    let desk = Desk::with(&[]);
    let ended = desk.run(&["demo", "--any-port", &bind]);
    assert!(ended.code == 3 && ended.stderr.contains("another program listens there"), "{}", ended.stderr);
    assert!(ended.stderr.contains("leave out `--bind`"), "{}", ended.stderr);
    // The fixed ports are busy for one of two that run at once, whoever else uses them.
    let demo = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command
            .arg("demo")
            .env("TMPDIR", desk.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut both = [demo(), demo()];
    let ended = harness::poll(|| both.iter_mut().position(|demo| demo.try_wait().unwrap().is_some()).ok_or(()));
    let ended = &mut both[ended.expect("one of them cannot have the ports")];
    let code = ended.wait().unwrap().code();
    let mut said = String::new();
    ended.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    for mut child in both {
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(code == Some(3) && said.contains("`snigate demo --any-port`"), "{code:?} {said}");
}

/// Root may enter everywhere, so it is asked without the capabilities for that.
#[test]
fn a_configuration_in_a_directory_that_may_not_be_entered_is_not_called_absent() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::with(&[("config.yaml", SHOP)]);
    let mode = |mode| fs::set_permissions(desk.path(), fs::Permissions::from_mode(mode)).unwrap();
    let caps = "-dac_override,-dac_read_search";
    let script = format!(
        "chmod 0 .; if [ $(id -u) = 0 ]; then exec setpriv --inh-caps={caps} --bounding-set={caps} \"$@\"; fi; exec \"$@\""
    );
    let check = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_snigate"), "check"]).args(arguments);
        let output = command.current_dir(desk.path()).env_remove("SNIGATE_CONFIG").output().expect("it runs");
        mode(0o700);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let file = desk.path().join("config.yaml");
    for arguments in [&[][..], &[file.to_str().unwrap()]] {
        let (code, said) = check(arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("config.yaml:1:1: permission denied: user ") && !said.contains("there is no"), "{said}");
    }
}

#[test]
fn explain_tells_people() {
    let desk = Desk::with(&[("config.yaml", SHOP)]);
    let expected = "\
shop.example.com goes to pool shop

  asked        no ALPN (assumed), from 192.0.2.1 (assumed), through listener https (assumed)
  passed over  office  shop.example.com  config.yaml:6:10   only from 10.0.0.0/8
  matched by   shop    shop.example.com  config.yaml:10:11
  backends     10.0.0.11:443  weight 1
               10.0.0.12:443  weight 3
               10.0.0.13:443  weight 1, backup
  note         `source` was assumed; the conditions of `office` depend on it
";
    desk.run(&["explain", "shop.example.com"]).says(0, expected, "");
    let expected = "\
a.b.shop.example.com is refused, reason no_route

  asked        ALPN h2, http/1.1, from 10.0.0.1, through listener inner
  fallback     unmatched, for names that no route matches
  client sees  the TLS alert unrecognized_name
  note         `*.shop.example.com` (config.yaml:10:29) takes exactly one label more than `shop.example.com`; `**.shop.example.com` would take this name
";
    let asked =
        ["explain", "a.b.shop.example.com", "--alpn=h2", "--alpn=http/1.1", "--source=10.0.0.1", "--listener=inner"];
    desk.run(&asked).says(4, expected, "");
}

#[test]
fn explain_says_how_the_backends_are_connected_to() {
    let pool = "{ backends: [10.0.0.1:443], transparent: true, \
                send_proxy_protocol: { version: v2, relay: [0xea, 5], add: { 0xe4: edge } } }";
    let file = format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\", proxy_protocol: {{ trusted: [10.9.0.0/16] }} }}]\n\
         routes: [{{ sni: a.test, pool: a }}]\npools: {{ a: {pool} }}\n"
    );
    let desk = Desk::with(&[("config.yaml", file.as_str())]);
    let expected = "\
a.test goes to pool a

  asked        no ALPN (assumed), from 192.0.2.1 (assumed), through listener https (assumed)
  matched by   a.test  a.test  config.yaml:2:17
  backends     10.0.0.1:443  weight 1
  connects     from the client's own address (`transparent`)
               with a PROXY header v2, passing on 0xea, 0x05, adding 0xe4
  note         listener `https` takes the client's address from PROXY headers of 10.9.0.0/16; peers elsewhere are refused
";
    desk.run(&["explain", "a.test"]).says(0, expected, "");
}

#[test]
fn explain_tells_programs() {
    let desk = Desk::with(&[("config.yaml", SHOP)]);
    let ended = desk.run(&["explain", "shop.example.com", "--source", "10.0.0.1", "--json"]);
    let hash = ended.json()["config"]["hash"].clone();
    let expected = json!({
        "name": "shop.example.com", "server_name": "shop.example.com",
        "alpn": [], "source": "10.0.0.1", "listener": "https", "ech": false, "assumed": ["alpn", "listener"],
        "match": "exact", "route": "office",
        "taken": {
            "route": "office", "pattern": "shop.example.com", "file": "config.yaml", "line": 6, "column": 10,
            "alpn": [], "source": ["10.0.0.0/8"], "listeners": [],
        },
        "passed_over": [], "access": [], "refusal": null, "split": null, "hints": [],
        "pool": {
            "name": "staging", "backends": [{ "address": "10.0.9.1:443", "weight": 1, "backup": false }],
            "transparent": false, "proxy_header": null,
        },
        "config": { "file": "config.yaml", "hash": hash },
    });
    assert_eq!((ended.code, ended.json()), (0, expected));

    let refused = desk.run(&["explain", "bücher.example.com", "--json"]);
    assert_eq!((refused.code, &refused.json()["match"], &refused.json()["route"]), (4, &Value::Null, &Value::Null));
    let refusal = json!({
        "reason": "invalid_sni", "client_sees": "alert", "alert": "illegal_parameter", "alert_before_tls13": null,
        "detail": "the name contains the byte 0xc3 ('\\xc3')",
    });
    assert_eq!(refused.json()["refusal"], refusal);
}

#[test]
fn the_exit_code_of_explain_says_where_the_name_goes() {
    let desk = Desk::with(&[("config.yaml", SHOP), ("wrong.yaml", "listeners: []\n")]);
    for (arguments, code) in [
        (&["shop.example.com"][..], 0),
        (&["shop.example.com", "--expect-pool", "shop"], 0),
        (&["shop.example.com", "--expect-pool", "shop", "--source", "10.0.0.1"], 5),
        (&["nope.example.com", "--expect-pool", "shop"], 5),
        (&["nope.example.com"], 4),
        (&["old.example.com"], 4),
        (&["-"], 4),
        (&["a..b"], 4),
        (&[""], 4),
        (&["shop.example.com", "--listener", "nope"], 2),
        (&["shop.example.com", "--source", "nope"], 2),
        (&["shop.example.com", "--alpn", ""], 2),
        (&[], 2),
        (&["shop.example.com", "--config", "wrong.yaml"], 1),
        (&["shop.example.com", "--config", "missing.yaml"], 1),
    ] {
        let ended = desk.run(&[&["explain"][..], arguments].concat());
        assert_eq!(ended.code, code, "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stdout.is_empty(), code < 4 && code > 0, "{arguments:?}: {}", ended.stdout);
    }
    let ended = desk.run(&["explain", "shop.example.com", "--expect-pool", "staging"]);
    assert_eq!(ended.stderr, "snigate: pool `staging` was expected, but the name goes to pool `shop`\n");
}

#[test]
fn what_a_terminal_would_obey_is_not_printed() {
    let desk = Desk::with(&[("config.yaml", SHOP)]);
    let ended = desk.run(&["explain", "a\u{1b}[31m\u{9b}.test", "--alpn", "h2\u{7}"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stdout.chars().all(|c| !c.is_control() || c == '\n'), "{:?}", ended.stdout);
}

#[test]
fn diff_tells_who_goes_elsewhere() {
    let new = SHOP
        .replace("weight: 3", "weight: 5")
        .replace("refuse: reset", "pool: shop")
        .replace("[10.0.0.0/8]", "[10.0.0.0/16]")
        .replace(", \"*.shop.example.com\"]", "]");
    let new = new + "unmatched: { pool: staging }\nlog: { level: debug }\n";
    let desk = Desk::with(&[("old.yaml", SHOP), ("new.yaml", &new)]);
    let expected = "\
names
  ~ shop.example.com
      from 10.0.0.0/8: pool staging (route office) -> pool shop
  ~ old.example.com  refuse: reset -> pool shop
  - *.shop.example.com  pool shop -> unmatched (pool staging)

fallbacks
  ~ unmatched  refuse: alert -> pool staging

pools
  ~ shop
      ~ 10.0.0.12:443  weight 3 -> 5

patterns: 0 added, 1 removed, 2 changed
other keys that differ: log
";
    desk.run(&["diff", "old.yaml", "new.yaml"]).says(6, expected, "");
    let report = desk.run(&["diff", "old.yaml", "new.yaml", "--json"]);
    assert_eq!(report.code, 6);
    let expected = json!({
        "pattern": "shop.example.com", "kind": "changed", "place": "new.yaml:6:10",
        "effects": [{
            "when": { "source": "10.0.0.0/8" },
            "from": { "pool": "staging", "split": null, "refuse": null, "idle_timeout_s": null, "max_age_s": null, "max_connections": null, "route": "office", "match": "exact" },
            "to": { "pool": "shop", "split": null, "refuse": null, "idle_timeout_s": null, "max_age_s": null, "max_connections": null, "route": "shop", "match": "exact" },
        }],
    });
    assert_eq!(report.json()["patterns"][0], expected);
    assert_eq!((&report.json()["changes"], &report.json()["other_settings"]), (&json!(true), &json!(["log"])));

    desk.run(&["diff", "old.yaml", "old.yaml"]).says(0, "no routing differences\n", "");
    let both = desk.run(&["diff", "nix.yaml", "new.yaml"]);
    assert_eq!((both.code, &*both.stdout), (1, ""));
    assert!(both.stderr.starts_with("nix.yaml:1:1: the file cannot be read"), "{}", both.stderr);
    assert_eq!(desk.run(&["diff", "old.yaml"]).code, 2);
}

#[test]
fn diff_reports_a_route_that_moved_to_another_pool() {
    let file = |pool: &str| {
        format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\nroutes: [{{ sni: a.test, pool: {pool} }}]\n\
             no_sni: {{ pool: p }}\nunmatched: {{ pool: q }}\n\
             pools: {{ p: {{ backends: [\"127.0.0.1:1\"] }}, q: {{ backends: [\"127.0.0.1:2\"] }} }}\n"
        )
    };
    let desk = Desk::with(&[("p.yaml", &file("p")), ("q.yaml", &file("q"))]);
    let ended = desk.run(&["diff", "p.yaml", "q.yaml"]);
    assert_eq!(ended.code, 6, "{}", ended.stdout);
    assert!(ended.stdout.contains("~ a.test") && ended.stdout.contains("pool p -> pool q"), "{}", ended.stdout);
}

#[test]
fn diff_tells_the_problems_of_both_files() {
    let desk = Desk::with(&[("a.yaml", "listeners: []\n"), ("b.yaml", "rotes: []\n")]);
    let ended = desk.run(&["diff", "a.yaml", "b.yaml"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("a.yaml:1:12: ") && ended.stderr.contains("b.yaml:1:1: rotes: "), "{}", ended.stderr);
}

#[test]
fn check_sums_up_and_its_exit_code_says_whether_the_file_can_be_used() {
    let desk = Desk::with(&[("config.yaml", SHOP), ("wrong.yaml", "listeners: [{ name: a }]\npolls: {}\n")]);
    desk.run(&["check", "config.yaml"]).says(0, "config.yaml: ok, 3 routes, 2 pools\n", "");
    desk.run(&["check"]).says(0, "config.yaml: ok, 3 routes, 2 pools\n", "");
    let wrong = desk.run(&["check", "wrong.yaml"]);
    assert_eq!(wrong.code, 1);
    for line in ["wrong.yaml:1:13: listeners[0]: `bind` is missing\n", "did you mean `pools`?\n", "2 errors\n"] {
        assert!(wrong.stdout.contains(line), "{line} is not in {}", wrong.stdout);
    }
    let wrong = desk.run(&["check", "wrong.yaml", "--json"]);
    assert_eq!((wrong.code, &wrong.json()["ok"], &wrong.json()["errors"]), (1, &json!(false), &json!(2)));
    let missing = desk.run(&["check", "nix.yaml"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stdout.starts_with("nix.yaml:1:1: the file cannot be read"), "{}", missing.stdout);
}

#[test]
fn the_file_may_stand_where_it_is_read() {
    let desk = Desk::with(&[("shop.yaml", SHOP), ("wrong.yaml", "listeners: [{ name: a }]\n")]);
    let explained = desk.run(&["explain", "shop.example.com", "shop.yaml", "--expect-pool", "shop"]);
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    for arguments in [&["run", "wrong.yaml"][..], &["explain", "a.test", "wrong.yaml"], &["doctor", "wrong.yaml"]] {
        let ended = desk.run(arguments);
        assert_eq!(ended.code, 1, "{arguments:?}");
        assert!(ended.stderr.contains("wrong.yaml:1:13: "), "{arguments:?}: {}", ended.stderr);
    }
    let both = desk.run(&["explain", "a.test", "shop.yaml", "--admin", "127.0.0.1:1"]);
    assert_eq!(both.code, 2, "{}", both.stderr);
}

#[test]
fn no_configuration_is_wrong_usage_that_says_where_it_was_looked_for() {
    if Path::new("/etc/snigate/config.yaml").exists() {
        return;
    }
    let desk = Desk::with(&[]);
    for arguments in [&[][..], &["run"], &["check"], &["explain", "a.test"], &["healthcheck"]] {
        let ended = desk.run(arguments);
        assert_eq!((ended.code, &*ended.stdout), (2, ""), "{arguments:?}");
        assert!(ended.stderr.contains("there is no ./config.yaml"), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn run_refuses_a_file_with_problems() {
    let desk = Desk::with(&[("config.yaml", "listeners: []\n")]);
    let ended = desk.run(&["run"]);
    assert_eq!((ended.code, &*ended.stdout), (1, ""));
    assert!(ended.stderr.starts_with("config.yaml:1:12: listeners: "), "{}", ended.stderr);
}

#[test]
fn wrong_usage_is_exit_two() {
    let desk = Desk::with(&[]);
    for arguments in [&["nope"][..], &["--nope"], &["check", "--nope"], &["completions"], &["completions", "cmd"]] {
        let ended = desk.run(arguments);
        assert_eq!((ended.code, &*ended.stdout), (2, ""), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: "), "{arguments:?}: {}", ended.stderr);
    }
    let ended = desk.run(&["man", "nope"]);
    ended.says(2, "", "snigate: there is no command `nope`; `snigate --help` lists them\n");
}

#[test]
fn help_lists_the_commands_and_version_is_a_line() {
    let desk = Desk::with(&[]);
    let help = desk.run(&["--help"]);
    assert_eq!((help.code, &*help.stderr), (0, ""));
    for command in COMMANDS {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command} is not in {}", help.stdout);
        assert_eq!(desk.run(&[command, "--help"]).code, 0);
    }
    assert!(help.stdout.contains("Exit codes: 0 success"), "{}", help.stdout);
    desk.run(&["--version"]).says(0, concat!("snigate ", env!("CARGO_PKG_VERSION"), "\n"), "");
}

#[test]
fn schema_completions_and_man_are_printed_whole() {
    let desk = Desk::with(&[]);
    assert_eq!(desk.run(&["schema"]).json()["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = desk.run(&["completions", shell]);
        assert_eq!((script.code, &*script.stderr), (0, ""));
        assert!(COMMANDS.iter().all(|command| script.stdout.contains(command)), "{shell}: {}", script.stdout);
    }
    let page = desk.run(&["man"]);
    assert!(page.code == 0 && page.stdout.contains(".TH snigate 1 "), "{}", page.stdout);
    for command in COMMANDS {
        let page = desk.run(&["man", command]).stdout;
        assert!(page.contains(&format!(".TH snigate-{command} 1 ")) && page.contains("\\-\\-config"), "{page}");
    }
}

#[test]
fn the_documents_name_every_command() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).expect("docs/cli.md");
    for command in COMMANDS {
        assert!(docs.contains(&format!("\n## snigate {command}")), "{command}");
    }
}

const COMMANDS: [&str; 19] = [
    "run",
    "check",
    "explain",
    "diff",
    "doctor",
    "demo",
    "ech",
    "status",
    "top",
    "connections",
    "reload",
    "drain",
    "down",
    "ready",
    "weight",
    "healthcheck",
    "schema",
    "completions",
    "man",
];

const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];

/// A client's question in its three forms: to the file, to the process, and for real.
struct Client {
    listener: usize,
    /// `-`: sends none.
    name: &'static str,
    alpn: &'static [&'static str],
    versions: &'static [&'static SupportedProtocolVersion],
}

#[test]
fn what_explain_says_of_a_client_is_what_happens_to_it() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = format!(
        r#"listeners: [{{ name: https, bind: "127.0.0.1:0" }}, {{ name: inner, bind: "127.0.0.1:0" }}]
routes:
  - {{ name: far, sni: shop.test, source: [10.0.0.0/8], pool: a }}
  - {{ name: near, sni: shop.test, source: [127.0.0.0/8], alpn: [h2], listeners: [inner], pool: b }}
  - {{ name: shop, sni: ["*.shop.test", "**.shop.test", shop.test], pool: a }}
  - {{ name: alert, sni: alert.test, refuse: alert }}
  - {{ name: close, sni: close.test, refuse: close }}
  - {{ name: reset, sni: reset.test, refuse: reset }}
pools: {{ a: {{ backends: ["{address}"] }}, b: {{ backends: ["{address}"] }} }}
admin: {{ bind: "127.0.0.1:0" }}
"#,
        address = backend.local_addr().expect("an address")
    );
    // Hangs up on everybody: that it was asked is all that is needed here.
    std::thread::spawn(move || backend.incoming().for_each(drop));
    let lb = Running::start(&config);
    let desk = Desk::with(&[("config.yaml", &config)]);
    let usual = |name| Client { listener: 0, name, alpn: &[], versions: rustls::ALL_VERSIONS };
    for client in [
        usual("shop.test"),
        Client { listener: 1, alpn: &["h2", "http/1.1"], ..usual("shop.test") },
        Client { listener: 1, alpn: &["http/1.1"], ..usual("shop.test") },
        Client { alpn: &["h2"], ..usual("shop.test") },
        usual("a.shop.test"),
        usual("A.B.shop.test"),
        usual("alert.test"),
        usual("close.test"),
        usual("reset.test"),
        usual("nope.test"),
        usual("-"),
        Client { versions: TLS12, ..usual("-") },
        usual("192.0.2.7"),
        usual("a..b.test"),
        usual("a b.test"),
    ] {
        let listener = ["https", "inner"][client.listener];
        let mut asked = vec!["explain", client.name, "--json", "--source", "127.0.0.1", "--listener", listener];
        let alpn = client.alpn.join(",");
        if !alpn.is_empty() {
            asked.extend(["--alpn", &alpn]);
        }
        let reported = desk.run(&asked);
        let admin = lb.admin().to_string();
        let live = desk.run(&[&asked[..], &["--admin", &admin]].concat());
        let without_file = |ended: &Ended| {
            let mut reported = ended.json();
            reported["config"]["file"].take();
            serde_json::from_str::<Value>(
                &reported.to_string().replace(&*lb.config_file().to_string_lossy(), "config.yaml"),
            )
            .expect("JSON")
        };
        assert_eq!((live.code, without_file(&live)), (reported.code, without_file(&reported)), "{}", live.stderr);
        happens(&lb, &client, &reported.json());
    }
    lb.stop();
}

/// Has `client` come for real, and compares what it saw and what was logged with what was told.
#[track_caller]
fn happens(lb: &Running, client: &Client, reported: &Value) {
    let seen = lb.log().len();
    let saw = come(lb.addresses()[client.listener], client, reported["pool"].is_object());
    let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
    assert_eq!(line["match"], reported["match"], "{line}");
    if reported["pool"].is_object() {
        assert_eq!(line["route"], reported["route"], "{line}");
    }
    assert_eq!(line["pool"], reported["pool"]["name"], "{line}");
    let refusal = &reported["refusal"];
    if refusal.is_object() {
        assert_eq!(line["reason"], refusal["reason"], "{line}");
        let before_tls13 = client.versions == TLS12 && !refusal["alert_before_tls13"].is_null();
        let alert = &refusal[if before_tls13 { "alert_before_tls13" } else { "alert" }];
        let expected = alert.as_str().or(refusal["client_sees"].as_str());
        assert_eq!(Some(saw.as_str()), expected, "{}", client.name);
    }
}

/// Sends a hello. The alert that came back, or how it ended.
fn come(address: SocketAddr, client: &Client, served: bool) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.write_all(&hello(client)).expect("sent");
    if served {
        return String::new();
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(0) => "close".to_owned(),
        Ok(_) => alert_name(*answer.last().expect("not empty")).to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

/// As rustls makes it; it refuses to send an invalid name, so that this is written over a valid one.
fn hello(client: &Client) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(client.versions).expect("versions");
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = client.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let sends_name = client.name != "-";
    config.enable_sni = sends_name;
    let stand_in: String =
        client.name.chars().map(|c| if c == '-' || c.is_ascii_lowercase() { c } else { 'x' }).collect();
    let valid = if sends_name { &stand_in } else { "a.test" };
    let name = ServerName::try_from(valid.to_owned()).expect("a valid name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a vector takes everything");
    if sends_name {
        let at = bytes.windows(valid.len()).position(|window| window == valid.as_bytes()).expect("the name is in it");
        bytes[at..at + valid.len()].copy_from_slice(client.name.as_bytes());
    }
    bytes
}

/// RFC 8446 §6.2.
fn alert_name(code: u8) -> &'static str {
    match code {
        40 => "handshake_failure",
        47 => "illegal_parameter",
        109 => "missing_extension",
        112 => "unrecognized_name",
        _ => "another alert",
    }
}

#[test]
fn explain_says_when_the_admin_address_does_not_answer() {
    let desk = Desk::with(&[]);
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").to_string();
    let ended = desk.run(&["explain", "a.test", "--admin", &closed]);
    assert_eq!((ended.code, &*ended.stdout), (1, ""));
    assert!(
        ended.stderr.starts_with(&format!("snigate: no answer from the admin address {closed}: ")),
        "{}",
        ended.stderr
    );
    let ended = desk.run(&["explain", "a.test", "--admin", "127.0.0.1"]);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.starts_with("snigate: `127.0.0.1` is not a valid admin address (HOST:PORT"),
        "{}",
        ended.stderr
    );

    let lb = Lb::new().start();
    let admin = format!("http://{}/", lb.admin());
    let ended = desk.run(&["explain", "a.test", "--listener", "b&c", "--admin", &admin]);
    ended.says(2, "", "snigate: there is no listener `b&c`; there is `https`\n");
    lb.stop();
}

#[test]
fn an_export_lists_what_it_leaves_out() {
    let desk = Desk::with(&[("a.yaml", SHOP)]);
    let ended = desk.run(&["export", "gateway-api", "a.yaml"]);
    assert_eq!(ended.code, 8, "{}", ended.stderr);
    for part in
        ["route office: alpn, source", "route shop: *.shop.example.com was left out", "refuse (and the whole route)"]
    {
        assert!(ended.stderr.contains(part), "`{part}` is not in {}", ended.stderr);
    }
    for part in [
        "kind: Gateway",
        "hostnames: [shop.example.com]",
        "kubernetes.io/service-name: shop",
        "rules: [{ backendRefs: [{ name: shop, port: 443 }] }]",
        "endpoints: [{ addresses: [10.0.0.11] }, { addresses: [10.0.0.12] }, { addresses: [10.0.0.13] }]",
    ] {
        assert!(ended.stdout.contains(part), "`{part}` is not in {}", ended.stdout);
    }
    let ended = desk.run(&["export", "haproxy", "a.yaml"]);
    assert_eq!((ended.code, &*ended.stderr), (0, ""));
    assert!(ended.stdout.contains("use_backend staging if { req.ssl_sni -i shop.example.com } { src 10.0.0.0/8 }"));
    assert_eq!(desk.run(&["export", "haproxy", "a.yaml", "-c", "a.yaml"]).code, 2);
    assert_eq!(desk.run(&["export", "haproxy", "gone.yaml"]).code, 1);
}

#[test]
fn an_export_serves_no_name_in_the_clear_that_is_only_for_encrypted_hellos() {
    let desk = Desk::with(&[("a.yaml", HIDDEN)]);
    let common = [
        "route hidden: ech: only (and the whole route) was left out",
        "route open: ech: never was left out",
        "listener one: ech was left out",
        "timeouts.max_age was left out",
        "route open: max_age was left out",
        "docker was left out",
    ];
    for (format, more) in
        [("haproxy", &[][..]), ("gateway-api", &["limits.max_connections", "listener one: max_connections"])]
    {
        let ended = desk.run(&["export", format, "a.yaml"]);
        assert_eq!(ended.code, 8, "{}", ended.stderr);
        for part in common.iter().chain(more) {
            assert!(ended.stderr.contains(part), "`{part}` is not in {}", ended.stderr);
        }
        assert!(!ended.stdout.contains("hidden.test"), "{}", ended.stdout);
        assert!(ended.stdout.contains("open.test"), "{}", ended.stdout);
    }
    let written = desk.run(&["export", "haproxy", "a.yaml"]).stdout;
    for part in [
        "global\n    maxconn 90\n",
        "    maxconn 9\n    acl snigate-allow src 10.0.0.0/8 2001:db8::/32\n    tcp-request connection reject if !snigate-allow\n    \
         acl snigate-deny src 10.1.0.0/16\n    tcp-request connection reject if snigate-deny\n",
    ] {
        assert!(written.contains(part), "`{part}` is not in {written}");
    }
}

const HIDDEN: &str = r#"
listeners:
  - { name: one, bind: "127.0.0.1:8443", ech: off, max_connections: 9, allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.1.0.0/16] }
routes:
  - { name: hidden, sni: hidden.test, ech: only, pool: p }
  - { name: open, sni: open.test, ech: never, max_age: 1h, pool: p }
timeouts: { max_age: 2h }
limits: { max_connections: 90 }
docker: { allow: ["**.test"] }
pools:
  p: { backends: ["10.0.0.1:443"] }
"#;

#[test]
fn what_containers_may_add_is_mentioned() {
    let file = "listeners: [{ name: l, bind: \"127.0.0.1:1\" }]\ndocker: { allow: [\"**.example.com\"] }\n";
    let desk = Desk::with(&[("docker.yaml", file)]);
    let note = "containers may add routes for names that `docker.allow` covers";
    let checked = format!("docker.yaml: ok, 0 routes, 0 pools ({note})\n");
    desk.run(&["check", "docker.yaml"]).says(0, &checked, "");
    let explained = desk.run(&["explain", "a.example.com", "docker.yaml"]);
    assert_eq!(explained.stderr, format!("snigate: note: {note}; ask the running snigate with --admin\n"));
}

#[test]
fn strict_fails_on_warnings_and_init_overwrites_nothing() {
    let desk = Desk::with(&[]);
    let arguments = ["init", "a.test=10.0.0.1:443", "b.test=10.0.0.2:443,10.0.0.3:443", "--output", "made.yaml"];
    desk.run(&arguments).says(0, "", "");
    desk.run(&["check", "--strict", "made.yaml"]).says(0, "made.yaml: ok, 2 routes, 2 pools\n", "");
    desk.run(&arguments).says(1, "", "snigate: made.yaml exists; --force overwrites it\n");
    let ended = desk.run(&["init", "a.test=10.0.0.1:443", "a.test=10.0.0.2:443"]);
    assert_eq!((ended.code, &*ended.stdout), (2, ""), "{}", ended.stderr);
    assert_eq!(desk.run(&["init", "a.test"]).code, 2);
    // A pool that nothing leads to.
    let unused = fs::read_to_string(desk.path().join("made.yaml")).unwrap() + "not_tls: { refuse: close }\n";
    let unused = unused.replace("sni: [b.test]\n    pool: b", "sni: [b.test]\n    pool: a");
    fs::write(desk.path().join("unused.yaml"), unused).unwrap();
    let ended = desk.run(&["check", "unused.yaml"]);
    assert!(ended.code == 0 && ended.stdout.contains(" warning"), "{} {}", ended.code, ended.stdout);
    let ended = desk.run(&["check", "--strict", "unused.yaml"]);
    assert!(ended.code == 1 && ended.stdout.ends_with(" warnings, which --strict refuses\n"), "{}", ended.stdout);
}

/// The examples of docs/cli.md are what the commands print.
#[test]
fn the_documented_examples_are_real() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).expect("docs/cli.md");
    let fenced = |opening: &str| -> Vec<&str> {
        docs.split(opening).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
    };
    let file = |name: &str| fenced(&format!("```yaml {name}\n"))[0].to_owned() + "\n";
    let (config, new) = (file("config.yaml"), file("new.yaml"));
    let wrong = "listeners: [{ name: a, bind: \"0.0.0.0:443\" }]\nroutes:\n  - { sni: a.b, pool: stop }\n\
                 pools: { shop: { backends: [10.0.0.1:443] } }\npolls: {}\n";
    let haproxy = fenced("```text haproxy.cfg\n")[0];
    let files = [("config.yaml", &*config), ("new.yaml", &new), ("wrong.yaml", wrong), ("haproxy.cfg", haproxy)];
    let desk = Desk::with(&files);
    let mut examples = 0;
    for block in fenced("```console\n") {
        for example in block.split("$ snigate ").skip(1) {
            let (command, expected) = example.split_once('\n').unwrap_or((example, ""));
            let ended = desk.run(&command.split(' ').collect::<Vec<_>>());
            let printed = ended.stdout + &ended.stderr;
            assert_eq!(printed.trim_end(), expected.trim_end(), "$ snigate {command}");
            examples += 1;
        }
    }
    assert_eq!(examples, 9);
}

/// `snigate schema | head -1`
#[test]
fn a_reader_that_has_enough_is_no_error_to_tell() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snigate"));
    let ended = command.arg("schema").stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let ended = ended.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(1), &b""[..]));
}
