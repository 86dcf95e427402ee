//! What each key of `top` does.
//!
//! In:  a key.
//! Out: a changed [`Model`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

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
        KeyCode::Up | KeyCode::Char('k') => model.scroll_by(-1),
        KeyCode::Down | KeyCode::Char('j') => model.scroll_by(1),
        KeyCode::PageUp => model.scroll_by(-PAGE),
        KeyCode::PageDown => model.scroll_by(PAGE),
        KeyCode::Home => model.scroll_by(isize::MIN),
        KeyCode::End => model.scroll_by(isize::MAX),
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
        (_, true) => &[("Enter", "keep"), ("Esc", "clear")],
        (Tab::Overview, _) => &[("q", "quit"), ("2", "connections"), ("/", "search"), ("↑↓", "scroll pools")],
        (Tab::Connections, _) => &[
            ("q", "quit"),
            ("1", "overview"),
            ("/", "search"),
            ("s", "sort"),
            ("↑↓", "scroll"),
            ("Esc", "clear search"),
        ],
    }
}

const PAGE: isize = 10;
