use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A stdout that does with each write what the test says next, and takes everything once the test says no more.
fn output() -> (Arc<Queue>, Sender<io::Result<usize>>, Receiver<Vec<u8>>) {
    let ((says, next), (sender, written)) = (channel(), channel());
    let queue = Queue::start(move |bytes| {
        let count = next.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        sender.send(bytes[..count].to_vec()).map_err(io::Error::other)?;
        Ok(count)
    });
    (queue, says, written)
}

fn text(written: &Receiver<Vec<u8>>) -> String {
    String::from_utf8(written.try_iter().flatten().collect()).unwrap()
}

#[test]
fn lines_are_written_in_order_whatever_a_write_takes() {
    let (queue, says, written) = output();
    let answers = [Ok(1), Err(io::ErrorKind::Interrupted.into()), Err(io::ErrorKind::WouldBlock.into()), Ok(3)];
    answers.into_iter().for_each(|answer| says.send(answer).unwrap());
    drop(says);
    let lines: Vec<String> = (0..50_000).map(|number| format!("{number}\n")).collect();
    lines.iter().for_each(|line| queue.push(line.as_bytes()));
    queue.flush(DEADLINE);
    assert!(text(&written) == lines.concat());
    assert_eq!(queue.dropped_lines(), 0);
}

#[test]
fn after_a_torn_line_the_next_begins_a_line_and_what_failed_is_counted() {
    let (queue, says, written) = output();
    let full = || Err(io::ErrorKind::StorageFull.into());
    for (line, answers) in [
        ("one\n", vec![Ok(4)]),
        ("two\n", vec![Ok(2), full()]),
        // The newline before it.
        ("three\n", vec![full()]),
        ("four\n", vec![Ok(1), full()]),
        ("five\n", vec![Ok(5)]),
    ] {
        queue.push(line.as_bytes());
        answers.into_iter().for_each(|answer| says.send(answer).unwrap());
        queue.flush(DEADLINE);
    }
    drop(says);
    queue.push(b"six\n");
    queue.flush(DEADLINE);
    assert_eq!(text(&written), "one\ntw\nfive\nsix\n");
    assert_eq!(queue.dropped_lines(), 3);
}

#[test]
fn each_line_that_a_full_disk_refuses_is_counted() {
    let queue = Queue::start(|_| Err(io::ErrorKind::StorageFull.into()));
    (0..40_000).for_each(|_| queue.push(b"a line of twenty byt\n"));
    queue.flush(DEADLINE);
    assert_eq!(queue.dropped_lines(), 40_000);
    assert!(queue.waiting().lines.capacity() <= CHUNK_BYTES, "the memory of the burst is given back");
}

#[test]
fn a_reader_that_stalls_costs_eight_mebibytes_and_blocks_nobody() {
    let (queue, says, written) = output();
    let line = [&[b'x'; 499][..], b"\n"].concat();
    // Twice what fits, while the first write does not return.
    let lines = 2 * QUEUE_BYTES / line.len();
    (0..lines).for_each(|_| queue.push(&line));
    let dropped = queue.dropped_lines() as usize;
    let kept = (lines - dropped) * line.len();
    assert!(
        (QUEUE_BYTES - line.len()..=QUEUE_BYTES + CHUNK_BYTES + line.len()).contains(&kept),
        "{kept} bytes are kept"
    );
    assert!(queue.waiting().lines.capacity() <= QUEUE_BYTES);

    let begun = Instant::now();
    queue.flush(Duration::from_millis(50));
    assert!(begun.elapsed() < DEADLINE / 2, "the process ends all the same: {:?}", begun.elapsed());

    drop(says);
    queue.flush(DEADLINE);
    assert_eq!(written.try_iter().flatten().filter(|byte| *byte == b'\n').count(), lines - dropped);
}
