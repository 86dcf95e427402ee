//! Follows what a child process prints, line by line.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The lines of one stream so far; a thread reads on. A line that is no JSON stands as a string.
pub struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    so_far: Mutex<SoFar>,
    more: Condvar,
}

#[derive(Default)]
struct SoFar {
    lines: Vec<Value>,
    ended: bool,
}

impl Lines {
    pub fn follow(stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                reader.so_far.lock().unwrap().lines.push(line);
                reader.more.notify_all();
            }
            reader.so_far.lock().unwrap().ended = true;
            reader.more.notify_all();
        });
        Self(shared)
    }

    pub fn all(&self) -> Vec<Value> {
        self.0.so_far.lock().unwrap().lines.clone()
    }

    pub fn len(&self) -> usize {
        self.0.so_far.lock().unwrap().lines.len()
    }

    /// The first line after `seen` others that `wanted` takes; `None` at the deadline or when the stream ended.
    pub fn wait_for(&self, seen: usize, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + timeout;
        let mut so_far = self.0.so_far.lock().unwrap();
        let mut looked_at = seen;
        loop {
            while let Some(line) = so_far.lines.get(looked_at) {
                if wanted(line) {
                    return Some(line.clone());
                }
                looked_at += 1;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if so_far.ended {
                return None;
            }
            so_far = self.0.more.wait_timeout(so_far, left).unwrap().0;
        }
    }
}

impl Lines {
    /// Whether whoever wrote has closed the stream.
    pub fn have_ended(&self) -> bool {
        self.0.so_far.lock().unwrap().ended
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().iter().try_for_each(|line| match line {
            Value::String(text) => writeln!(f, "{text}"),
            line => writeln!(f, "{line}"),
        })
    }
}
