//! Commands that take longer than a second show that they are working, on a terminal.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;

use crate::terminal::Terminal;
use crate::{command, run};

#[test]
fn doctor_counts_the_backends_that_it_has_tested() {
    // It accepts through its backlog, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let backend = silent.local_addr().unwrap();
    let text = format!(
        "listeners: [{{ name: a, bind: \"127.0.0.1:0\" }}]\nroutes: [{{ sni: a.test, pool: p }}]\n\
         pools: {{ p: {{ backends: [\"{backend}\"] }} }}\n"
    );
    fs::write(&file, text).unwrap();
    let doctor = || {
        let mut command = command(["doctor", "--timeout", "2s"].map(OsStr::new));
        command.arg(&file);
        command
    };
    let mut terminal = Terminal::run(&mut doctor(), 24, 80);
    terminal.wait_for(|text| text.contains("testing backends [") && text.contains("0 of 1, "));
    assert_eq!(terminal.ends_restored().code(), Some(7));
    let after = terminal.wait_for(|text| text.contains("1 backend tested"));
    assert!(!after.contains("testing backends"), "{after}");
    // Not in a file or a pipe.
    let ended = run(&mut doctor());
    assert_eq!((ended.code, &*ended.stderr), (7, ""), "{ended:?}");
}
