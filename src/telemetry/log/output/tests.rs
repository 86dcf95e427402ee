use std::fs::{self, OpenOptions};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Instant, SystemTime};

use super::super::format::Form;
use super::super::keys::Key;
use super::super::record::{Entry, Kind, Severity};
use super::*;
use crate::settings::Shown;

const DEADLINE: Duration = Duration::from_secs(20);
const STYLE: Style =
    Style { form: Form::Logfmt, names: Shown::Clear, inner_names: Shown::Clear, clients: Shown::Clear };
const QUEUE_BYTES: usize = 8 << 20;

struct Test {
    output: Arc<Output>,
    lost: Arc<AtomicU64>,
}

impl Test {
    fn start(sink: Sink) -> Self {
        let lost = Arc::<AtomicU64>::default();
        Self { output: Output::start(sink, STYLE, Formatter::default(), Arc::clone(&lost)), lost }
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A line that ends with ` msg=TEXT`.
    fn line(&self, text: &str) {
        self.output.push(&record(text));
    }
}

fn record(text: &str) -> Vec<u8> {
    let mut record = Vec::new();
    let mut entry = Entry::new(&mut record, SystemTime::now(), Severity::Info, Kind::Message);
    entry.text(Key::Msg, text);
    entry.finish();
    record
}

/// A stdout that does with each write what the test says next, and takes everything once the test says no more.
fn output() -> (Test, Sender<io::Result<usize>>, Receiver<Vec<u8>>) {
    let ((says, next), (sender, written)) = (channel(), channel());
    let write = move |bytes: &[u8]| {
        let count = next.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        sender.send(bytes[..count].to_vec()).map_err(io::Error::other)?;
        Ok(count)
    };
    (Test::start(Sink::Stdout(Box::new(write))), says, written)
}

fn messages(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| Some(line.split_once(" msg=")?.1)).collect()
}

#[test]
fn lines_are_written_in_order_whatever_a_write_takes() {
    let (test, says, written) = output();
    let answers = [Ok(1), Err(io::ErrorKind::Interrupted.into()), Err(io::ErrorKind::WouldBlock.into()), Ok(3)];
    answers.into_iter().for_each(|answer| says.send(answer).unwrap());
    drop(says);
    let lines: Vec<String> = (0..50_000).map(|number| number.to_string()).collect();
    lines.iter().for_each(|line| test.line(line));
    test.output.flush(DEADLINE);
    let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
    assert!(messages(&text) == lines);
    assert_eq!(test.lost(), 0);
}

#[test]
fn after_a_torn_line_the_next_begins_a_line_and_what_failed_is_counted() {
    let (test, says, written) = output();
    let full = || Err(io::ErrorKind::StorageFull.into());
    for (line, answers) in [
        ("one", vec![Ok(usize::MAX)]),
        ("two", vec![Ok(2), full()]),
        // The newline before it.
        ("three", vec![full()]),
        ("four", vec![Ok(1), full()]),
        ("five", vec![Ok(usize::MAX)]),
    ] {
        test.line(line);
        answers.into_iter().for_each(|answer| says.send(answer).unwrap());
        test.output.flush(DEADLINE);
    }
    drop(says);
    test.line("six");
    test.output.flush(DEADLINE);
    let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
    assert_eq!(messages(&text), ["one", "five", "six"]);
    assert_eq!(text.lines().nth(1), Some("ts"), "{text}");
    assert_eq!(test.lost(), 3);
}

#[test]
fn each_line_that_a_full_disk_refuses_is_counted() {
    let test = Test::start(Sink::Stdout(Box::new(|_| Err(io::ErrorKind::StorageFull.into()))));
    (0..40_000).for_each(|_| test.line("a line"));
    test.output.flush(DEADLINE);
    assert_eq!(test.lost(), 40_000);
}

#[test]
fn a_reader_that_stalls_costs_eight_mebibytes_and_blocks_nobody() {
    let (test, says, written) = output();
    let record = record(&"x".repeat(460));
    // Twice what fits, while the first write does not return.
    let lines = 2 * QUEUE_BYTES / record.len();
    (0..lines).for_each(|_| test.output.push(&record));
    let dropped = test.lost() as usize;
    let kept = (lines - dropped) * record.len();
    assert!((QUEUE_BYTES - record.len()..=QUEUE_BYTES).contains(&kept), "{kept} bytes are kept");

    let begun = Instant::now();
    test.output.flush(Duration::from_millis(50));
    assert!(begun.elapsed() < DEADLINE / 2, "the process ends all the same: {:?}", begun.elapsed());

    drop(says);
    test.output.flush(DEADLINE);
    assert_eq!(written.try_iter().flatten().filter(|byte| *byte == b'\n').count(), lines - dropped);
}

#[test]
fn a_file_that_was_moved_away_is_made_again_and_no_line_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("a.log"), directory.path().join("a.log.1"));
    let test = Test::start(Sink::File(LogFile::open(&path).unwrap()));
    test.line("one");
    test.output.flush(DEADLINE);
    fs::rename(&path, &moved).unwrap();
    test.line("two");
    test.output.flush(DEADLINE);
    test.output.reopen();
    test.output.flush(DEADLINE);
    test.line("three");
    test.output.flush(DEADLINE);
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    assert_eq!((messages(&read(&moved)), messages(&read(&path))), (vec!["one", "two"], vec!["three"]));

    // What cannot be opened does not end what is open.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let held = OpenOptions::new().read(true).open(&moved).unwrap();
    test.output.switch(LogFile::open(&moved).unwrap());
    test.output.flush(DEADLINE);
    fs::remove_file(&moved).unwrap();
    fs::create_dir(&moved).unwrap();
    test.output.reopen();
    test.line("four");
    test.output.flush(DEADLINE);
    assert_eq!(messages(&io::read_to_string(held).unwrap()), ["one", "two", "four"]);
    assert_eq!(test.lost(), 0);
    test.output.end();
}
