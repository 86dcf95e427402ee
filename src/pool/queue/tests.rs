use std::sync::atomic::AtomicU32;
use std::task::Wake;

use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn is_called(client: &InLine, by: &Arc<Woken>) -> bool {
    client.poll_called(&Context::from_waker(&Waker::from(Arc::clone(by)))).is_ready()
}

fn line(length: usize) -> (Arc<WaitQueue>, Vec<InLine>, Vec<Arc<Woken>>) {
    let queue = Arc::new(WaitQueue::default());
    let clients: Vec<InLine> = (0..length).map(|_| queue.join(length).expect("room")).collect();
    let wakers: Vec<Arc<Woken>> = clients.iter().map(|_| Arc::default()).collect();
    assert!(clients.iter().zip(&wakers).all(|(client, waker)| !is_called(client, waker)));
    (queue, clients, wakers)
}

fn woken(wakers: &[Arc<Woken>]) -> Vec<u32> {
    wakers.iter().map(|waker| waker.0.load(SeqCst)).collect()
}

#[test]
fn each_call_wakes_the_first_that_was_not_called_and_nobody_else() {
    let (queue, clients, wakers) = line(3);
    assert!(queue.join(3).is_none(), "it is full");
    queue.call_first();
    assert_eq!(woken(&wakers), [1, 0, 0]);
    queue.call_first();
    assert_eq!(woken(&wakers), [1, 1, 0]);
    let called: Vec<bool> = clients.iter().zip(&wakers).map(|(client, waker)| is_called(client, waker)).collect();
    assert_eq!((called, queue.length()), (vec![true, true, false], 3));
}

#[test]
fn a_client_that_goes_back_keeps_its_place() {
    let (queue, clients, wakers) = line(2);
    queue.call_first();
    clients[0].goes_back();
    assert!(!is_called(&clients[0], &wakers[0]));
    queue.call_first();
    assert_eq!(woken(&wakers), [2, 0]);
}

#[test]
fn a_client_that_leaves_after_its_call_passes_it_on() {
    let (queue, mut clients, wakers) = line(4);
    queue.call_first();
    drop(clients.remove(0));
    assert_eq!((woken(&wakers), queue.length()), (vec![1, 1, 0, 0], 3));
    // One that was not called has nothing to pass on.
    drop(clients.remove(1));
    assert_eq!((woken(&wakers), queue.length()), (vec![1, 1, 0, 0], 2));
    // Nor has one that got its place.
    clients.remove(0).served();
    assert_eq!((woken(&wakers), queue.length()), (vec![1, 1, 0, 0], 1));
    queue.call_first();
    assert_eq!(woken(&wakers), [1, 1, 0, 1]);
}
