use std::time::{SystemTime, UNIX_EPOCH};

use super::super::Formatter;
use super::super::style::{Form, Style};
use super::*;
use crate::settings::Shown;
use crate::telemetry::log::line::ConnectionLine;
use crate::telemetry::log::line::tests::{NOW, bare, full, recorded};
use crate::telemetry::log::record::Entry;

fn formatted(record: &[u8], colour: Colour) -> String {
    let mut out = String::new();
    let style =
        Style { form: Form::Pretty(colour), names: Shown::Clear, inner_names: Shown::Clear, clients: Shown::Clear };
    Formatter::default().write(&mut out, Record::next(&mut &record[..]).unwrap(), style);
    out
}

fn plain(line: &ConnectionLine<'_>) -> String {
    formatted(&recorded(line), Colour::None)
}

fn message(severity: Severity, fill: impl FnOnce(&mut Entry<'_>)) -> String {
    let (mut record, at): (_, SystemTime) = (Vec::new(), UNIX_EPOCH + NOW);
    let mut entry = Entry::new(&mut record, at, severity, Kind::Message);
    fill(&mut entry);
    entry.finish();
    formatted(&record, Colour::None)
}

#[test]
fn a_line_reads_from_left_to_right() {
    assert_eq!(
        plain(&full()),
        "12:34:56.789Z  198.51.100.7:50312     shop.example.com → shop/10.0.0.11:443  ok          1.9k↑  48.2k↓   1.53s\n"
    );
    let refused = ConnectionLine { reason: Reason::NoRoute, sni: Some("b.test"), ..bare() };
    assert_eq!(
        plain(&refused),
        "12:34:56.789Z  198.51.100.7:50312     b.test                                no_route       0↑      0↓   1.53s\n"
    );
    let silent = ConnectionLine { error: Some(&"the client closed after 0 bytes"), ..bare() };
    assert_eq!(
        plain(&silent),
        "12:34:56.789Z  198.51.100.7:50312     -               probe     the client closed after 0 bytes       0↑      0↓   1.53s\n"
    );
}

#[test]
fn the_outcome_decides_the_color_and_the_reason_is_whole() {
    for (reason, colour) in [
        (Reason::Ok, GREEN),
        (Reason::Probe, DIM),
        (Reason::NoRoute, YELLOW),
        (Reason::ClientReset, YELLOW),
        (Reason::ConnectRefused, RED),
        (Reason::Panic, RED),
    ] {
        let line = formatted(&recorded(&ConnectionLine { reason, ..full() }), Colour::Ansi);
        let padded = padded(reason.to_string(), REASON_COLUMNS);
        assert!(line.contains(&format!("{colour}{padded}{RESET}")), "{line:?}");
        assert_eq!(line.matches('\x1b').count() % 2, 0, "{line:?}");
        assert_eq!(visible_width(line.trim_end()), plain(&ConnectionLine { reason, ..full() }).trim_end().width());
    }
}

#[test]
fn no_line_is_wider_than_its_columns_and_no_reason_is_shortened() {
    let (wide, long) = ("漢字かな".repeat(40), "x".repeat(300));
    for text in ["", "a.test", &wide, &long] {
        let texts = Some(text).filter(|text| !text.is_empty());
        for client in ["192.0.2.1:1", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"] {
            for reason in Reason::ALL {
                for error in [None, Some(text)] {
                    let error = error.as_ref().map(|error| error as &dyn std::fmt::Display);
                    let client = client.parse().unwrap();
                    let line = ConnectionLine {
                        reason: *reason,
                        sni: texts,
                        route: texts,
                        backend: texts,
                        error,
                        client,
                        peer: client,
                        bytes_to_backend: u64::MAX,
                        bytes_to_client: 999_950,
                        duration_ms: Duration::from_secs(99 * 86_400),
                        ..bare()
                    };
                    let line = plain(&line);
                    let width = line.trim_end().width();
                    assert!(width <= COLUMNS, "{width} columns: {line}");
                    assert!(line.contains(reason.as_str()), "{line}");
                    assert_eq!(line.contains('…') || line.contains("2001"), text.len() > 10 || line.contains("2001"));
                }
            }
        }
    }
}

#[test]
fn a_message_fits_unless_it_is_about_a_problem() {
    let long = "y".repeat(200);
    let info = message(Severity::Info, |entry| {
        entry.text(Key::Event, "starting");
        entry.text(Key::Msg, "starting");
        entry.text(Name::Other("version"), "0.1.0");
        entry.text(Name::Other("empty"), "");
        entry.text(Name::Other("file"), &long);
        (0..10).for_each(|_| entry.number(Name::Other("max_connections"), 65_536));
    });
    assert!(info.trim_end().width() <= COLUMNS && info.ends_with("  …\n"), "{info}");
    assert!(info.starts_with("12:34:56.789Z  INFO   starting  version=0.1.0  file=yyyyyy"), "{info}");
    assert!(!info.contains("empty") && !info.contains("event"), "{info}");
    let problem = message(Severity::Error, |entry| {
        entry.text(Key::Msg, &long);
        entry.text(Key::Error, &format!("{long}\n\x1b[2J"));
    });
    assert_eq!(problem, format!("12:34:56.789Z  ERROR  {long}  error={long}\\n\\u001b[2J\n"));
}

#[test]
fn amounts_and_times_are_short() {
    for (bytes, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (48_211, "48.2k"),
        (999_949, "999.9k"),
        (999_950, "1.0M"),
        (u64::MAX, "18.4E"),
    ] {
        assert_eq!(amount(bytes), text);
    }
    for (micros, text) in [
        (0, "0µs"),
        (412, "412µs"),
        (2_100, "2.1ms"),
        (99_999, "99.9ms"),
        (123_456, "123ms"),
        (1_530_077, "1.53s"),
        (59_999_999, "59.99s"),
        (723_000_000, "12m03s"),
        (11_040_000_000, "3h04m"),
        (183_600_000_000, "2d03h"),
    ] {
        assert_eq!(length_of_time(Duration::from_micros(micros)), text);
    }
}

#[test]
fn the_longest_part_is_shortened_first_and_keeps_both_ends() {
    assert_eq!(shared(9, ["abcdefgh", "12", "xyz"]), ["ab…h", "12", "xyz"]);
    assert_eq!(shortened("abcdefgh", 5), "ab…gh");
    assert_eq!(shortened("abcdefgh", 0), "");
    // A wide character that does not fit leaves its column empty.
    assert_eq!(shortened("漢字漢字", 4).width(), 3);
    assert_eq!(visible_width("\x1b[31mab\x1b[0m c"), 4);
}
