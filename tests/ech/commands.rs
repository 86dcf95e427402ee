//! `snigate ech`, as a shell sees it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use snigate::internals::ech::read_key_file;
use tempfile::TempDir;

use crate::sealing::{Client, encoded, outer_with, u16_prefixed, usual};

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn ech(directory: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let output =
        command.arg("ech").args(arguments).current_dir(directory).stdin(Stdio::null()).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended {
        code: output.status.code().expect("an exit code"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn with_keys(names: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for name in names {
        let made = ech(directory.path(), &["keygen", "--public-name", "public.example", "--out", name]);
        assert_eq!((made.code, &*made.stderr), (0, ""));
    }
    directory
}

#[test]
fn a_key_is_made_for_its_owner_alone_and_never_overwritten() {
    let directory = with_keys(&["2026-01.pem"]);
    let file = directory.path().join("2026-01.pem");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o600);
    let before = fs::read(&file).expect("read");
    let again = ech(directory.path(), &["keygen", "--public-name", "b.example", "--out", "2026-01.pem"]);
    assert_eq!((again.code, again.stderr.contains("`2026-01.pem` exists already")), (1, true), "{}", again.stderr);
    assert_eq!(fs::read(&file).expect("read"), before);
    let left: Vec<PathBuf> =
        fs::read_dir(directory.path()).expect("listed").map(|entry| entry.expect("one").path()).collect();
    assert_eq!(left, [file]);

    let printed = ech(directory.path(), &["keygen", "--public-name", "b.example", "--maximum-name-length", "20"]);
    let key = read_key_file("k", printed.stdout.as_bytes()).expect("usable").keys.remove(0);
    assert_eq!((&*key.config.public_name, key.config.maximum_name_length), ("b.example", 20));

    for wrong in ["*.example", "10.0.0.1", "a b"] {
        let refused = ech(directory.path(), &["keygen", "--public-name", wrong]);
        assert_eq!(
            (refused.code, &*refused.stdout, refused.stderr.contains(wrong)),
            (2, "", true),
            "{}",
            refused.stderr
        );
    }
    let nowhere = ech(directory.path(), &["keygen", "--public-name", "b.example", "--out", "no/such.pem"]);
    assert_eq!((nowhere.code, nowhere.stderr.contains("cannot be written")), (1, true), "{}", nowhere.stderr);
}

#[test]
fn keys_are_shown_newest_first_with_the_record_that_publishes_them() {
    let directory = with_keys(&["2026-01.pem", "2026-03.pem", "2026-02.ech"]);
    fs::write(directory.path().join("README"), "no key").expect("written");
    let shown = ech(directory.path(), &["show", "."]);
    let files: Vec<_> = shown.stdout.lines().filter(|line| line.starts_with("2026")).collect();
    assert_eq!((shown.code, &files[..], &*shown.stderr), (0, &["2026-03.pem", "2026-02.ech", "2026-01.pem"][..], ""));

    let json: Value = serde_json::from_str(&ech(directory.path(), &["show", ".", "--json"]).stdout).expect("JSON");
    let list = data_encoding::BASE64.decode(json["ech"].as_str().expect("text").as_bytes()).expect("base64");
    let bytes = |name: &str| {
        let pem = fs::read(directory.path().join(name)).expect("read");
        read_key_file(name, &pem).expect("usable").keys.remove(0).config.bytes.to_vec()
    };
    assert_eq!(list, u16_prefixed(&[bytes("2026-03.pem"), bytes("2026-02.ech"), bytes("2026-01.pem")].concat()));
    let record = format!("NAME. 300 IN HTTPS 1 . ech={}", json["ech"].as_str().expect("text"));
    assert_eq!(shown.stdout.lines().last(), Some(&*record));
    // Files that are named keep their order.
    let named = ech(directory.path(), &["show", "2026-01.pem", "2026-03.pem", "--json"]);
    let named: Value = serde_json::from_str(&named.stdout).expect("JSON");
    assert_eq!((&named["keys"][0]["file"], &named["keys"][1]["file"]), (&"2026-01.pem".into(), &"2026-03.pem".into()));
}

#[test]
fn a_key_that_everybody_may_read_is_refused_and_a_broken_one_is_skipped() {
    let directory = with_keys(&["a.pem", "b.pem"]);
    let pem = fs::read_to_string(directory.path().join("a.pem")).expect("read");
    let half = directory.path().join("c.pem");
    fs::write(&half, &pem[..pem.len() - 30]).expect("written");
    fs::set_permissions(&half, Permissions::from_mode(0o640)).expect("set");
    let shown = ech(directory.path(), &["show", "."]);
    assert_eq!(shown.code, 0);
    assert!(shown.stderr.contains("warning: `./c.pem` is skipped: a section has no END line"), "{}", shown.stderr);
    assert!(!shown.stderr.contains("MC4C"), "{}", shown.stderr);

    for mode in [0o604, 0o644, 0o602] {
        fs::set_permissions(directory.path().join("b.pem"), Permissions::from_mode(mode)).expect("set");
        let refused = ech(directory.path(), &["show", "."]);
        assert_eq!((refused.code, &*refused.stdout), (1, ""));
        assert!(refused.stderr.contains(&format!("`./b.pem` (mode 0{mode:o})")), "{}", refused.stderr);
    }
    fs::remove_file(directory.path().join("b.pem")).expect("removed");
    fs::remove_file(directory.path().join("a.pem")).expect("removed");
    for (arguments, expected) in [
        (&["show", "."][..], "there is no usable key; `./c.pem` is skipped"),
        (&["show", "none.pem"], "`none.pem` cannot be read"),
        (&["show", "c.pem", "none"], "`none` cannot be read"),
    ] {
        let refused = ech(directory.path(), arguments);
        assert!(refused.code == 1 && refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let empty = tempfile::tempdir().expect("a directory");
    let refused = ech(empty.path(), &["show", "."]);
    assert!(refused.code == 1 && refused.stderr.contains("has no file whose name ends in"), "{}", refused.stderr);
}

/// What gives a protected name away, or lets others change the keys, is said before it is in force.
#[test]
fn a_name_that_is_served_in_the_clear_too_and_an_open_directory_are_warned_of() {
    let directory = with_keys(&["k.pem"]);
    let keys = directory.path().join("keys");
    fs::create_dir(&keys).expect("made");
    fs::rename(directory.path().join("k.pem"), keys.join("2026-01.until-2026-02.pem")).expect("moved");
    let warnings = |routes: &str, mode: u32| {
        fs::set_permissions(&keys, Permissions::from_mode(mode)).expect("set");
        let text = format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: keys }}\nroutes:\n\
             - {{ sni: public.example, pool: b }}\n{routes}\
             pools: {{ a: {{ backends: [\"127.0.0.1:1\"] }}, b: {{ backends: [\"127.0.0.1:2\"] }} }}\n"
        );
        fs::write(directory.path().join("c.yaml"), text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        let output = command.args(["check", "c.yaml"]).current_dir(directory.path()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    const ONLY: &str = "- { sni: secret.example, ech: only, pool: a }\n";
    let open = warnings(ONLY, 0o777);
    assert!(open.contains("c.yaml:2:") && open.contains("every user may add keys to `keys`"), "{open}");
    assert!(open.contains("2026-01.until-2026-02.pem` was to be used until 2026-02"), "{open}");
    assert!(!warnings(ONLY, 0o755).contains("every user"));
    for (more, by) in [
        ("- { sni: \"*.example\", pool: a }\n", Some("the route `*.example`")),
        ("- { sni: \"**.example\", pool: a }\n", Some("the route `**.example`")),
        ("unmatched: { pool: a }\n", Some("`unmatched`")),
        ("- { sni: \"*.example\", pool: b }\nunmatched: { pool: a }\n", None),
        ("- { sni: secret.example, ech: never, pool: a }\n", None),
    ] {
        let found = warnings(&format!("{ONLY}{more}"), 0o755);
        match by {
            Some(by) => assert!(found.contains(&format!("leads to the same pool `a`, by {by}")), "{more}{found}"),
            None => assert!(!found.contains("in the clear"), "{more}{found}"),
        }
    }
}

#[test]
fn a_key_is_not_lost_when_nobody_reads_what_the_command_says() {
    let directory = tempfile::tempdir().expect("a directory");
    for with_file in [true, false] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.args(["ech", "keygen", "--public-name", "public.example"]).current_dir(directory.path());
        if with_file {
            command.args(["--out", "k.pem"]);
        }
        let errors = writer.try_clone().expect("another");
        let status = command.stdout(writer).stderr(errors).status().expect("it runs");
        assert_eq!(status.code(), Some(1));
    }
    let pem = fs::read(directory.path().join("k.pem")).expect("made");
    assert_eq!(read_key_file("k.pem", &pem).expect("a key file").keys.len(), 1);
}

#[test]
fn a_captured_hello_is_opened_raw_or_in_hexadecimal() {
    let directory = with_keys(&["key.pem"]);
    let file = |name: &str| directory.path().join(name);
    let pem = fs::read(file("key.pem")).expect("read");
    let key = read_key_file("key.pem", &pem).expect("usable").keys.remove(0);
    let wire = Client::of(&key).seal(&encoded(&usual()));
    fs::write(file("raw"), &wire).expect("written");
    let hex = data_encoding::HEXUPPER.encode(&wire);
    fs::write(file("hex"), format!("{}\n{}\n", &hex[..80], &hex[80..])).expect("written");
    for name in ["raw", "hex"] {
        let opened = ech(directory.path(), &["open", name, "--keys", "key.pem"]);
        assert_eq!(opened.code, 0, "{}", opened.stderr);
        let expected = format!(
            "outer name  public.example\nresult      accepted by key.pem (config_id {})\ninner name  secret.example\ninner ALPN  none\n",
            key.config.id
        );
        assert!(opened.stdout.starts_with(&expected), "{}", opened.stdout);
    }

    fs::write(file("other"), Client { id: key.config.id ^ 1, ..Client::of(&key) }.seal(&encoded(&usual())))
        .expect("written");
    let other = ech(directory.path(), &["open", "other", "--keys", "."]);
    assert!(other.code == 0 && other.stdout.contains("not_for_us"), "{}", other.stdout);
    assert!(ech(directory.path(), &["open", "other", "--keys", ".", "--try-all"]).stdout.contains("secret.example"));

    fs::write(file("wrong"), outer_with(&[1])).expect("written");
    let wrong = ech(directory.path(), &["open", "wrong", "--keys", "."]);
    assert!(wrong.code == 4 && wrong.stdout.contains("gets alert illegal_parameter (47)"), "{}", wrong.stdout);

    fs::write(file("cut"), &wire[..100]).expect("written");
    fs::write(file("text"), "GET / HTTP/1.1\r\n\r\n").expect("written");
    for (name, expected) in
        [("cut", "ends before its hello does"), ("text", "is not a ClientHello"), ("none", "cannot be read")]
    {
        let refused = ech(directory.path(), &["open", name, "--keys", "."]);
        assert!(refused.code == 1 && refused.stderr.contains(expected), "{}", refused.stderr);
    }
}
