//! Much data goes through whole, and what is under way when the end is asked for is brought to its end.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{poll, was_served};
use crate::program::{Output, Program, Started};
use crate::site::Site;

#[test]
fn a_hundred_megabytes_arrive_unchanged_in_either_direction() {
    let (Some(node), Some(curl)) = (Program::find("node"), Program::find("curl")) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    let fetch = |path: &str, more: &[&str]| fetch(&curl, &site, lb.address(), path, more);
    let file = site.directory().join("bytes");
    let file = file.to_str().unwrap();
    let length = 100_000_000;

    let down = fetch(&format!("bytes/{length}"), &["-o", file]);
    assert!(down.success, "{down:?}");
    assert_eq!(fs::metadata(file).unwrap().len(), length);
    // The server's hash of what came up is that of what it sent down only if both ways were faithful.
    let up = fetch("upload", &["-T", file]);
    assert_eq!(up.stdout, fetch(&format!("hash/{length}"), &[]).stdout, "{up:?}");

    poll(|| {
        let direction = |direction| lb.metric("bytes_total", &[("direction", direction)]);
        let counted = (direction("to_backend"), direction("to_client"));
        if counted.0 > length as f64 && counted.1 > length as f64 { Ok(()) } else { Err(counted) }
    })
    .expect("both directions are counted");
    lb.stop();
}

#[test]
fn a_transfer_under_way_is_finished_after_sigterm() {
    let (Some(node), Some(curl)) = (Program::find("node"), Program::find("curl")) else { return };
    let site = Site::start(&node);
    let mut lb = site.lb().start();
    let file = site.directory().join("held");
    let length = 20_000_000;
    let path = format!("held/{length}");
    let mut command = curl_command(&curl, &site, lb.address(), &path, &["-o", file.to_str().unwrap()]);
    let download = Started::new(&mut command, b"");
    poll(|| if size(&file) >= length / 4 { Ok(()) } else { Err(()) }).expect("the download begins");
    lb.check_accounts();

    lb.signal(Signal::TERM);
    poll(|| TcpStream::connect(lb.address()).map_or(Ok(()), Err)).expect("it stops listening");
    assert!(size(&file) < length, "the download must still be under way");

    // The server lets go of the second half when it is asked to: past the proxy, which takes nobody new.
    poll(|| match fetch(&curl, &site, site.address("one"), "release", &[]) {
        released if released.stdout == "1" => Ok(()),
        other => Err(other),
    })
    .expect("the server had been holding one transfer back");
    let output = download.end();
    assert!(output.success, "{output:?}");
    assert_eq!(size(&file), length);
    assert!(lb.wait_for_exit().success());
    let line = lb.wait_for_connection("one.test");
    assert!(was_served(&line), "{line}");
}

#[track_caller]
fn fetch(curl: &Program, site: &Site, to: SocketAddr, path: &str, more: &[&str]) -> Output {
    Started::new(&mut curl_command(curl, site, to, path, more), b"").end()
}

/// curl for a path of one.test, which it is to find at `to`: the proxy's address or the server's own.
fn curl_command(curl: &Program, site: &Site, to: SocketAddr, path: &str, more: &[&str]) -> Command {
    let mut command = curl.command();
    command.args(["-q", "-sSf", "--http1.1", "--noproxy", "*", "--cacert"]).arg(site.certificate("one.test"));
    command.args(["--resolve", &format!("one.test:{}:{}", to.port(), to.ip())]);
    command.arg(format!("https://one.test:{}/{path}", to.port())).args(more);
    command
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}
