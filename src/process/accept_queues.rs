//! Reads the kernel's queues of clients that are connected and not accepted yet.
//!
//! In:  the listening sockets in use, after each change.
//! Out: for each listener, how many clients wait, how many may, and how many attempts the kernel has dropped.
//! Source: tcp(7), TCP_INFO; the kernel's `tcp_listendrop`, which counts in SO_MEMINFO of the socket.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::sys;
use crate::telemetry::AcceptQueueReading;

/// The queues of all listening sockets. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct AcceptQueues(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    sockets: Vec<Socket>,
    /// What sockets that are closed had dropped when they were last read.
    dropped_before: BTreeMap<Arc<str>, u64>,
}

struct Socket {
    listener: Arc<str>,
    /// Others decide how long it stays open.
    socket: Weak<TcpListener>,
    dropped: u32,
}

impl AcceptQueues {
    /// From now on, reads these sockets, each with the name of its listener.
    pub(crate) fn watch<'s>(&self, sockets: impl Iterator<Item = (&'s Arc<str>, &'s Arc<TcpListener>)>) {
        let mut watched = self.lock();
        let mut before = std::mem::take(&mut watched.sockets);
        for (listener, socket) in sockets {
            let known = before.iter().position(|known| known.socket.as_ptr() == Arc::as_ptr(socket));
            let dropped = known.map_or(0, |at| before.swap_remove(at).dropped);
            watched.sockets.push(Socket { listener: Arc::clone(listener), socket: Arc::downgrade(socket), dropped });
        }
        for gone in before {
            *watched.dropped_before.entry(gone.listener).or_default() += u64::from(gone.dropped);
        }
    }

    /// By the name of the listener; without those that the kernel tells nothing about.
    pub(crate) fn read(&self) -> BTreeMap<Arc<str>, AcceptQueueReading> {
        let mut watched = self.lock();
        let Watched { sockets, dropped_before } = &mut *watched;
        let mut queues: BTreeMap<Arc<str>, AcceptQueueReading> = BTreeMap::new();
        for Socket { listener, socket, dropped } in sockets {
            let Some(socket) = socket.upgrade() else { continue };
            let Some(queue) = sys::accept_queue(&*socket) else { continue };
            *dropped = queue.dropped;
            let of_listener = queues.entry(Arc::clone(listener)).or_insert_with(|| AcceptQueueReading {
                dropped: dropped_before.get(listener).copied().unwrap_or_default(),
                ..AcceptQueueReading::default()
            });
            of_listener.length += u64::from(queue.length);
            of_listener.limit += u64::from(queue.limit);
            of_listener.dropped += u64::from(queue.dropped);
        }
        queues
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn clients_wait_up_to_the_backlog_and_more_are_dropped() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(2).unwrap();
        let socket = Arc::new(TcpListener::from(socket));
        let (name, address) = (Arc::<str>::from("l"), socket.local_addr().unwrap());
        let queues = AcceptQueues::default();
        queues.watch([(&name, &socket)].into_iter());
        if queues.read().is_empty() {
            return println!("skipped: this kernel does not tell");
        }
        // The kernel lets in one more than the backlog.
        let held: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(queues.read()[&name], AcceptQueueReading { length: 3, limit: 2, dropped: 0 });

        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_err());
        let until = Instant::now() + Duration::from_secs(20);
        while queues.read()[&name].dropped == 0 {
            assert!(Instant::now() < until, "{:?}", queues.read());
            std::thread::yield_now();
        }
        drop((held, socket.accept().unwrap()));
        let before = queues.read()[&name];
        assert_eq!(before.length, 2);

        // What a closed socket has dropped stays in the sum.
        let other = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        queues.watch([(&name, &other)].into_iter());
        let after = queues.read()[&name];
        assert_eq!((after.length, after.dropped), (0, before.dropped));
    }
}
