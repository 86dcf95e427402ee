//! A connection that is open keeps its backend while the routing file changes under it.

use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};

use serde_json::Value;

use crate::client::{Client, Question, Tls};
use crate::harness::{DEADLINE, Lb, Lines, Reload, Running, was_served};
use crate::names::body;
use crate::program::Program;
use crate::site::{Site, script};

#[test]
fn a_websocket_stays_open_over_reloads_good_and_bad() {
    let Some(node) = Program::find("node") else { return };
    let site = Site::start(&node);
    let only_one = Lb::new().route("one.test", site.address("one"));
    let lb = only_one.clone().start();
    let mut socket = WebSocket::open(&node, &site, &lb, "one.test");
    assert_eq!(socket.say("before"), "one: before");

    // The route that the socket came by goes away, and another comes.
    let only_two = Lb::new().route("two.test", site.address("two"));
    assert_eq!(lb.edit(&only_two.config()), Reload::Applied);
    assert_eq!(socket.say("after"), "one: after");
    let newcomer = |name| {
        let trust = site.certificate(name);
        Client::Node(node.clone()).ask(Question { to: lb.address(), name, trust: &trust, tls: Tls::Any })
    };
    assert_eq!(body(&newcomer("two.test").stdout)["server"], "two");
    assert!(!newcomer("one.test").success, "the route is gone");

    assert_eq!(lb.edit("routes: [ this is no routing file"), Reload::Rejected);
    assert_eq!(lb.metric("config_last_reload_successful", &[]), 0.0);
    assert_eq!(socket.say("still"), "one: still");

    assert_eq!(lb.edit(&only_one.config()), Reload::Applied);
    assert_eq!(lb.metric("config_last_reload_successful", &[]), 1.0);
    assert_eq!(socket.say("at last"), "one: at last");
    drop(socket);
    let of_the_socket = |line: &Value| line["sni"] == "one.test" && was_served(line);
    assert_eq!(lb.wait_for_line(of_the_socket)["route"], "one.test");
    lb.stop();
}

/// A WebSocket held by a Node.js process.
struct WebSocket {
    node: Child,
    stdin: ChildStdin,
    stdout: Lines,
}

impl WebSocket {
    fn open(node: &Program, site: &Site, lb: &Running, name: &str) -> Self {
        let mut node = node
            .command()
            .arg(script("websocket.js"))
            .args([lb.address().ip().to_string(), lb.port().to_string(), name.to_owned()])
            .arg(site.certificate(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = node.stdin.take().unwrap();
        let stdout = Lines::follow(node.stdout.take().unwrap());
        assert_eq!(stdout.wait_for(0, DEADLINE, |_| true).expect("it opens"), "open");
        Self { node, stdin, stdout }
    }

    /// Sends a message and returns the next that comes back.
    fn say(&mut self, message: &str) -> String {
        let seen = self.stdout.len();
        writeln!(self.stdin, "{message}").unwrap();
        let answer = self.stdout.wait_for(seen, DEADLINE, |_| true).expect("the socket is open and answers");
        answer.as_str().unwrap().to_owned()
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}
