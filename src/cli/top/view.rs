//! Draws the screen of `top`.
//!
//! In:  the [`Model`]; a frame of any size.
//! Out: a title, the tab that is open, and the keys. Everything from outside is escaped.

mod connections;
mod overview;
mod wrapped;

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::keys;
use super::model::{Link, Model, Tab};
use crate::cli::figures::{age, rate};
use crate::cli::printable::printable;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let said = said(model, frame.area().width);
    let [title, tabs, content, saying, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(u16::try_from(said.len()).unwrap_or(u16::MAX)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(self::title(model)), title);
    frame.render_widget(Paragraph::new(self::tabs(model)), tabs);
    match (&model.status, model.tab) {
        (None, _) => nothing_yet(frame, content, model),
        (Some(status), Tab::Overview) => overview::draw(frame, content, model, status),
        (Some(_), Tab::Connections) => connections::draw(frame, content, &model.list),
    }
    frame.render_widget(Paragraph::new(said), saying);
    frame.render_widget(Paragraph::new(self::foot(model)), foot);
}

fn title(model: &Model) -> Line<'static> {
    let mut line = Line::default();
    match &model.status {
        None => line.push_span(Span::styled("snigate", STRONG)),
        Some(status) => {
            line.push_span(Span::styled(format!("snigate {}", printable(&status.version)), STRONG));
            let style = if status.stage == "ready" { GOOD } else { WARN };
            line.push_span("  ");
            line.push_span(Span::styled(printable(&status.stage).into_owned(), style));
            line.push_span(format!(", up {}", age(Duration::from_secs(status.uptime_s))));
        }
    }
    line.push_span(Span::styled(format!("  {}", printable(&model.address)), FAINT));
    if let Link::Lost { since, why } = &model.link {
        let lost = age(Instant::now().saturating_duration_since(*since));
        line.push_span(Span::styled(format!("  no answer for {lost}: {}; trying again", printable(why)), BAD));
    }
    line
}

fn tabs(model: &Model) -> Line<'static> {
    let tab = |name: &'static str, tab| {
        let style = if model.tab == tab { STRONG.add_modifier(Modifier::REVERSED) } else { FAINT };
        Span::styled(name, style)
    };
    let mut line =
        Line::from(vec![tab(" 1 Overview ", Tab::Overview), Span::raw(" "), tab(" 2 Connections ", Tab::Connections)]);
    if let Some(totals) = model.status.as_ref().and_then(|status| status.totals) {
        line.push_span(format!(
            "   {} open, {} new, {} refused, {} failed",
            totals.active,
            rate(totals.per_second),
            totals.refused,
            totals.failed
        ));
    }
    line
}

/// A question, or what a change has led to, above the foot.
fn said(model: &Model, width: u16) -> Vec<Line<'static>> {
    let (text, style) = match (&model.question, &model.said) {
        (Some(action), _) => (action.question(), WARN.add_modifier(Modifier::BOLD)),
        (None, Some(Ok(text))) => (text.clone(), GOOD),
        (None, Some(Err(text))) => (text.clone(), BAD),
        (None, None) => return Vec::new(),
    };
    let lines = text.lines().flat_map(|line| wrapped::wrapped(&printable(line), width));
    lines.take(MOST_SAID).map(|line| Line::styled(line, style)).collect()
}

fn foot(model: &Model) -> Line<'static> {
    if model.list.is_typing {
        let mut line =
            Line::from(vec![Span::styled("Search: ", STRONG), Span::raw(printable(&model.list.search).into_owned())]);
        line.push_span(Span::styled("█   ", FAINT));
        line.extend(keys_of(model));
        return line;
    }
    keys_of(model).into()
}

fn keys_of(model: &Model) -> Vec<Span<'static>> {
    let key = |&(key, does): &(&'static str, &'static str)| {
        [Span::styled(key, STRONG), Span::styled(format!(" {does}   "), FAINT)]
    };
    keys::shown(model).iter().flat_map(key).collect()
}

/// Before the first answer.
fn nothing_yet(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let text = match &model.link {
        Link::Lost { .. } => "There is no answer yet. Is snigate running?",
        Link::Waiting | Link::Up => "Waiting for the first answer…",
    };
    frame.render_widget(Paragraph::new(text), area);
}

/// The style of a pool's or a backend's state.
fn state_style(state: &str) -> Style {
    match state {
        "up" => GOOD,
        "failing" | "down" => BAD,
        "" | "empty" => FAINT,
        _ => WARN,
    }
}

/// A cell of a table, with text from outside.
fn cell(text: &str) -> Span<'static> {
    Span::raw(printable(text).into_owned())
}

/// Lines of a message.
const MOST_SAID: usize = 6;
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

#[cfg(test)]
mod tests;
