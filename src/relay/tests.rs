use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Default)]
struct Count {
    bytes: [AtomicU64; 2],
    spliced: AtomicU64,
    heard_backend: AtomicBool,
    began: OnceLock<Instant>,
}

impl Meter for Arc<Count> {
    fn began(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    fn carried(&mut self, way: Way, bytes: u64) {
        self.bytes[way as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    fn spliced(&mut self, _: Way, bytes: u64) {
        self.spliced.fetch_add(bytes, Ordering::Relaxed);
    }

    fn first_bytes(&mut self, bytes: &[u8]) -> Heard {
        assert!(!bytes.is_empty());
        assert!(!self.heard_backend.swap(true, Ordering::Relaxed), "there is one first byte");
        Heard::Yes
    }

    fn half_closed(&mut self, _: Way) {}

    fn ended(&mut self, _: End) {}
}

fn settings(engine: Engine) -> Settings {
    let tcp = Tcp::default();
    Settings { idle: Duration::from_secs(3600), half_closed: Duration::from_secs(60), max_age: None, engine, tcp }
}

fn lifetime(settings: &Settings) -> Lifetime {
    Lifetime { idle: settings.idle, max_age: settings.max_age }
}

const ENGINES: [Engine; 2] = [Engine::Copy, Engine::Adaptive { pipe_bytes: 1 << 20 }];

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let connect = TcpStream::connect(listener.local_addr().expect("bound"));
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    (connected.expect("connects"), accepted.expect("accepts").0)
}

struct Outcome {
    end: End,
    bytes: [u64; 2],
    spliced: u64,
    heard_backend: bool,
}

/// A client and a backend with a relay between them, and the relay's result once it ends.
async fn relayed(
    settings: Settings,
    prefix: &'static [u8],
) -> (TcpStream, TcpStream, tokio::task::JoinHandle<Outcome>) {
    let (client, near_client) = tcp_pair().await;
    let (near_backend, backend) = tcp_pair().await;
    let relay = tokio::spawn(async move {
        let count = Arc::new(Count::default());
        let opening = Opening { to_backend: Prefix::new(prefix.to_vec()), ..Opening::default() };
        let lifetime = lifetime(&settings);
        let end =
            Relay::new(near_client, near_backend, opening, Arc::new(settings), lifetime, Arc::clone(&count)).await;
        Outcome {
            end,
            bytes: [0, 1].map(|way: usize| count.bytes[way].load(Ordering::Relaxed)),
            spliced: count.spliced.load(Ordering::Relaxed),
            heard_backend: count.heard_backend.load(Ordering::Relaxed),
        }
    });
    (client, backend, relay)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from(i * 31 % 251).expect("below 251")).collect()
}

#[tokio::test]
async fn the_prefix_goes_first_and_half_close_is_passed_on() {
    for engine in ENGINES {
        let (mut client, mut backend, relay) = relayed(settings(engine), b"hello ").await;
        client.write_all(b"world").await.expect("written");
        client.shutdown().await.expect("FIN");
        let mut got = Vec::new();
        backend.read_to_end(&mut got).await.expect("read");
        assert_eq!(got, b"hello world");
        let late = pattern(1 << 20);
        backend.write_all(&late).await.expect("written");
        drop(backend);
        got.clear();
        client.read_to_end(&mut got).await.expect("read");
        assert!(got == late);
        let outcome = relay.await.expect("no panic");
        assert_eq!(outcome.end, End::Finished);
        assert_eq!(outcome.bytes, [11, 1 << 20]);
        assert!(outcome.heard_backend);
    }
}

#[tokio::test]
async fn bulk_both_ways_arrives_whole_and_is_spliced() {
    for engine in ENGINES {
        let (client, backend, relay) = relayed(settings(engine), b"").await;
        let data = pattern(20 << 20);
        let exchange = async |stream: TcpStream| {
            let (mut read, mut write) = stream.into_split();
            let mut got = Vec::new();
            let send = async {
                write.write_all(&data).await.expect("written");
                write.shutdown().await.expect("FIN");
            };
            let (_, received) = tokio::join!(send, read.read_to_end(&mut got));
            received.expect("read");
            assert!(got == data);
        };
        tokio::join!(exchange(client), exchange(backend));
        let outcome = relay.await.expect("no panic");
        assert_eq!((outcome.end, outcome.bytes), (End::Finished, [20 << 20; 2]));
        assert_eq!(outcome.spliced > 0, engine != Engine::Copy);
    }
}

#[tokio::test]
async fn a_stalled_reader_loses_nothing() {
    for engine in ENGINES {
        let (mut client, mut backend, relay) = relayed(settings(engine), b"").await;
        let data = pattern(8 << 20);
        let sent = data.clone();
        let sender = tokio::spawn(async move {
            backend.write_all(&sent).await.expect("written");
            drop(backend);
        });
        // Nothing is read until the sender is blocked: the relay must wait, not buffer.
        while client.ready(Interest::READABLE).await.is_err() {}
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("read");
        assert!(got == data);
        sender.await.expect("no panic");
        drop(client);
        assert_eq!(relay.await.expect("no panic").end, End::Finished);
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_after_what_was_read() {
    for engine in ENGINES {
        for from_backend in [true, false] {
            let (client, backend, relay) = relayed(settings(engine), b"").await;
            let (mut resetting, mut other) = if from_backend { (backend, client) } else { (client, backend) };
            resetting.write_all(b"last words").await.expect("written");
            let mut got = [0; 10];
            other.read_exact(&mut got).await.expect("what came before the reset");
            socket::reset_on_drop(&resetting);
            drop(resetting);
            let error = other.read(&mut got).await.expect_err("a reset, not a FIN");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let outcome = relay.await.expect("no panic");
            assert_eq!(outcome.end, if from_backend { End::BackendReset } else { End::ClientReset });
            assert_eq!(outcome.bytes.iter().sum::<u64>(), 10);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_relay_at_the_idle_timeout() {
    let started = Instant::now();
    let (mut client, _backend, relay) = relayed(settings(Engine::Copy), b"").await;
    assert_eq!(relay.await.expect("no panic").end, End::IdleTimeout);
    assert!(started.elapsed() >= Duration::from_secs(3600));
    assert!(client.read(&mut [0; 1]).await.is_err(), "a reset");
}

/// Bytes do not make it younger; neither does a FIN, and it need not be idle first.
#[tokio::test(start_paused = true)]
async fn a_relay_ends_at_its_age_more_or_less_a_tenth() {
    for half_closes in [false, true] {
        let mut ages = Vec::new();
        for engine in ENGINES.into_iter().cycle().take(20) {
            let started = Instant::now();
            let settings = Settings {
                max_age: Some(Duration::from_secs(7200)),
                half_closed: Duration::from_secs(7000),
                ..settings(engine)
            };
            let (mut client, mut backend, relay) = relayed(settings, b"").await;
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_secs(3000)).await;
                client.write_all(b"x").await.expect("written");
                backend.read_exact(&mut [0; 1]).await.expect("read");
            }
            if half_closes {
                client.shutdown().await.expect("FIN");
            }
            assert_eq!(relay.await.expect("no panic").end, End::MaxAge);
            assert!(client.read(&mut [0; 1]).await.is_err(), "a reset");
            ages.push(started.elapsed().as_secs_f64() / 7200.0);
        }
        assert!(ages.iter().all(|age| (0.9..1.101).contains(age)), "{ages:?}");
        ages.sort_by(f64::total_cmp);
        assert!(ages[19] - ages[0] > 0.05, "they are spread: {ages:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_after_one_fin_ends_a_relay_sooner() {
    let started = Instant::now();
    let (mut client, mut backend, relay) = relayed(settings(Engine::Copy), b"").await;
    client.shutdown().await.expect("FIN");
    assert_eq!(backend.read(&mut [0; 1]).await.expect("FIN"), 0);
    assert_eq!(relay.await.expect("no panic").end, End::HalfCloseTimeout);
    let elapsed = started.elapsed();
    assert!((60..120).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test]
async fn a_dropped_relay_resets_both_sides() {
    let (mut client, mut backend, relay) = relayed(settings(ENGINES[1]), b"x").await;
    backend.read_exact(&mut [0; 1]).await.expect("read");
    relay.abort();
    assert!(client.read(&mut [0; 1]).await.is_err());
    assert!(backend.read(&mut [0; 1]).await.is_err());
}

#[tokio::test]
async fn a_backend_that_resets_with_unread_bytes_is_heard_out() {
    for engine in ENGINES {
        let (mut client, mut backend, relay) = relayed(settings(engine), b"").await;
        backend.write_all(b"go away").await.expect("written");
        client.write_all(b"unread").await.expect("written");
        assert_eq!(backend.peek(&mut [0; 6]).await.expect("there"), 6);
        // Dropped with unread bytes: the kernel sends RST.
        drop(backend);
        let mut got = Vec::new();
        let result = client.read_to_end(&mut got).await;
        assert_eq!((got.as_slice(), result.is_err()), (&b"go away"[..], true));
        assert_eq!(relay.await.expect("no panic").end, End::BackendReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_after_the_fin_is_noticed() {
    for engine in ENGINES {
        let (mut client, mut backend, relay) = relayed(settings(engine), b"").await;
        backend.write_all(b"bye").await.expect("written");
        drop(backend);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("a clean end so far");
        assert_eq!(got, b"bye");
        // The socket is already closed: the kernel answers with RST.
        client.write_all(b"too late").await.expect("written");
        let started = Instant::now();
        assert_eq!(relay.await.expect("no panic").end, End::BackendReset);
        assert!(started.elapsed() <= 2 * RESET_LOOK);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_once_both_sides_are_gone() {
    for engine in ENGINES {
        let (client, mut backend, relay) = relayed(settings(engine), b"hello").await;
        drop(client);
        let mut got = Vec::new();
        backend.read_to_end(&mut got).await.expect("hello, FIN");
        // The client's socket is already closed: its kernel answers with RST.
        backend.write_all(&[7; 24]).await.expect("written");
        socket::reset_on_drop(&backend);
        drop(backend);
        let started = Instant::now();
        relay.await.expect("no panic");
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn another_task_that_takes_over_is_woken_too() {
    let (mut client, near_client) = tcp_pair().await;
    let (near_backend, mut backend) = tcp_pair().await;
    let settings = Arc::new(settings(Engine::Copy));
    let lifetime = lifetime(&settings);
    let count = Arc::new(Count::default());
    let mut relay = Box::pin(Relay::new(near_client, near_backend, Opening::default(), settings, lifetime, count));
    // Twice: the second time, a wakeup is already registered for the first task.
    for _ in 0..2 {
        assert!(relay.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let relay = tokio::spawn(relay);
    tokio::task::yield_now().await;
    client.write_all(b"there").await.expect("written");
    let mut got = [0; 5];
    backend.read_exact(&mut got).await.expect("read");
    backend.write_all(b"back!").await.expect("written");
    client.read_exact(&mut got).await.expect("read");
    drop((client, backend));
    assert_eq!(relay.await.expect("no panic"), End::Finished);
}
