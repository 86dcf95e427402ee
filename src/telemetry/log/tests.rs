use std::sync::mpsc::{Sender, channel};

use serde_json::Value;

use super::super::{Alpn, Endpoint, State};
use super::*;

/// Forwards everything that is written.
struct Channel(Sender<Vec<u8>>);

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line(reason: Reason) -> ConnectionLine<'static> {
    ConnectionLine {
        id: crate::ids::ConnectionId(1),
        listener: "l",
        client: "192.0.2.1:1".parse().unwrap(),
        peer: "192.0.2.1:1".parse().unwrap(),
        endpoint: Endpoint::default(),
        sni: Some("a.test"),
        alpn: Alpn::Absent,
        tls: None,
        offers: &[],
        hello_bytes: None,
        hello_records: None,
        hello_ms: None,
        saw: None,
        request: None,
        route: None,
        matched: None,
        pool: None,
        backend: None,
        address: None,
        attempts: 0,
        failed: &[],
        answer: None,
        connect_ms: None,
        first_byte_ms: None,
        duration_ms: Duration::ZERO,
        bytes_to_backend: 0,
        bytes_to_client: 0,
        phase: State::Hello,
        reason,
        config: "c",
        error: None,
    }
}

#[test]
fn a_line_is_one_write() {
    let (sender, written) = channel();
    let log = ConnectionLog::to(Channel(sender), LogFormat::Json, LogConnections::All);
    log.clone().line(&line(Reason::NoRoute));
    log.line(&line(Reason::Ok));
    let lines: Vec<Value> = written.try_iter().map(|line| serde_json::from_slice(&line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| &line["reason"]).collect::<Vec<_>>(), ["no_route", "ok"]);
}

#[test]
fn failed_leaves_out_what_nobody_can_mend() {
    let (sender, written) = channel();
    let log = ConnectionLog::to(Channel(sender), LogFormat::Text, LogConnections::Failed);
    Reason::ALL.iter().for_each(|reason| log.line(&line(*reason)));
    assert_eq!(written.try_iter().count(), Reason::ALL.len() - 4);
    assert!(!log.wants(Reason::Ok) && !log.wants(Reason::Probe) && log.wants(Reason::NoRoute));

    let docs = include_str!("../../../docs/logs.md");
    for reason in Reason::ALL {
        let row = docs.lines().find(|row| row.starts_with(&format!("| `{reason}` |"))).unwrap();
        assert!(row.ends_with(&format!("| `{}` |", reason.fault().as_str())), "{row}");
        assert_eq!(row.ends_with("| `none` |"), !log.wants(*reason), "{row}");
    }

    let off = ConnectionLog { which: LogConnections::Off, ..log };
    assert!(Reason::ALL.iter().all(|reason| !off.wants(*reason)));
}

#[test]
fn of_refused_clients_a_hundred_a_second_have_a_line_and_of_others_all() {
    let (sender, written) = channel();
    let log = ConnectionLog::to(Channel(sender), LogFormat::Json, LogConnections::All);
    let lines_of = |reason| {
        (0..250).for_each(|_| log.line(&line(reason)));
        written.try_iter().count()
    };
    for reason in Reason::ALL {
        assert_eq!(lines_of(*reason), if reason.is_refusal() { 100 } else { 250 }, "{reason}");
    }
    let docs = include_str!("../../../docs/logs.md");
    let rows = docs.lines().skip_while(|row| !row.starts_with("| reason |")).skip(2);
    let above = rows.take_while(|row| !row.starts_with("| `no_backend` |"));
    let above: Vec<&str> = above.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(["bad_hello", "probe", "limit_backend"].iter().all(|reason| above.contains(reason)), "{above:?}");

    let (sender, messages) = channel();
    let make = move || Channel(sender.clone());
    let format = OperatorMessage { format: LogFormat::Json, colour: Colour::None };
    let subscriber = Registry::default().with(tracing_subscriber::fmt::layer().event_format(format).with_writer(make));
    // Twice: the second time there is nothing to report.
    tracing::subscriber::with_default(subscriber, || (0..2).for_each(|_| log.refusals.report()));
    let messages: Vec<Value> = messages.try_iter().map(|line| serde_json::from_slice(&line).unwrap()).collect();
    assert_eq!(messages.iter().map(|message| &message["reason"]).collect::<Vec<_>>(), above);
    for message in messages {
        assert_eq!((&message["event"], &message["count"]), (&"refusals_suppressed".into(), &150.into()));
    }
    assert_eq!(lines_of(Reason::BadHello), 100, "the next second begins anew");
}

#[test]
fn the_level_is_about_snigate_and_not_its_libraries() {
    for (level, wanted) in [(Level::Error, "e E"), (Level::Info, "i e E"), (Level::Trace, "t d i e E")] {
        let (sender, written) = channel();
        let make = move || Channel(sender.clone());
        let subscriber = Registry::default().with(ours(level));
        let subscriber = subscriber.with(tracing_subscriber::fmt::layer().with_writer(make).without_time());
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!("=t");
            tracing::debug!("=d");
            tracing::info!("=i");
            tracing::error!("=e");
            tracing::debug!(target: "hickory_proto::xfer", "=D");
            tracing::info!(target: "h2", "=I");
            tracing::warn!(target: "hickory_proto::xfer", "=W");
            tracing::error!(target: "h2", "=E");
        });
        let all = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
        let seen: Vec<&str> = all.lines().filter_map(|line| Some(line.split_once('=')?.1)).collect();
        assert_eq!(seen.join(" "), wanted, "{level:?}");
    }
}

#[test]
fn operator_messages_are_one_object_with_the_event_third() {
    let (sender, written) = channel();
    let make = move || Channel(sender.clone());
    let messages = OperatorMessage { format: LogFormat::Json, colour: Colour::None };
    let subscriber =
        Registry::default().with(tracing_subscriber::fmt::layer().event_format(messages).with_writer(make));
    tracing::subscriber::with_default(subscriber, || {
        let error = io::Error::other("no\nsuch \x1b thing");
        tracing::warn!(
            event = "it_was_rejected",
            file = "a \"b\"",
            routes = 3,
            ratio = f64::NAN,
            ok = true,
            %error,
            "rejected\r\n{}", '\0'
        );
        tracing::info!(left = -1, kind = ?LogFormat::Text);
    });
    let lines: Vec<String> = written.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (at, rest) = lines[0].split_once(",\"level\"").unwrap();
    assert!(at.starts_with("{\"ts\":\"20") && at.ends_with("Z\""), "{at}");
    assert_eq!(
        rest,
        ":\"WARN\",\"event\":\"it_was_rejected\",\"msg\":\"rejected\\r\\n\\u0000\",\"file\":\"a \\\"b\\\"\",\
         \"routes\":3,\"ratio\":\"NaN\",\"ok\":true,\"error\":\"no\\nsuch \\u001b thing\"}\n"
    );
    assert!(lines[1].ends_with("\"level\":\"INFO\",\"msg\":\"\",\"left\":-1,\"kind\":\"Text\"}\n"), "{}", lines[1]);
    lines.iter().for_each(|line| _ = serde_json::from_str::<Value>(line).unwrap());
}

#[test]
fn colour_surrounds_a_text_line_and_the_line_still_ends_it() {
    let (sender, written) = channel();
    let messages = OperatorMessage { format: LogFormat::Text, colour: Colour::Ansi };
    let make = move || Channel(sender.clone());
    let subscriber =
        Registry::default().with(tracing_subscriber::fmt::layer().event_format(messages).with_writer(make));
    tracing::subscriber::with_default(subscriber, || tracing::error!(cause = "\x1b[0m", "cannot bind"));
    let line = String::from_utf8(written.recv().unwrap()).unwrap();
    assert!(line.starts_with("\x1b[31mts="), "{line:?}");
    assert!(line.ends_with(" level=ERROR msg=\"cannot bind\" cause=\"\\u001b[0m\"\x1b[0m\n"), "{line:?}");
}
