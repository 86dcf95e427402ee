use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use super::super::control::ours;
use super::super::event::Messages;
use super::super::format::{Colour, Form, Formatter, Style};
use super::super::keys::Key;
use super::super::line::tests::bare;
use super::super::record::{Kind, Record};
use super::*;
use crate::settings::{Level, LogFields, LogFormat, Or, Shown};

/// A log with `settings`, and what it writes.
fn log(settings: &Log) -> (ConnectionLog, Receiver<Vec<u8>>) {
    let (sender, written) = channel();
    let write = move |bytes: &[u8]| {
        sender.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    };
    (ConnectionLog::to(write, settings), written)
}

fn json() -> Log {
    Log { format: LogFormat::Json, ..Log::default() }
}

/// The lines written so far.
fn lines(log: &ConnectionLog, written: &Receiver<Vec<u8>>) -> Vec<Value> {
    log.flush();
    let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(reason: Reason) -> ConnectionLine<'static> {
    ConnectionLine { reason, ..bare() }
}

/// Formats what is logged in `logs`.
fn messages(filter: Targets, logs: impl FnOnce()) -> Vec<Value> {
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let to = Arc::clone(&written);
    let messages = Messages(move |record: &[u8]| to.lock().unwrap().extend_from_slice(record));
    let subscriber = Registry::default().with(messages.with_filter(filter));
    tracing::subscriber::with_default(subscriber, logs);
    let (records, mut lines) = (written.lock().unwrap(), String::new());
    let style = Style {
        form: Form::Json(LogFields::Native),
        names: Shown::Clear,
        inner_names: Shown::Clear,
        clients: Shown::Clear,
    };
    let mut rest = &records[..];
    while let Some(record) = Record::next(&mut rest) {
        assert_eq!(record.kind, Kind::Message);
        assert!(record.find(Key::Msg).is_some());
        Formatter::default().write(&mut lines, record, style);
    }
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn failed_leaves_out_what_nobody_can_mend_and_probes_can_be_left_out_alone() {
    let (log, written) = log(&Log { connections: LogConnections::Failed, ..json() });
    Reason::ALL.iter().for_each(|reason| log.line(&line(*reason)));
    assert_eq!(lines(&log, &written).len(), Reason::ALL.len() - 4);
    assert!(!log.wants(Reason::Ok) && !log.wants(Reason::Probe) && log.wants(Reason::NoRoute));

    let docs = include_str!("../../../../docs/logs.md");
    for reason in Reason::ALL {
        let row = docs.lines().find(|row| row.starts_with(&format!("| `{reason}` |"))).unwrap();
        assert!(row.ends_with(&format!("| `{}` |", reason.fault().as_str())), "{row}");
        assert_eq!(row.ends_with("| `none` |"), !log.wants(*reason), "{row}");
    }

    let off = ConnectionLog { which: LogConnections::Off, ..log.clone() };
    assert!(Reason::ALL.iter().all(|reason| !off.wants(*reason)));
    let no_probes = ConnectionLog { which: LogConnections::All, probes: false, ..log };
    assert!(Reason::ALL.iter().all(|reason| no_probes.wants(*reason) == (*reason != Reason::Probe)));
}

#[test]
fn of_refused_clients_a_hundred_a_second_have_a_line_and_of_others_all() {
    let (log, written) = log(&json());
    let lines_of = |reason| {
        (0..250).for_each(|_| log.line(&line(reason)));
        lines(&log, &written).len()
    };
    for reason in Reason::ALL {
        assert_eq!(lines_of(*reason), if reason.is_refusal() { 100 } else { 250 }, "{reason}");
    }
    let docs = include_str!("../../../../docs/logs.md");
    let rows = docs.lines().skip_while(|row| !row.starts_with("| reason |")).skip(2);
    let above = rows.take_while(|row| !row.starts_with("| `no_backend` |"));
    let above: Vec<&str> = above.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(["bad_hello", "probe", "limit_backend"].iter().all(|reason| above.contains(reason)), "{above:?}");

    // Twice: the second time there is nothing to report.
    let reported = messages(ours(Level::Info), || (0..2).for_each(|_| log.outputs().refusals.report()));
    assert_eq!(reported.iter().map(|message| &message["reason"]).collect::<Vec<_>>(), above);
    for message in reported {
        assert_eq!((&message["event"], &message["count"]), (&"refusals_suppressed".into(), &150.into()));
    }
    assert_eq!(lines_of(Reason::BadHello), 100, "the next second begins anew");
}

#[test]
fn the_rate_of_refusals_is_a_setting() {
    let (limited, written) = log(&Log { refusals: serde_json::from_str("\"3/m\"").unwrap(), ..json() });
    (0..10).for_each(|_| limited.line(&line(Reason::NoRoute)));
    assert_eq!(lines(&limited, &written).len(), 3);
    // The minute is not over, so the count goes on.
    assert!(messages(ours(Level::Info), || limited.outputs().refusals.report_if_due()).is_empty());
    limited.line(&line(Reason::NoRoute));
    assert!(lines(&limited, &written).is_empty());
    let reported = messages(ours(Level::Info), || limited.outputs().refusals.set(None));
    assert_eq!((&reported[0]["reason"], &reported[0]["count"]), (&"no_route".into(), &8.into()));
    assert!(reported[0]["msg"].as_str().unwrap().contains("3/m (log.refusals)"), "{reported:?}");

    let (all, written) = log(&Log { refusals: Or::default(), ..json() });
    (0..500).for_each(|_| all.line(&line(Reason::NoRoute)));
    assert_eq!(lines(&all, &written).len(), 500);
    assert!(messages(ours(Level::Info), || all.outputs().refusals.report()).is_empty());
}

#[test]
fn the_level_is_about_snigate_and_not_its_libraries() {
    for (level, wanted) in [(Level::Error, "e E"), (Level::Info, "i e E"), (Level::Trace, "t d i e E")] {
        let seen = messages(ours(level), || {
            tracing::trace!("t");
            tracing::debug!("d");
            tracing::info!("i");
            tracing::error!("e");
            tracing::debug!(target: "hickory_proto::xfer", "D");
            tracing::info!(target: "h2", "I");
            tracing::warn!(target: "hickory_proto::xfer", "W");
            tracing::error!(target: "h2", "E");
        });
        let seen: Vec<&str> = seen.iter().filter_map(|message| message["msg"].as_str()).collect();
        assert_eq!(seen.join(" "), wanted, "{level:?}");
    }
}

#[test]
fn a_message_is_recorded_with_its_fields() {
    let seen = messages(ours(Level::Info), || {
        let error: &(dyn std::error::Error + 'static) = &io::Error::other("no\nsuch \x1b thing");
        tracing::warn!(
            event = "it_was_rejected",
            file = "a \"b\"",
            routes = 3,
            ratio = f64::NAN,
            half = 0.5,
            left = -1,
            ok = true,
            client = ?"192.0.2.1",
            error,
            "rejected\r\n{}", '\0'
        );
    });
    let wanted = serde_json::json!({
        "ts": seen[0]["ts"], "level": "WARN", "event": "it_was_rejected", "msg": "rejected\r\n\0", "file": "a \"b\"",
        "routes": 3, "ratio": "NaN", "half": 0.5, "left": -1, "ok": true, "client": "\"192.0.2.1\"",
        "error": "no\nsuch \u{1b} thing",
    });
    assert_eq!(seen, [wanted]);
}

#[test]
fn auto_is_for_people_on_a_terminal_and_for_programs_elsewhere() {
    let form = |format, medium| Style::new(&Log { format, ..Log::default() }, medium).form;
    let (terminal, json) = (Medium::Terminal(Colour::Ansi), Form::Json(LogFields::Native));
    assert_eq!(form(LogFormat::Auto, terminal), Form::Pretty(Colour::Ansi));
    assert_eq!(form(LogFormat::Auto, Medium::Terminal(Colour::None)), Form::Pretty(Colour::None));
    assert_eq!(form(LogFormat::Auto, Medium::Other), json);
    assert_eq!(form(LogFormat::Json, terminal), json);
    assert_eq!(form(LogFormat::Pretty, Medium::Other), Form::Pretty(Colour::None));
    assert_eq!(form(LogFormat::Logfmt, terminal), Form::Logfmt);
}
