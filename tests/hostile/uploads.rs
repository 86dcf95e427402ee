//! Uploads beside neighbours that stall: the backend compares every byte with what the client meant to send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello, noise};
use crate::dice::Dice;
use crate::harness::{DEADLINE, Lb};
use crate::namespace;
use crate::trial::{Trial, soak_minutes, soaking};
use crate::wire::{fill, reset, send};

/// `SNIGATE_SOAK=1` uploads for ten minutes, from 64 clients; `SNIGATE_SEED` repeats one run's choices.
#[test]
fn uploads_arrive_whole_beside_stalled_neighbours() {
    namespace::run_test("true", "uploads::beside_stalled_neighbours");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn beside_stalled_neighbours() {
    let clients = if soaking() { 64 } else { 8 };
    let (seed, length) = (Dice::seed(), soak_minutes(10));
    let wrong: Arc<OnceLock<String>> = Arc::default();
    let (bytes, uploads) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let verifying = {
        let (wrong, bytes) = (Arc::clone(&wrong), Arc::clone(&bytes));
        Backend::that(move |stream| match Upload::verify(stream) {
            Ok(verified) => drop(bytes.fetch_add(verified, Ordering::Relaxed)),
            Err(why) => drop(wrong.set(why)),
        })
    };
    // Sends until nobody takes more, and reads nothing meanwhile.
    let stalling = Backend::that(|stream| {
        fill(&stream);
        let _ = stream.set_read_timeout(Some(4 * DEADLINE));
        let _ = (&stream).read(&mut [0; 1]);
        reset(stream);
    });
    let lb = Lb::new().route("up.test", &verifying).route("stall.test", &stalling);
    let lb = Trial::of(lb.with("log: { connections: off }"));
    let started = Instant::now();
    let goes_on = || started.elapsed() < length && wrong.get().is_none();
    thread::scope(|scope| {
        for number in 0..clients {
            let (mut dice, address, uploads, wrong) = (Dice::new(seed, number), lb.address(), &uploads, &wrong);
            scope.spawn(move || {
                while goes_on() {
                    match Upload::choose(&mut dice).send(address) {
                        Ok(()) => drop(uploads.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => drop(wrong.set(why)),
                    }
                }
            });
        }
        for number in 0..clients / 4 {
            let (mut dice, address) = (Dice::new(seed, clients + number), lb.address());
            scope.spawn(move || {
                while goes_on() {
                    stall(address, &mut dice);
                }
            });
        }
    });
    assert_eq!(wrong.get(), None, "SNIGATE_SEED={seed}");
    let (uploads, bytes) = (uploads.into_inner(), bytes.load(Ordering::Relaxed));
    println!("SNIGATE_SEED={seed}: {uploads} uploads, {bytes} bytes, none wrong");
    assert!(uploads >= clients, "{uploads} uploads");
    assert_eq!(lb.closed("panic"), 0.0);
    lb.end();
}

/// A few neighbours that neither read nor are read from; then they go, each in its own way.
fn stall(address: SocketAddr, dice: &mut Dice) {
    let crowd: Vec<TcpStream> = (0..4).map(|_| send(address, &hello("stall.test"))).collect();
    for client in &crowd {
        fill(client);
    }
    for client in crowd {
        if dice.of(2) == 0 { reset(client) } else { drop(client) }
    }
}

/// What one client sends behind its hello: its own start and length, and so many bytes of the pattern from there.
struct Upload {
    start: usize,
    bytes: usize,
    /// The largest single write.
    write: usize,
}

impl Upload {
    fn choose(dice: &mut Dice) -> Self {
        let most_bytes = [20_000, 300_000, 8 << 20][dice.of(3)];
        let most_a_write = [2_000, 70_000, 1 << 20][dice.of(3)];
        Self { start: dice.of(PERIOD), bytes: dice.of(most_bytes), write: 100 + dice.of(most_a_write) }
    }

    fn send(&self, address: SocketAddr) -> Result<(), String> {
        let mut client = send(address, &hello("up.test"));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        let head = [self.start.to_be_bytes(), self.bytes.to_be_bytes()].concat();
        let mut write = |bytes: &[u8]| client.write_all(bytes).map_err(|error| format!("{self}: not sent: {error}"));
        write(&head)?;
        let (mut at, end) = (self.start, self.start + self.bytes);
        while at < end {
            let piece = pattern(at, self.write.min(end - at));
            write(piece)?;
            at += piece.len();
        }
        client.shutdown(Shutdown::Write).map_err(|error| format!("{self}: no FIN: {error}"))?;
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer);
        let expected = [SERVER_HELLO, &head].concat();
        if answer == expected { Ok(()) } else { Err(format!("{self}: answered {} bytes, {end:?}", answer.len())) }
    }

    /// Reads a hello and an upload, and repeats the head of the upload if every byte is right.
    ///
    /// # Errors
    /// The first byte that is not, or how the connection ended before.
    fn verify(mut stream: TcpStream) -> Result<u64, String> {
        let mut first = vec![0; hello("up.test").len()];
        let mut head = [0; 16];
        let failed = |error| format!("a backend could not read: {error}");
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.read_exact(&mut first).map_err(failed)?;
        if first != hello("up.test") {
            return Err("a hello came changed".to_owned());
        }
        stream.write_all(SERVER_HELLO).map_err(failed)?;
        stream.read_exact(&mut head).map_err(failed)?;
        let [start, bytes] = [&head[..8], &head[8..]].map(|word| usize::from_be_bytes(word.try_into().unwrap()));
        let (upload, mut at) = (Self { start, bytes, write: 0 }, start);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer).map_err(|error| format!("{upload}: after {}: {error}", at - start))? {
                0 => break,
                got => at = upload.compare(at, &buffer[..got])?,
            }
        }
        if at != start + bytes {
            return Err(format!("{upload}: FIN after {} bytes", at - start));
        }
        stream.write_all(&head).map_err(failed)?;
        Ok(bytes as u64)
    }

    fn compare(&self, mut at: usize, mut came: &[u8]) -> Result<usize, String> {
        while !came.is_empty() {
            let expected = pattern(at, came.len());
            let (now, later) = came.split_at(expected.len());
            if now != expected {
                let offset = now.iter().zip(expected).position(|(came, expected)| came != expected);
                let offset = at + offset.unwrap_or_default() - self.start;
                return Err(format!("{self}: byte {offset} is wrong"));
            }
            (at, came) = (at + expected.len(), later);
        }
        Ok(at)
    }
}

impl std::fmt::Display for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "upload of {} bytes from {}", self.bytes, self.start)
    }
}

/// At most `most` bytes of an endless pattern, from `at`.
fn pattern(at: usize, most: usize) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| noise(PERIOD));
    let from = at % PERIOD;
    &pattern[from..PERIOD.min(from + most)]
}

/// 64 uploads at a time on a busy machine take turns.
const PATIENCE: Duration = Duration::from_secs(120);
/// A prime, so that a block of any power of two that is lost, doubled or moved does not go unseen.
const PERIOD: usize = 1_048_573;
