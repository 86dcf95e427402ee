//! Everything that a process does in its life, once: for tests of what it needs for that.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::nameserver::Nameserver;
use crate::harness::{DEADLINE, Lb, Reload, Running};
use crate::lineage::{Lineage, Upgraded};
use crate::wire::send;

/// So much that it is spliced.
const BULK_BYTES: usize = 8 << 20;

/// Runs `command`, with `keys` in its routing file, through start, traffic, reloads, an upgrade and the drain.
#[track_caller]
pub fn tour(command: Command, keys: &str) -> Vec<serde_json::Value> {
    let directory = tempfile::tempdir().unwrap();
    let bulk = Backend::that(|mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let _ = stream.write_all(SERVER_HELLO).and_then(|()| stream.write_all(&vec![7; BULK_BYTES]));
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    serve_unix(directory.path());
    fs::create_dir(directory.path().join("routes.d")).unwrap();
    let text = routing_file(directory.path(), &bulk, &dns, keys);

    let mut lineage = Lineage::of(Running::start_in(directory, command, &text));
    let names = ["bulk.test", "name.test", "unix.test"];
    names.iter().for_each(|name| get(lineage.address(), name));
    pages(&lineage);
    reloads(&lineage, &text, bulk.address.port());
    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    names.iter().for_each(|name| get(lineage.address(), name));
    lineage.wait_for_metric("connections_active", &[], 0.0);
    // The log of the second process may lag behind what it does.
    let lines = lineage.lines();
    let is_ready = |line: &serde_json::Value| line["event"] == "ready";
    let first = lines.wait_for(0, DEADLINE, is_ready).expect("the first process is ready");
    lines
        .wait_for(0, DEADLINE, |line| is_ready(line) && line["pid"] != first["pid"])
        .expect("the second is ready, too");
    let lines = lines.all();
    lineage.stop();
    lines
}

/// One pool for each kind of backend.
fn routing_file(directory: &Path, bulk: &Backend, dns: &Nameserver, keys: &str) -> String {
    let [named, unix]: [SocketAddr; 2] = ["127.0.0.1:8", "127.0.0.1:9"].map(|place| place.parse().unwrap());
    let resolve = format!(
        "resolve: {{ nameservers: [\"{}\"], allow: [127.0.0.0/8], min_ttl: 100ms, max_ttl: 200ms }}\n\
         health_check: {{ kind: tcp, interval: 100ms }}\nsend_proxy_protocol: v2",
        dns.address
    );
    let lb = Lb::new()
        .route_with(
            "bulk.test",
            bulk.address,
            "health_check: { kind: tls, interval: 100ms }\nsource_addresses: [127.0.0.1]",
        )
        .route_with("name.test", named, &resolve)
        .route("unix.test", unix)
        // The name that the system's own files resolve.
        .with("include: routes.d/*.yaml")
        .with(&format!(
            "admin: {{ bind: [\"127.0.0.1:0\", \"unix:{}/admin.sock\"], token_file: token }}",
            directory.display()
        ))
        .with("timeouts: { drain: 10s }")
        .with(keys);
    let text = lb.config().replace(&named.to_string(), &format!("shop.test:{}", bulk.address.port()));
    text.replace(&unix.to_string(), &format!("unix:{}/backend.sock", directory.display()))
}

/// A backend at a path, which answers as the others.
fn serve_unix(directory: &Path) {
    let listener = UnixListener::bind(directory.join("backend.sock")).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                let _ = stream.write_all(SERVER_HELLO);
            }
        }
    });
}

#[track_caller]
fn get(address: SocketAddr, name: &str) {
    let mut client = send(address, &hello(name));
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(SERVER_HELLO), "{name}: {} bytes", answer.len());
}

#[track_caller]
fn pages(lb: &Running) {
    for path in ["/metrics", "/readyz", "/healthz", "/", "/api/v1/status", "/api/v1/config", "/api/v1/connections"] {
        assert_eq!(lb.admin_get(path).0, 200, "{path}");
    }
    assert_eq!(lb.admin_send("DELETE", "/api/v1/connections?all=true", "").0, 200);
    let mut unix = UnixStream::connect(lb.directory().join("admin.sock")).unwrap();
    unix.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    unix.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// By the file, by a new included file, by a signal and by a call; names of the system's own resolver among them.
#[track_caller]
fn reloads(lb: &Running, text: &str, port: u16) {
    let seen = lb.log().len();
    fs::write(lb.directory().join("routes.d/a.yaml"), "routes: [{ sni: a.test, pool: pool-0 }]\n").unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    get(lb.address(), "a.test");
    let more = text.replace("routes:\n", "  - { name: more, bind: \"127.0.0.2:0\" }\nroutes:\n");
    let system = format!("pools:\n  system:\n    backends: [\"localhost:{port}\", \"nowhere.invalid:{port}\"]\n");
    let more = more.replace("pools:\n", &system);
    assert_eq!(lb.edit(&more), Reload::Applied);
    let seen = lb.log().len();
    lb.signal(Signal::HUP);
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Unchanged);
    let seen = lb.log().len();
    assert_eq!(lb.admin_send("POST", "/api/v1/reload", "").0, 200);
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Unchanged);
    assert_eq!(lb.edit("listeners: ["), Reload::Rejected);
    assert_eq!(lb.edit(text), Reload::Applied);
}
