//! Admin addresses and the log, changed while the process runs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use crate::backend::Backend;
use crate::churn::Churn;
use crate::harness::{Lb, Reload, Running};

fn admin(lb: &Lb, bind: &str) -> String {
    let plain = "admin: { bind: \"127.0.0.1:0\" }";
    let config = lb.config();
    assert!(config.contains(plain));
    config.replace(plain, &format!("admin: {{ bind: {bind} }}"))
}

fn ask(path: &Path) -> String {
    send(path, "GET /readyz HTTP/1.1\r\n")
}

fn send(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    write!(stream, "{request}Host:\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).output().unwrap()
}

#[test]
fn an_admin_address_moves_and_may_be_a_socket_in_the_file_system() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }\nsandbox: off");
    let running = Running::start(&lb.config());
    let churn = Churn::at(running.address());
    let path = running.directory().join("admin.sock");
    let (both, unix) = (format!("[\"127.0.0.1:0\", \"unix:{0}\"]", path.display()), format!("unix:{}", path.display()));

    assert_eq!(running.edit(&admin(&lb, &both)), Reload::Applied);
    assert!(ask(&path).starts_with("HTTP/1.1 200"));
    assert_eq!(running.admin_get("/readyz").0, 200);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The commands take it as well.
    let file = running.config_file();
    let file = file.to_str().unwrap();
    let explained = command(&["explain", "a.test", "--admin", &unix]);
    assert!(explained.status.success(), "{explained:?}");
    let only = running.directory().join("only.yaml");
    fs::write(&only, admin(&lb, &unix)).unwrap();
    let only = only.to_str().unwrap();
    for asked in [&["--config", only][..], &[only], &["--admin", &unix]] {
        let healthy = command(&[&["healthcheck"], asked].concat());
        assert!(healthy.status.success(), "{asked:?}: {healthy:?}");
    }
    assert_eq!(command(&["healthcheck", "--admin", "nowhere"]).status.code(), Some(2));

    // From one address to all that there are, which overlap; the port stays.
    let port = running.admin().port();
    assert_eq!(running.edit(&admin(&lb, &format!("0.0.0.0:{port}"))), Reload::Applied);
    assert_eq!(running.admin_get("/readyz").0, 200);
    assert!(!path.exists());
    assert!(command(&["check", file]).status.success());
    assert_eq!(running.edit(&admin(&lb, &both)), Reload::Applied);
    churn.end();
    let mut running = running;
    running.signal(rustix::process::Signal::TERM);
    assert!(running.wait_for_exit().success());
    assert!(!path.exists());
}

#[test]
fn the_unix_socket_takes_changes_and_no_client_gets_there() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("sandbox: off");
    let running = Running::start(&lb.config());
    let path = running.directory().join("admin.sock");
    let bind = format!("[\"127.0.0.1:{}\", \"unix:{}\"]", running.admin().port(), path.display());
    assert_eq!(running.edit(&admin(&lb, &bind)), Reload::Applied);
    let seen = running.log().len();
    let answer = send(&path, "POST /api/v1/reload HTTP/1.1\r\nX-Snigate-Control: 1\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(running.wait_for_reload_after(seen), Reload::Unchanged);
    let answer = send(&path, "POST /api/v1/reload HTTP/1.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("`X-Snigate-Control: 1`"), "{answer}");

    // As backends, the addresses of the admin server would hand it to every client.
    let link = running.directory().join("link.sock");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let backends = [path, link].map(|path| format!("unix:{}", path.display()));
    for (number, ours) in [running.admin().to_string()].into_iter().chain(backends).enumerate() {
        let config = admin(&lb, &bind).replacen(&backend.address.to_string(), &ours, 1) + &format!("# {number}\n");
        assert_eq!(running.edit(&config), Reload::Rejected, "{ours}");
        let seen = |line: &serde_json::Value| line.to_string().contains(&ours) && line["level"] == "ERROR";
        assert!(running.log().iter().any(seen), "{ours}");
    }
    running.stop();
}

#[test]
fn a_socket_file_is_replaced_if_nobody_listens_and_not_otherwise() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("sandbox: off");
    let running = Running::start(&lb.config());
    let path = running.directory().join("admin.sock");
    let both = |comment: &str| {
        admin(&lb, &format!("[\"127.0.0.1:0\", \"unix:{}\"]", path.display())) + &format!("# {comment}\n")
    };

    fs::write(&path, "a file of somebody's").unwrap();
    assert_eq!(running.edit(&both("first")), Reload::Rejected);
    assert_eq!(fs::read(&path).unwrap(), b"a file of somebody's");
    fs::remove_file(&path).unwrap();

    let somebody = UnixListener::bind(&path).unwrap();
    assert_eq!(running.edit(&both("again")), Reload::Rejected);
    // As a process leaves it that was killed.
    drop(somebody);
    assert!(path.exists());
    assert_eq!(running.edit(&both("stale")), Reload::Applied);
    assert!(ask(&path).starts_with("HTTP/1.1 200"));
    running.stop();
    assert!(!path.exists());
}

#[test]
fn level_and_format_of_the_log_change_at_once() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend);
    let running = Running::start(&lb.config());
    let put = |log: &str| fs::write(running.config_file(), format!("{}log: {{ {log} }}\n", lb.config())).unwrap();

    // A line of text is no JSON, which the harness keeps as a string.
    put("format: text");
    let text = running.wait_for_line(|line| line.as_str().is_some_and(|line| line.contains("event=reload_applied")));
    assert!(text.as_str().unwrap().contains("INFO"), "{text}");

    put("level: error");
    let applied = |count: f64| running.wait_for_metric("config_reloads_total", &[("result", "applied")], count);
    applied(3.0);
    let seen = running.log().len();
    put("level: error, connections: failed");
    applied(4.0);
    assert_eq!(running.log().len(), seen, "an INFO line at level error");
    put("level: info");
    running.wait_for_line_after(seen, |line| line["event"] == "reload_applied");
    running.stop();
}
