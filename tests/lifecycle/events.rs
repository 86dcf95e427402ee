//! The stream of events of a real process: over reloads and upgrades, with clients that do not read, and with too many.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::harness::{DEADLINE, Lb, Reload, Running};
use crate::lineage::{Lineage, Upgraded};

/// A client that follows the events.
struct Follower(BufReader<TcpStream>);

#[derive(Debug)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Value,
}

impl Follower {
    /// The status that it got, and the client if it may follow.
    fn try_new(admin: SocketAddr, last_id: Option<&str>) -> std::io::Result<(u16, Self)> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let last = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        // Without chunks.
        write!(stream, "GET /api/v1/events HTTP/1.0\r\nHost: {admin}\r\n{last}\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while reader.read_line(&mut head)? > 2 {}
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("no answer: {head:?}")))?;
        assert!(status != 200 || head.contains("content-type: text/event-stream"), "{head}");
        Ok((status, Self(reader)))
    }

    #[track_caller]
    fn new(admin: SocketAddr, last_id: Option<&str>) -> Self {
        let (status, follower) = Self::try_new(admin, last_id).unwrap();
        assert_eq!(status, 200);
        follower
    }

    /// The next event; `None`: the stream has ended.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut kind, mut data) = (None, String::new(), Value::Null);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some(("id", value)) => id = Some(value.trim().to_owned()),
                Some(("event", value)) => kind = value.trim().to_owned(),
                Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
                None if !kind.is_empty() => return Some(Event { id, kind, data }),
                _ => {}
            }
        }
    }

    /// The next event of a kind.
    #[track_caller]
    fn wait_for(&mut self, kind: &str) -> Event {
        std::iter::from_fn(|| self.next()).find(|event| event.kind == kind).expect("the stream goes on")
    }
}

#[test]
fn a_follower_sees_reloads_and_backends_and_misses_none_while_it_is_away() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).controlled();
    let running = Running::start(&lb.config());
    let mut follower = Follower::new(running.admin(), None);
    let status = follower.wait_for("status");
    assert_eq!((status.id, &status.data["pid"]), (None, &json!(running.pid())));
    assert_eq!(running.edit(&lb.config().replace("pool: pool-0", "pool: pool-9")), Reload::Rejected);
    let reload = follower.wait_for("reload");
    assert_eq!((&reload.data["result"], &reload.data["problems"][0]["line"]), (&json!("rejected"), &json!(4)));
    let status = follower.wait_for("status");
    assert_eq!(status.data["problems"][0]["kind"], "reload_rejected", "{status:?}");
    drop(follower);
    assert_eq!(running.edit(&lb.config().replace("a.test", "b.test")), Reload::Applied);
    let path = format!("/api/v1/pools/pool-0/backends/{}/state", backend.address);
    assert_eq!(running.admin_send("PUT", &path, "drain").0, 200);
    let mut again = Follower::new(running.admin(), reload.id.as_deref());
    let reload = again.wait_for("reload");
    assert_eq!(reload.data["result"], "applied", "the first that it has not seen");
    let change = again.wait_for("backend");
    assert_eq!(
        (&change.data["backend"], &change.data["state"], &change.data["was"]),
        (&json!(backend.address.to_string()), &json!("drain"), &json!("unchecked"))
    );
    let numbers: Vec<u64> = [&reload, &change]
        .map(|event| event.id.as_ref().unwrap().rsplit_once('-').unwrap().1.parse().unwrap())
        .to_vec();
    assert!(numbers[0] < numbers[1], "{numbers:?}");
    running.stop();
}

#[test]
fn a_follower_of_the_old_process_is_sent_to_the_new_one() {
    let backend = Backend::echoing();
    let mut lineage = Lineage::of(Running::start(&Lb::new().route("a.test", &backend).config()));
    let (admin, old) = (lineage.admin(), lineage.pid());
    let mut follower = Follower::new(admin, None);
    assert_eq!(follower.wait_for("status").data["pid"], old);
    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    let last: Vec<Event> = std::iter::from_fn(|| follower.next()).collect();
    assert!(last.iter().all(|event| event.data["pid"] != lineage.pid()));
    let mut again = Follower::new(admin, Some("abc-7"));
    let status = again.wait_for("status");
    assert_eq!((&status.data["pid"], &status.data["stage"]), (&json!(lineage.pid()), &json!("ready")));
    lineage.stop();
}

/// They take their places, more are refused, and neither probes nor reports notice.
#[test]
fn five_hundred_followers_are_bounded_and_keep_nobody_out() {
    let backend = Backend::echoing();
    let running = Lb::new().route("a.test", &backend).start();
    let (admin, followers, refused) = (running.admin(), Mutex::new(Vec::new()), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..50 {
                    // One that has sent nothing yet makes room for the next.
                    match Follower::try_new(admin, None) {
                        Ok((200, follower)) => followers.lock().unwrap().push(follower),
                        Ok((503, mut answer)) => {
                            let mut body = String::new();
                            answer.0.read_to_string(&mut body).unwrap();
                            assert!(body.contains("48 clients follow the events already"), "{body}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok((status, _)) => panic!("{status}"),
                        Err(_) => {}
                    }
                }
            });
        }
    });
    let mut followers = followers.into_inner().unwrap();
    assert_eq!(followers.len(), 48);
    assert!(refused.into_inner() > 0);
    assert_eq!(running.admin_get("/readyz").0, 200);
    assert_eq!(running.admin_get("/api/v1/status").0, 200);
    for follower in &mut followers {
        let one = follower.wait_for("status");
        assert!(follower.wait_for("status").data["at"].as_str() > one.data["at"].as_str());
    }
    // A place becomes free when its follower has gone, which the next status shows.
    drop(followers);
    let free = crate::harness::poll(|| match Follower::try_new(admin, None) {
        Ok((200, follower)) => Ok(follower),
        _ => Err(()),
    });
    free.expect("there is room again").wait_for("status");
    running.stop();
}

/// 48 clients that read nothing of a large status cost memory for a few statuses each, not for all.
#[test]
fn followers_that_do_not_read_skip_what_they_miss() {
    let backends: [SocketAddr; 300] = std::array::from_fn(|port| ([127, 0, 0, 1], port as u16 + 1).into());
    let running = Lb::new().route("a.test", backends).start();
    let mut followers: Vec<Follower> = (0..40).map(|_| Follower::new(running.admin(), None)).collect();
    let mut reader = Follower::new(running.admin(), None);
    let first = reader.wait_for("status");
    assert_eq!(first.data["pools"][0]["backends_left_off"], 100);
    let at = |event: &Event| event.data["uptime_s"].as_u64().unwrap();
    let resident = |event: &Event| event.data["resources"]["resident_bytes"].as_u64().unwrap();
    let mut latest = reader.wait_for("status");
    while at(&latest) < at(&first) + 5 {
        latest = reader.wait_for("status");
    }
    assert!(resident(&latest) < resident(&first) + (24 << 20), "{} after {}", resident(&latest), resident(&first));
    // One of them reads again: it gets what is buffered, and then what is new.
    let slow = &mut followers[0];
    let mut seen = slow.wait_for("status");
    while at(&seen) < at(&latest) {
        seen = slow.wait_for("status");
    }
    running.stop();
}
