//! What the commands say when the process cannot be asked, or refuses.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use crate::harness::backend::Backend;
use crate::harness::{Lb, TOKEN};
use crate::{Ended, Served, beside, command, run};

fn at(admin: &str, arguments: &[&str]) -> Ended {
    run(&mut command(arguments.iter().copied().chain(["--admin", admin]).map(OsStr::new)))
}

#[test]
fn a_process_that_does_not_answer() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for what in [&["status"][..], &["connections"], &["reload"], &["drain", "x"], &["weight", "x", "1"]] {
        let message = at(&closed, what).fails(1);
        let expected =
            format!("snigate: no answer from the admin address {closed}: connection refused\n  Is snigate running?");
        assert!(message.starts_with(&expected), "{message}");
    }
    let message = at("unix:/nowhere/admin.sock", &["status"]).fails(1);
    assert!(message.contains("unix:/nowhere/admin.sock: there is no such socket\n"), "{message}");
    assert!(at("127.0.0.1", &["status"]).fails(2).contains("is not a valid admin address (HOST:PORT or unix:/PATH)"));
    assert!(at("https://lb.example.com", &["status"]).fails(2).contains("speaks plain HTTP; use a tunnel"));
    let both = run(&mut command(["status", "--admin", &closed, "--config", "a.yaml"].map(OsStr::new)));
    assert!(both.fails(2).contains("leave out --config"));
}

/// Whatever listens at the default address may be another process.
#[test]
fn a_change_without_the_file_that_names_the_process() {
    let gone = std::env::temp_dir().join("snigate-there-is-no-such-file.yaml");
    let changes = [
        &["reload"][..],
        &["drain", "x"],
        &["down", "x"],
        &["ready", "x"],
        &["weight", "x", "1"],
        &["connections", "end", "--all"],
    ];
    for what in changes {
        let arguments = what.iter().map(OsStr::new).chain([OsStr::new("--config"), gone.as_os_str()]);
        let message = run(&mut command(arguments)).fails(1);
        assert!(message.contains(&format!("nothing was changed: {} does not say", gone.display())), "{message}");
    }
}

#[test]
fn something_else_that_answers() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n", "unexpected answer: "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "this is not a status"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n\x1b[", "it answered \"404 Not Found\""),
        ("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version parsed"),
        ("", "connection closed before message completed"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        });
        let message = at(&address, &["status"]).fails(1);
        let begins = format!("snigate: {address} does not answer as snigate's admin server does: ");
        assert!(message.starts_with(&begins) && message.contains(expected), "{answer:?}: {message}");
        server.join().unwrap();
    }
}

#[test]
fn a_change_without_proof() {
    let backend = Backend::echoing();
    let served = Served::start(Lb::new().route("a.test", &backend));
    let admin = served.lb.admin().to_string();
    let message = at(&admin, &["reload"]).fails(1);
    assert!(message.starts_with(&format!("snigate: {admin} refused: changes need a token")), "{message}");
    assert!(
        message.contains("\n    admin: { bind: [\"127.0.0.1:9901\", \"unix:/run/snigate/admin.sock\"] }\n"),
        "{message}"
    );
    // Reading needs none.
    assert_eq!(at(&admin, &["status"]).code, 0);
    served.lb.stop();

    let served = Served::with_admin(Lb::new().route("a.test", &backend), ", allow_control: never");
    assert!(served.run(&["reload"]).fails(1).contains(" refused: "));
    served.lb.stop();
}

#[test]
fn the_token_is_from_the_option_or_the_environment_or_the_routing_file() {
    let backend = Backend::echoing();
    let served = Served::with_admin(Lb::new().route("a.test", &backend), ", token_file: token, allow_control: token");
    let admin = served.lb.admin().to_string();
    // That of the file.
    assert_eq!(served.run(&["reload"]).code, 0);

    let message = at(&admin, &["reload"]).fails(1);
    assert!(message.contains("--token-file FILE, or in the variable SNIGATE_TOKEN"), "{message}");
    let wrong = beside(&served, "wrong", "open-pepper\n");
    let (wrong, right) = (wrong.to_str().unwrap(), beside(&served, "right", TOKEN));
    let message = at(&admin, &["reload", "--token-file", wrong]).fails(1);
    assert!(message.contains(&format!("The token from {wrong} is not the one")), "{message}");
    assert!(!message.contains("open-pepper"), "{message}");
    assert_eq!(at(&admin, &["reload", "--token-file", right.to_str().unwrap()]).code, 0);
    let with_variable =
        |value: &str| run(command(["reload", "--admin", &admin].map(OsStr::new)).env("SNIGATE_TOKEN", value));
    assert_eq!(with_variable(TOKEN).code, 0);
    assert!(with_variable("open-pepper").fails(1).contains("The token from SNIGATE_TOKEN is not the one"));
    assert!(with_variable("two words").fails(2).contains("one token of visible ASCII"));
    // An empty variable is as good as none.
    assert!(with_variable("").fails(1).contains("--token-file FILE"));
    served.lb.stop();
}

#[test]
fn a_routing_file_that_does_not_say_where_the_process_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let status = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(command(["status", "-c"].map(OsStr::new)).arg(&file))
    };
    let message = status("admin: { bind: [] }\n").fails(1);
    assert!(message.contains("turns the admin server off (`admin: { bind: [] }`)"), "{message}");
    let message = status("admin: { bind: \"127.0.0.1:0\" }\n").fails(1);
    assert!(message.contains("has port 0, so its port is not known"), "{message}");
    let message = status("admin: { bind: 127.0.0.1 }\n").fails(1);
    assert!(message.contains("config.yaml:1:16: admin.bind: a port is missing"), "{message}");
    // Whether or not another process has the default address.
    let message = status("admin: [\n").stderr;
    assert!(
        message.contains("the default admin address is asked, 127.0.0.1:9901; --admin ADDRESS asks another"),
        "{message}"
    );
    assert!(message.contains("config.yaml:1:8: invalid YAML"), "{message}");
    // A variable that is not set here is none of this command's business, unless the address needs it.
    let message = status("admin: { bind: \"127.0.0.1:${SNIGATE_TEST_UNSET}\" }\n").fails(1);
    assert!(message.contains("SNIGATE_TEST_UNSET"), "{message}");
}

/// The process serves what it read before.
#[test]
fn a_routing_file_that_is_no_yaml_any_more() {
    let served = Served::with_admin(Lb::new().route("a.test", &Backend::echoing()), "");
    let socket = served.lb.directory().join("admin.sock");
    let admin = format!("admin: {{ bind: \"unix:{}\" }}\n", socket.display());
    let broken = tempfile::tempdir().unwrap();
    let file = broken.path().join("config.yaml");
    for (text, why) in [
        ("routes:\n\t- sni: a.test\n", ":2:1: invalid YAML: a tab cannot indent"),
        ("routes: [a\n", ":1:9: invalid YAML: this `[` is not closed"),
        ("pool: a: b\n", ":1:7: invalid YAML: a second `: ` in the value"),
    ] {
        std::fs::write(&file, format!("{text}{admin}")).unwrap();
        for what in [&["status"][..], &["healthcheck"], &["connections"], &["reload"]] {
            let ended = run(command(what.iter().map(OsStr::new)).arg("--config").arg(&file));
            assert_eq!(ended.code, 0, "{what:?}: {ended:?}");
            assert!(ended.stderr.contains(why), "{}", ended.stderr);
            assert!(ended.stderr.contains("the admin address is that of its `admin` section"), "{}", ended.stderr);
        }
    }
    served.lb.stop();
}

#[test]
fn an_empty_filter_ends_nothing() {
    let served = Served::with_admin(Lb::new().route("a.test", &Backend::echoing()), "");
    for option in ["--search", "--name", "--route", "--pool", "--backend", "--listener"] {
        let message = served.run(&["connections", "end", option, " "]).fails(2);
        assert!(message.contains(&format!("`{option}` is empty")), "{message}");
    }
    served.lb.stop();
}
