//! `snigate top`: shows a running snigate live in a terminal.
//!
//! In:  the status, the history and the connections of the process; keys.
//! Out: a screen that is drawn again when something changed; changes that the operator has confirmed. The terminal is
//!      restored however the command ends.

mod action;
mod feed;
mod keys;
mod model;
mod view;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::feed::{Feed, Update};
use self::model::Model;
use super::Exit;
use super::remote::{Remote, Target};

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) target: Target,
}

/// Shows the process until a key or a signal ends it.
pub(super) fn run(options: &Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let remote = match Remote::find(&options.target.remote, file) {
        Ok(remote) => remote,
        Err(failure) => return failure.report(),
    };
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        eprintln!("snigate: `top` needs a terminal; `snigate status` prints the same once");
        return Exit::Usage.into();
    }
    match on_a_terminal(|terminal| show(remote, terminal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snigate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes over the terminal for `show`, and restores it, also if `show` panics.
///
/// # Errors
/// Those of the terminal, and of `show`.
pub fn on_a_terminal(show: impl FnOnce(&mut DefaultTerminal) -> io::Result<()>) -> io::Result<()> {
    // Its panic hook restores the terminal before the message is printed, so that it can be read.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal);
    terminal.show_cursor().and_then(|()| ratatui::try_restore()).and(shown)
}

fn show(remote: Remote, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let mut model = Model::new(remote.address().to_string());
    let (feed, updates) = Feed::start(remote)?;
    let mut drawn = None;
    while !model.is_over {
        // Ages grow without an update, too.
        if drawn.is_none_or(|at: Instant| at.elapsed() >= REDRAW) {
            terminal.draw(|frame| view::draw(frame, &model))?;
            drawn = Some(Instant::now());
        }
        if take_updates(&updates, &mut model)? | take_keys(&mut model)? {
            drawn = None;
            feed.ask(&model.wanted());
            if let Some(action) = model.confirmed.take() {
                feed.carry_out(action)?;
            }
        }
    }
    Ok(())
}

/// Waits a moment for keys; returns whether something changed.
fn take_keys(model: &mut Model) -> io::Result<bool> {
    let mut wait = TICK;
    let mut changed = false;
    while event::poll(wait)? {
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => keys::press(model, key),
            Event::Paste(text) => model.type_in(&text),
            _ => {}
        }
        (changed, wait) = (true, Duration::ZERO);
    }
    Ok(changed)
}

/// Takes what has arrived; returns whether something has.
fn take_updates(updates: &Receiver<Update>, model: &mut Model) -> io::Result<bool> {
    let mut changed = false;
    loop {
        match updates.try_recv() {
            Ok(update) => model.take(update, Instant::now()),
            Err(TryRecvError::Empty) => return Ok(changed),
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the thread that asks has ended")),
        }
        changed = true;
    }
}

/// How long keys may go unnoticed by an update, and the other way round.
const TICK: Duration = Duration::from_millis(50);
const REDRAW: Duration = Duration::from_secs(1);
