use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use serde_json::{Value, json};

use super::super::feed::Update;
use super::*;

/// The lines of the screen.
fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn press(model: &mut Model, code: KeyCode) {
    keys::press(model, KeyEvent::from(code));
}

fn status(second: u32, backends: usize) -> Value {
    let backend = |number: usize| {
        json!({ "name": format!("10.0.0.{number}:443"), "address": format!("10.0.0.{number}:443"), "active": 7,
                "state": if number == 1 { "failing" } else { "up" }, "why": "Connection refused", "weight": 1,
                "since": "2026-11-30T12:00:00Z", "connect_ms": { "p50": 0.41, "p99": 3.2 },
                "certificate": { "expires": "2026-12-09T12:00:00Z" } })
    };
    json!({
        "version": "9.9", "stage": "ready", "uptime_s": 7200, "started": "a", "pools": [{
            "name": "shop", "state": "partly_down", "active": 21, "why": "evil\u{1b}[2J\u{202e}",
            "backends": (1..=backends).map(backend).collect::<Vec<_>>(),
        }],
        "at": format!("2026-11-30T12:01:{second:02}.000Z"),
        "problems": [{ "severity": "critical", "message": "pool shop: its backend fails", "cure": "Start it." }],
        "listeners": [{ "name": "https", "bind": ["[::]:443"], "active": 812, "per_second": 61.0, "refused": { "no_route": 9 } }],
        "resources": { "connections": { "used": 812, "limit": 65536 } },
        "totals": { "active": 812, "per_second": 61.0, "accepted": 61 * second, "bytes_to_clients": 125_000 * second },
    })
}

fn model(backends: usize) -> Model {
    let mut model = Model::new("127.0.0.1:9901".to_owned());
    for second in 0..10 {
        let status = serde_json::from_value(status(second, backends)).unwrap();
        model.take(Update::Status(Box::new(status)), Instant::now());
    }
    let history =
        json!({ "series": [{ "kind": "backend", "pool": "shop", "name": "10.0.0.2:443", "connections": [0, 1, 8] }] });
    model.take(Update::History(serde_json::from_value(history).unwrap()), Instant::now());
    model
}

#[test]
fn everything_fits_on_a_small_screen_and_a_large_one() {
    for (width, height) in [(80, 24), (200, 60)] {
        let lines = screen(&model(3), width, height);
        let text = lines.join("\n");
        assert!(lines[0].starts_with("snigate 9.9  ready, up 2 h  127.0.0.1:9901"), "{text}");
        assert!(lines[2].starts_with("critical  pool shop: its backend fails"), "{text}");
        for part in
            ["Start it.", "new connections 61/s", "to clients 1 Mbit/s", "connections 812 of 65536", "no_route 9"]
        {
            assert!(text.contains(part), "no {part} at {width}x{height}:\n{text}");
        }
        for row in ["shop", "10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"] {
            assert!(text.contains(row), "no {row} at {width}x{height}:\n{text}");
        }
        let failing = lines.iter().find(|line| line.contains("10.0.0.1:443")).unwrap();
        assert!(failing.contains("failing") && failing.contains("Connection refused"), "{text}");
        assert!(lines.last().unwrap().starts_with("q quit   2 connections   / search"), "{text}");
        assert_eq!(text.contains("410 µs/3.2 ms") && text.contains("▁█"), width == 200, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }
}

#[test]
fn no_size_is_too_small() {
    let mut model = model(3);
    for tab in [Tab::Overview, Tab::Connections] {
        model.tab = tab;
        for size in [(1, 1), (3, 2), (20, 5), (79, 7), (300, 3)] {
            screen(&model, size.0, size.1);
        }
    }
}

#[test]
fn many_problems_leave_room_for_the_pools() {
    let mut model = model(3);
    let mut many = status(11, 3);
    many["problems"] = (0..30).map(|at| json!({ "severity": "warning", "message": format!("problem {at}") })).collect();
    model.take(Update::Status(Box::new(serde_json::from_value(many).unwrap())), Instant::now());
    let text = screen(&model, 80, 24).join("\n");
    assert!(text.contains("problem 5") && text.contains("and 24 more: snigate status"), "{text}");
    assert!(text.contains("POOL") && text.contains("10.0.0.1:443"), "{text}");
}

#[test]
fn a_long_problem_is_wrapped_and_its_cure_too() {
    let mut model = model(3);
    let mut long = status(11, 3);
    long["problems"] =
        json!([{ "severity": "critical", "message": "word ".repeat(30).trim(), "cure": "help ".repeat(20).trim() }]);
    model.take(Update::Status(Box::new(serde_json::from_value(long).unwrap())), Instant::now());
    let lines = screen(&model, 80, 30);
    let words = |word: &str| lines.iter().map(|line| line.matches(word).count()).sum::<usize>();
    assert_eq!((words("word"), words("help")), (30, 20), "{lines:?}");
    assert!(lines[2].starts_with("critical  word word") && lines[3].starts_with("          word"), "{lines:?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
}

#[test]
fn what_the_stream_leaves_off_is_counted() {
    let mut model = model(3);
    let mut many = status(11, 3);
    many["pools"][0]["backends_left_off"] = json!(7);
    (many["pools_left_off"], many["backends_left_off"]) = (json!(2), json!(4));
    model.take(Update::Status(Box::new(serde_json::from_value(many).unwrap())), Instant::now());
    let text = screen(&model, 80, 24).join("\n");
    assert!(text.contains("11 more backends, some of them in 2 more pools"), "{text}");
}

#[test]
fn a_change_is_confirmed_first_and_its_result_stays_until_the_next_key() {
    let mut model = model(3);
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Char('d'));
    let lines = screen(&model, 80, 24);
    assert!(lines[22].starts_with("Set shop/10.0.0.1:443 to drain?") && lines[23].starts_with("y yes"), "{lines:?}");
    assert!(model.confirmed.is_none());
    press(&mut model, KeyCode::Enter);
    assert!(model.question.is_none() && model.confirmed.is_none(), "only `y` confirms");
    press(&mut model, KeyCode::Char('x'));
    press(&mut model, KeyCode::Char('y'));
    assert!(format!("{:?}", model.confirmed.take()).contains("10.0.0.1:443"));
    model.take(Update::Changed(Err("refused: no\n  Pass \u{1b}it.".into())), Instant::now());
    let lines = screen(&model, 80, 24);
    assert!(lines[21] == "refused: no" && lines[22].starts_with("Pass \\u{1b}it."), "{lines:?}");
    press(&mut model, KeyCode::Down);
    assert!(!screen(&model, 80, 24).join("\n").contains("refused: no"));
    // Among the connections these keys do nothing.
    press(&mut model, KeyCode::Char('2'));
    press(&mut model, KeyCode::Char('d'));
    assert!(model.question.is_none());
}

#[test]
fn keys_scroll_the_pools() {
    let mut model = model(100);
    assert!(!screen(&model, 80, 24).join("\n").contains("10.0.0.100:443"));
    press(&mut model, KeyCode::End);
    assert!(screen(&model, 80, 24).join("\n").contains("10.0.0.100:443"));
    press(&mut model, KeyCode::Home);
    press(&mut model, KeyCode::PageDown);
    assert!(screen(&model, 80, 24).join("\n").contains("10.0.0.10:443"));
}

#[test]
fn connections_are_shown_searched_and_sorted() {
    let mut model = model(1);
    press(&mut model, KeyCode::Char('/'));
    "shop".chars().for_each(|c| press(&mut model, KeyCode::Char(c)));
    assert!(screen(&model, 80, 24).last().unwrap().starts_with("Search: shop"));
    assert!(model.wanted().unwrap().contains("q=shop"));
    press(&mut model, KeyCode::Enter);
    press(&mut model, KeyCode::Char('s'));
    let page = json!({ "matching": 1, "connections": [{ "id": "000000000000002a", "client": "198.51.100.7:50312",
        "sni": "shop.example.com", "backend": "10.0.0.1:443", "state": "relaying", "age_ms": 81_573, "bytes_to_client": 48_211 }] });
    model.take(Update::Connections(serde_json::from_value(page).unwrap()), Instant::now());
    let lines = screen(&model, 80, 24);
    assert_eq!(lines[2], "1 connection with \"shop\", number 1 selected, sorted by bytes");
    assert!(
        lines[4].contains("1 min 21 s") && lines[4].contains("shop.example.com") && lines[4].ends_with("48.2 kB"),
        "{lines:?}"
    );
    assert!(screen(&model, 200, 60)[4].starts_with("2a"));
    // Esc clears the search first.
    press(&mut model, KeyCode::Esc);
    assert!(model.list.search.is_empty() && !model.is_over);
    press(&mut model, KeyCode::Esc);
    assert!(model.is_over);
}

#[test]
fn a_lost_process_is_said_and_what_was_known_stays() {
    let mut model = model(1);
    model.take(Update::Lost("connection refused".to_owned()), Instant::now());
    let lines = screen(&model, 120, 24);
    assert!(lines[0].contains("no answer for 0 s: connection refused; trying again"), "{lines:?}");
    assert!(lines.join("\n").contains("10.0.0.1:443"));
}
