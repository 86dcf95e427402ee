//! What each key of `top` does.
//!
//! In:  a key.
//! Out: a changed [`Model`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::State;
use super::model::{Model, Tab};

pub(super) fn press(model: &mut Model, KeyEvent { code, modifiers, .. }: KeyEvent) {
    if modifiers.contains(KeyModifiers::CONTROL) {
        // Raw mode leaves it to us.
        model.is_over |= matches!(code, KeyCode::Char('c'));
        return;
    }
    if model.list.is_typing {
        return type_key(model, code);
    }
    model.said = None;
    if let Some(action) = model.question.take() {
        if matches!(code, KeyCode::Char('y' | 'Y')) {
            model.confirmed = Some(action);
        }
        return;
    }
    match code {
        KeyCode::Char('q') => model.is_over = true,
        KeyCode::Esc if model.tab == Tab::Connections && !model.list.search.is_empty() => model.list.search.clear(),
        KeyCode::Esc => model.is_over = true,
        KeyCode::Char('1') => model.tab = Tab::Overview,
        KeyCode::Char('2') => model.tab = Tab::Connections,
        KeyCode::Tab | KeyCode::BackTab => {
            model.tab = if model.tab == Tab::Overview { Tab::Connections } else { Tab::Overview };
        }
        KeyCode::Char('/') => {
            model.tab = Tab::Connections;
            model.list.is_typing = true;
        }
        KeyCode::Char('s') if model.tab == Tab::Connections => model.sort_next(),
        KeyCode::Char('d') => model.ask_to_set(State::Drain),
        KeyCode::Char('r') => model.ask_to_set(State::Ready),
        KeyCode::Char('x') => model.ask_to_set(State::Down),
        KeyCode::Char('e') => model.ask_to_end(),
        KeyCode::Up | KeyCode::Char('k') => model.select_by(-1),
        KeyCode::Down | KeyCode::Char('j') => model.select_by(1),
        KeyCode::PageUp => model.select_by(-PAGE),
        KeyCode::PageDown => model.select_by(PAGE),
        KeyCode::Home => model.select_by(isize::MIN),
        KeyCode::End => model.select_by(isize::MAX),
        _ => {}
    }
}

/// While the search is being typed.
fn type_key(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Char(c) => model.type_in(c.encode_utf8(&mut [0; 4])),
        KeyCode::Backspace => model.delete_last(),
        KeyCode::Enter => model.list.is_typing = false,
        KeyCode::Esc => {
            model.list.is_typing = false;
            model.list.search.clear();
        }
        _ => {}
    }
}

/// The keys that the screen shows at its foot.
pub(super) fn shown(model: &Model) -> &'static [(&'static str, &'static str)] {
    match (model.tab, model.list.is_typing) {
        _ if model.question.is_some() => &[("y", "yes"), ("any other key", "no")],
        (_, true) => &[("Enter", "keep"), ("Esc", "clear")],
        (Tab::Overview, _) => &[
            ("q", "quit"),
            ("2", "connections"),
            ("/", "search"),
            ("↑↓", "select"),
            ("d", "drain"),
            ("r", "ready"),
            ("x", "down"),
        ],
        (Tab::Connections, _) => &[
            ("q", "quit"),
            ("1", "overview"),
            ("/", "search"),
            ("s", "sort"),
            ("↑↓", "select"),
            ("e", "end"),
            ("Esc", "clear search"),
        ],
    }
}

const PAGE: isize = 10;
