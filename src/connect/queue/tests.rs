use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::settings::{self, BackendAddress, Queue, Span, Word};
use crate::socket;
use crate::telemetry::Metrics;

const REQUEST: PickRequest<'static> =
    PickRequest { client: IpAddr::V4(Ipv4Addr::LOCALHOST), server_name: None, is_inner: false };

fn settings(size: u32, places: &[usize]) -> settings::Pool {
    let backend = |(port, places): (u16, &usize)| settings::Backend {
        address: BackendAddress::read(&format!("127.0.0.1:{port}")).expect("an address"),
        weight: 1,
        backup: false,
        max_connections: (*places).into(),
    };
    settings::Pool {
        name: "p".into(),
        backends: (1..).zip(places).map(backend).collect(),
        queue: Queue { size, timeout: Span::from_secs(30) },
        ..settings::Pool::default()
    }
}

/// A pool whose backends have so many places each.
fn pool(size: u32, places: &[usize]) -> Arc<Pool> {
    Arc::new(Pool::new(settings(size, places), &Metrics::new(), None))
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let connect = TcpStream::connect(listener.local_addr().expect("bound"));
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    (connected.expect("connects"), accepted.expect("accepts").0)
}

fn take(pool: &Pool) -> Option<Lease> {
    pool.picks(REQUEST).next(Instant::now())
}

/// A client that waits on this thread; its far end, and what becomes of it.
async fn waiting(pool: &Arc<Pool>, said: Said) -> (TcpStream, tokio::task::JoinHandle<Result<Place, ConnectError>>) {
    let (far, near) = tcp_pair().await;
    let before = pool.waiting();
    let pool_of_it = Arc::clone(pool);
    let task = spawn_local(async move { wait(&pool_of_it, REQUEST, &near, said).await });
    while pool.waiting() == before && !task.is_finished() {
        yield_now().await;
    }
    (far, task)
}

#[tokio::test(flavor = "local")]
async fn places_go_to_those_who_wait_in_the_order_in_which_they_came() {
    let pool = pool(20, &[1, 1]);
    let mut held: Vec<Lease> = std::iter::from_fn(|| take(&pool)).collect();
    assert_eq!(held.len(), 2);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(waiting(&pool, Said::HelloAlone).await);
    }
    assert!(matches!(waiting(&pool, Said::HelloAlone).await.1.await, Ok(Err(ConnectError::QueueFull { size: 20 }))));
    for left in (0..20).rev() {
        drop(held.remove(0));
        let (_far, first) = clients.remove(0);
        held.push(first.await.expect("no panic").expect("a place").lease);
        assert_eq!(pool.waiting(), left);
        assert!(clients.iter().all(|(_, task)| !task.is_finished()));
    }
}

/// Whoever gave it back saw nobody waiting.
#[tokio::test(flavor = "local")]
async fn a_place_that_became_free_before_the_client_joined_is_found() {
    let pool = pool(1, &[1]);
    drop(take(&pool));
    let (_far, client) = waiting(&pool, Said::HelloAlone).await;
    let place = timeout(Duration::from_secs(10), client).await.expect("at once").expect("no panic");
    assert!(place.is_ok());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_wait_ends_at_the_timeout_of_the_queue() {
    let pool = pool(2, &[1]);
    let _held = take(&pool);
    let (_far, client) = waiting(&pool, Said::HelloAlone).await;
    let ended = client.await.expect("no panic").expect_err("no place");
    assert!(matches!(ended, ConnectError::QueueTimeout { after } if after >= Duration::from_secs(30)), "{ended:?}");
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_leaves_is_noticed_also_behind_bytes_that_nobody_reads() {
    let pool = pool(1, &[1]);
    let _held = take(&pool);
    for (bytes, resets) in [(0, false), (0, true), (10, false), (10, true)] {
        let (mut far, client) = waiting(&pool, Said::HelloAlone).await;
        far.write_all(&[7; 10][..bytes]).await.expect("written");
        yield_now().await;
        if resets {
            socket::reset_on_drop(&far);
        }
        drop(far);
        let ended = client.await.expect("no panic").expect_err("it is gone");
        assert_eq!(matches!(ended, ConnectError::ClientGone(_)), resets, "{bytes} bytes: {ended:?}");
        assert_eq!(matches!(ended, ConnectError::ClientLeft), !resets, "{bytes} bytes: {ended:?}");
        assert_eq!(pool.waiting(), 0);
    }
}

/// Such as an HTTP client that has sent all of its request.
#[tokio::test(flavor = "local")]
async fn a_client_that_may_have_said_everything_may_close_its_side() {
    let pool = pool(1, &[1]);
    let held = take(&pool);
    let (mut far, client) = waiting(&pool, Said::More).await;
    far.shutdown().await.expect("FIN");
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!client.is_finished());
    drop(held);
    assert!(client.await.expect("no panic").is_ok());
    let _held = take(&pool);
    let (far, client) = waiting(&pool, Said::More).await;
    socket::reset_on_drop(&far);
    drop(far);
    assert!(matches!(client.await.expect("no panic"), Err(ConnectError::ClientGone(_) | ConnectError::ClientLeft)));
}

#[tokio::test(flavor = "local")]
async fn a_reload_that_adds_places_calls_all_that_fit_and_one_that_ends_the_queue_all() {
    let before = pool(9, &[1]);
    let _held = take(&before);
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(waiting(&before, Said::HelloAlone).await);
    }
    let more = Arc::new(Pool::new(settings(9, &[3, 1]), &Metrics::new(), Some(&before)));
    more.queue.is_now_of(&more);
    let mut places = Vec::new();
    for (_far, client) in clients.drain(..3) {
        let place = client.await.expect("no panic").expect("a place");
        assert!(Arc::ptr_eq(&place.pool, &more));
        places.push(place.lease);
    }
    assert_eq!((more.waiting(), take(&more).is_none()), (3, true));
    let none = Arc::new(Pool::new(settings(0, &[3, 1]), &Metrics::new(), Some(&more)));
    none.queue.is_now_of(&none);
    for (_far, client) in clients {
        assert!(matches!(client.await.expect("no panic"), Err(ConnectError::Full)));
    }
    assert_eq!(none.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn nobody_waits_for_backends_that_cannot_be_used_any_more() {
    let pool = pool(9, &[1]);
    let _held = take(&pool);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(waiting(&pool, Said::HelloAlone).await);
    }
    let backend = pool.list().remove(0).backend;
    backend.standing.set_operator(crate::pool::Operator::Drain, Instant::now());
    pool.call_waiting(Instant::now());
    for (_far, client) in clients {
        assert!(matches!(client.await.expect("no panic"), Err(ConnectError::NoBackend)));
    }
}

/// A property of any order of events: nobody who stays waits for ever, and no backend has more than it may. Nothing
/// calls but places that become free, so that one lost call would hang the test.
#[test]
fn no_call_is_lost_however_many_come_and_leave_on_however_many_workers() {
    let pool = pool(100_000, &[2, 1]);
    let (in_use, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let worker = |number: u64| {
        let (pool, in_use, served) = (Arc::clone(&pool), Arc::clone(&in_use), Arc::clone(&served));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let clients = (0..CLIENTS).map(|client| {
                    let (pool, in_use, served) = (Arc::clone(&pool), Arc::clone(&in_use), Arc::clone(&served));
                    spawn_local(client_that_comes_and_goes(pool, in_use, served, number * 1000 + client))
                });
                for client in clients.collect::<Vec<_>>() {
                    timeout(Duration::from_secs(60), client).await.expect("no call is lost").expect("no panic");
                }
            });
        }
    };
    let workers: Vec<_> = (0..WORKERS).map(|number| std::thread::spawn(worker(number))).collect();
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    assert_eq!((pool.waiting(), in_use.load(SeqCst)), (0, 0));
    assert!(pool.list().iter().all(|member| member.backend.active() == 0));
    assert!(served.load(SeqCst) as u64 >= WORKERS * CLIENTS * ROUNDS / 2, "most stay");
}

async fn client_that_comes_and_goes(pool: Arc<Pool>, in_use: Arc<AtomicUsize>, served: Arc<AtomicUsize>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (_far, near) = tcp_pair().await;
    for _ in 0..ROUNDS {
        let at_once = if pool.waiting() == 0 { take(&pool) } else { None };
        let patience = if random.u8(..) < 64 { random.usize(..20) } else { usize::MAX };
        let lease = match at_once {
            Some(lease) => lease,
            None => {
                let impatient = async {
                    for _ in 0..patience {
                        yield_now().await;
                    }
                };
                tokio::select! {
                    place = wait(&pool, REQUEST, &near, Said::HelloAlone) => place.expect("a place").lease,
                    () = impatient, if patience < usize::MAX => continue,
                }
            }
        };
        assert!(in_use.fetch_add(1, SeqCst) < 3, "more than there are places");
        for _ in 0..random.usize(..5) {
            yield_now().await;
        }
        served.fetch_add(1, SeqCst);
        in_use.fetch_sub(1, SeqCst);
        drop(lease);
    }
}

const WORKERS: u64 = 4;
const CLIENTS: u64 = 50;
const ROUNDS: u64 = 40;
