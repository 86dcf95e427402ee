//! Holds every connection of a run, the clients' and the backend's, in one epoll loop.
//!
//! In:  the target; calls that open clients of a kind.
//! Out: [`Counts`]: what the clients and the backend have seen so far.
//!
//! Made cheap, so that the proxy stays the bottleneck: bulk is sent from one static buffer and discarded unread by
//! the kernel (MSG_TRUNC, tcp(7)), sockets are registered once, level-triggered, and nothing is allocated a byte.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::arguments::{Flow, Target};

/// What a client does once its hello is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Closes.
    Short,
    /// Stays silent.
    Idle,
    Trips,
    Bulk(Flow),
}

/// What happened since the beginning. Bytes are counted where they arrive, hello and answer not among them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub connections: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub trips: u64,
    /// Connections that ended where none should.
    pub errors: u64,
}

pub struct World {
    target: Target,
    epoll: OwnedFd,
    listener: OwnedFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    records: Vec<u8>,
    answer: Vec<u8>,
    /// Of the next client.
    hello: Vec<u8>,
    chunk_bytes: usize,
    /// Round trips go first, so that the tool's own bulk work does not count as their latency.
    urgent_first: bool,
    open: [usize; 4],
    opening: usize,
    pub counts: Counts,
    /// Nanoseconds a round trip took, while somebody wants to know.
    pub latencies: Option<Vec<u32>>,
}

struct Slot {
    connection: Option<Connection>,
    /// Events of a connection that is gone carry an older one.
    generation: u32,
}

struct Connection {
    socket: OwnedFd,
    kind: Kind,
    state: State,
}

/// Where a connection stands. `Backend…` are the backend's, the others the clients'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The hello is not sent yet: the connect took its time.
    Connecting,
    Answer {
        left: usize,
    },
    Held,
    Trip {
        left: usize,
        since: Instant,
    },
    Stream(Streaming),
    BackendHello {
        left: usize,
    },
    BackendCommand {
        left: usize,
    },
    BackendTrip {
        left: usize,
    },
    BackendStream(Streaming),
}

/// Which way one end of a bulk stream works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    Sends,
    Receives,
    Both,
}

/// How a connection goes on after an event.
enum Next {
    Stays,
    Closes,
    Fails,
}

impl World {
    pub fn new(target: Target) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = listen(target.backend)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            target,
            epoll,
            listener,
            slots: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(MOST_EVENTS),
            scratch: vec![0; BULK_CHUNK_BYTES],
            records: records(BULK_CHUNK_BYTES),
            answer: answer(),
            hello: HELLO.to_vec(),
            chunk_bytes: BULK_CHUNK_BYTES,
            urgent_first: false,
            open: [0; 4],
            opening: 0,
            counts: Counts::default(),
            latencies: None,
        })
    }

    /// Round trips beside bulk: smaller steps, and trips before streams.
    pub fn mix(&mut self) {
        self.chunk_bytes = MIXED_CHUNK_BYTES;
        self.urgent_first = true;
    }

    /// Clients of a kind that are open or being opened.
    pub fn open(&self, kind: Kind) -> usize {
        self.open[number(kind)]
    }

    /// Clients whose hello is not answered yet.
    pub fn opening(&self) -> usize {
        self.opening
    }

    /// Connections of both sides.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Opens a client and sends its hello.
    pub fn start(&mut self, kind: Kind) -> Result<(), Errno> {
        let socket = net::socket_with(family(self.target.proxy), SocketType::STREAM, NEW_SOCKET, None)?;
        match net::connect(&socket, &self.target.proxy) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.open[number(kind)] += 1;
        self.opening += 1;
        // On loopback the handshake is done by now.
        self.renew_hello();
        let (state, interest) = match net::send(&socket, &self.hello, QUIET) {
            Ok(_) => (State::Answer { left: ANSWER_BYTES }, EventFlags::IN),
            Err(_) => (State::Connecting, EventFlags::OUT),
        };
        self.add(Connection { socket, kind, state }, interest)
    }

    /// No real client sends the same random twice, and a proxy may take those that come together for a loop.
    fn renew_hello(&mut self) {
        for byte in &mut self.hello[RANDOM] {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Closes every client of a kind.
    pub fn close(&mut self, kind: Kind) {
        for number in 0..self.slots.len() {
            let client = self.slots[number].connection.as_ref().filter(|connection| !connection.state.is_backend());
            if client.is_some_and(|client| client.kind == kind) {
                self.remove(number);
            }
        }
    }

    /// Waits for events, at most so long, and deals with them.
    pub fn turn(&mut self, wait: Duration) -> Result<(), Errno> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let wait = rustix::time::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if self.urgent_first {
            events.sort_by_key(|event| !self.is_trip(event));
        }
        events.iter().for_each(|event| self.event(event));
        self.events = events;
        Ok(())
    }

    fn is_trip(&self, event: &epoll::Event) -> bool {
        let Some(connection) = self.connection(event.data.u64()) else { return false };
        matches!(connection.state, State::Trip { .. } | State::BackendTrip { .. })
    }

    fn connection(&self, data: u64) -> Option<&Connection> {
        let slot = self.slots.get(data as u32 as usize)?;
        slot.connection.as_ref().filter(|_| u64::from(slot.generation) == data >> 32)
    }

    fn event(&mut self, event: &epoll::Event) {
        let data = event.data.u64();
        if data == LISTENER {
            return self.accept();
        }
        let number = data as u32 as usize;
        let current = self.slots[number].generation == (data >> 32) as u32;
        let Some(mut connection) = self.slots[number].connection.take_if(|_| current) else { return };
        let next = self.step(&mut connection, event.flags, data);
        let failed = matches!(next, Next::Fails);
        self.slots[number].connection = Some(connection);
        if failed {
            self.counts.errors += 1;
        }
        if !matches!(next, Next::Stays) {
            self.remove(number);
        }
    }

    fn accept(&mut self) {
        for _ in 0..MOST_ACCEPTS {
            let Ok(socket) = net::accept_with(&self.listener, NEW_SOCKET) else { return };
            let state = State::BackendHello { left: HELLO.len() };
            // The kind is the client's business; the backend learns what it needs from the command.
            let connection = Connection { socket, kind: Kind::Idle, state };
            if self.add(connection, EventFlags::IN).is_err() {
                self.counts.errors += 1;
            }
        }
    }

    fn add(&mut self, connection: Connection, interest: EventFlags) -> Result<(), Errno> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { connection: None, generation: 0 });
            self.slots.len() - 1
        });
        let slot = &mut self.slots[number];
        let data = EventData::new_u64(u64::from(slot.generation) << 32 | number as u64);
        let added = epoll::add(&self.epoll, &connection.socket, data, interest);
        slot.connection = Some(connection);
        if added.is_err() {
            self.remove(number);
        }
        added
    }

    fn remove(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        let Some(connection) = slot.connection.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(number);
        if !connection.state.is_backend() {
            self.open[self::number(connection.kind)] -= 1;
            if connection.state.is_opening() {
                self.opening -= 1;
            }
        }
    }

    /// What one event means to one connection.
    fn step(&mut self, connection: &mut Connection, flags: EventFlags, data: u64) -> Next {
        let socket = &connection.socket;
        match connection.state {
            // By now another one may have sent this hello, too; that is rare.
            State::Connecting => match net::send(socket, &self.hello, QUIET) {
                Ok(_) => {
                    connection.state = State::Answer { left: ANSWER_BYTES };
                    self.watch(connection, data, EventFlags::IN)
                }
                Err(Errno::AGAIN) => Next::Stays,
                Err(_) => Next::Fails,
            },
            State::Answer { left } => match self.take(socket, left) {
                Ok(0) => Next::Stays,
                // A proxy that knows no route yet may answer for itself.
                Ok(_) if left == ANSWER_BYTES && self.scratch[0] != self.answer[0] => Next::Fails,
                Ok(bytes) if bytes < left => {
                    connection.state = State::Answer { left: left - bytes };
                    Next::Stays
                }
                Ok(_) => self.answered(connection, data),
                Err(_) => Next::Fails,
            },
            // A silent connection that is closed by the other side.
            State::Held => Next::Fails,
            State::Trip { left, since } => match self.take(socket, left) {
                Ok(bytes) if bytes < left => {
                    connection.state = State::Trip { left: left - bytes, since };
                    Next::Stays
                }
                Ok(_) => {
                    self.counts.trips += 1;
                    if let Some(latencies) = &mut self.latencies {
                        latencies.push(u32::try_from(since.elapsed().as_nanos()).unwrap_or(u32::MAX));
                    }
                    send_trip(connection)
                }
                Err(_) => Next::Fails,
            },
            State::BackendHello { left } => match self.take(socket, left) {
                Ok(bytes) if bytes < left => {
                    connection.state = State::BackendHello { left: left - bytes };
                    Next::Stays
                }
                Ok(_) => {
                    connection.state = State::BackendCommand { left: COMMAND_BYTES };
                    match net::send(socket, &self.answer, QUIET) {
                        Ok(ANSWER_BYTES) => Next::Stays,
                        // A client of a proxy that is being closed.
                        _ => Next::Closes,
                    }
                }
                // Proxies may connect and go away.
                Err(_) => Next::Closes,
            },
            State::BackendCommand { left } => match self.take(socket, left) {
                Ok(bytes) if bytes < left => {
                    connection.state = State::BackendCommand { left: left - bytes };
                    Next::Stays
                }
                // The last byte of the record, however it was cut.
                Ok(bytes) => self.commanded(connection, self.scratch[bytes.saturating_sub(1)], data),
                Err(_) => Next::Closes,
            },
            State::BackendTrip { left } => match self.take(socket, left) {
                Ok(bytes) if bytes < left => {
                    connection.state = State::BackendTrip { left: left - bytes };
                    Next::Stays
                }
                Ok(_) => {
                    connection.state = State::BackendTrip { left: TRIP_BYTES };
                    match net::send(socket, &self.records[..TRIP_BYTES], QUIET) {
                        Ok(TRIP_BYTES) => Next::Stays,
                        _ => Next::Closes,
                    }
                }
                Err(_) => Next::Closes,
            },
            State::Stream(streaming) => match self.stream(socket, flags, streaming) {
                Ok(bytes) => {
                    self.counts.bytes_down += bytes;
                    Next::Stays
                }
                Err(_) => Next::Fails,
            },
            State::BackendStream(streaming) => match self.stream(socket, flags, streaming) {
                Ok(bytes) => {
                    self.counts.bytes_up += bytes;
                    Next::Stays
                }
                // The client ends the run.
                Err(_) => Next::Closes,
            },
        }
    }

    /// The hello's answer is whole.
    fn answered(&mut self, connection: &mut Connection, data: u64) -> Next {
        self.counts.connections += 1;
        self.opening -= 1;
        match connection.kind {
            Kind::Short => {
                connection.state = State::Held;
                Next::Closes
            }
            Kind::Idle => {
                connection.state = State::Held;
                Next::Stays
            }
            Kind::Trips => {
                connection.state = State::Trip { left: 0, since: Instant::now() };
                match net::send(&connection.socket, &COMMANDS[0], QUIET) {
                    Ok(COMMAND_BYTES) => send_trip(connection),
                    _ => Next::Fails,
                }
            }
            Kind::Bulk(flow) => {
                let (command, streaming) = match flow {
                    Flow::Down => (&COMMANDS[1], Streaming::Receives),
                    Flow::Up => (&COMMANDS[2], Streaming::Sends),
                    Flow::Both => (&COMMANDS[3], Streaming::Both),
                };
                connection.state = State::Stream(streaming);
                match net::send(&connection.socket, command, QUIET) {
                    Ok(COMMAND_BYTES) => self.watch(connection, data, streaming.interest()),
                    _ => Next::Fails,
                }
            }
        }
    }

    /// The backend has been told what the connection is for.
    fn commanded(&mut self, connection: &mut Connection, command: u8, data: u64) -> Next {
        let streaming = match command {
            1 => Streaming::Sends,
            2 => Streaming::Receives,
            3 => Streaming::Both,
            _ => {
                connection.state = State::BackendTrip { left: TRIP_BYTES };
                return Next::Stays;
            }
        };
        connection.state = State::BackendStream(streaming);
        self.watch(connection, data, streaming.interest())
    }

    /// Moves a chunk each way, as far as `flags` and the kernel let it; how many bytes came.
    fn stream(&mut self, socket: &OwnedFd, flags: EventFlags, streaming: Streaming) -> Result<u64, Errno> {
        let wanted = streaming.interest();
        let broken = EventFlags::HUP | EventFlags::ERR;
        let mut came = 0;
        if wanted.contains(EventFlags::IN) && flags.intersects(EventFlags::IN | broken) {
            match net::recv(socket, &mut self.scratch[..self.chunk_bytes], RecvFlags::TRUNC) {
                Ok((_, 0)) => return Err(Errno::CONNRESET),
                Ok((_, bytes)) => came = bytes as u64,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        if wanted.contains(EventFlags::OUT) && flags.intersects(EventFlags::OUT | broken) {
            match net::send(socket, &self.records[..self.chunk_bytes], QUIET) {
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(came)
    }

    /// Reads at most `bytes`; 0 when there are none yet. The end of the stream is an error: nobody waits for it here.
    fn take(&mut self, socket: &OwnedFd, bytes: usize) -> Result<usize, Errno> {
        match net::recv(socket, &mut self.scratch[..bytes], RecvFlags::empty()) {
            Ok((0, _)) => Err(Errno::CONNRESET),
            Ok((bytes, _)) => Ok(bytes),
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn watch(&self, connection: &Connection, data: u64, interest: EventFlags) -> Next {
        match epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(data), interest) {
            Ok(()) => Next::Stays,
            Err(_) => Next::Fails,
        }
    }
}

impl State {
    fn is_backend(self) -> bool {
        matches!(
            self,
            Self::BackendHello { .. }
                | Self::BackendCommand { .. }
                | Self::BackendTrip { .. }
                | Self::BackendStream { .. }
        )
    }

    fn is_opening(self) -> bool {
        matches!(self, Self::Connecting | Self::Answer { .. })
    }
}

impl Streaming {
    fn interest(self) -> EventFlags {
        match self {
            Self::Sends => EventFlags::OUT,
            Self::Receives => EventFlags::IN,
            Self::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// The next message there.
fn send_trip(connection: &mut Connection) -> Next {
    connection.state = State::Trip { left: TRIP_BYTES, since: Instant::now() };
    match net::send(&connection.socket, &[TRIP_BYTE; TRIP_BYTES], QUIET) {
        Ok(TRIP_BYTES) => Next::Stays,
        _ => Next::Fails,
    }
}

/// Binds the backend's address.
pub fn listen(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = net::socket_with(family(address), SocketType::STREAM, NEW_SOCKET, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Inherited by what is accepted.
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::bind(socket.as_fd(), &address)?;
    net::listen(&socket, 4096)?;
    Ok(socket)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn number(kind: Kind) -> usize {
    match kind {
        Kind::Short => 0,
        Kind::Idle => 1,
        Kind::Trips => 2,
        Kind::Bulk(_) => 3,
    }
}

/// Application-data records of 16 KiB with noise in them, as far as `bytes` goes.
fn records(bytes: usize) -> Vec<u8> {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut records = Vec::with_capacity(bytes);
    while records.len() < bytes {
        records.extend_from_slice(&[0x17, 3, 3, 0x40, 0x11]);
        for _ in 0..0x4011 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            records.push(noise as u8);
        }
    }
    records.truncate(bytes);
    records
}

/// The random of a hello, behind the headers of record and message and the version (RFC 8446 §4.1.2, §5.1).
const RANDOM: std::ops::Range<usize> = 11..43;

/// A handshake record that begins as a ServerHello does, with noise in it. A proxy may look whether the answer is TLS.
fn answer() -> Vec<u8> {
    let mut answer = records(ANSWER_BYTES);
    let [record, message] = [5, 9].map(|header| u16::try_from(ANSWER_BYTES - header).unwrap_or(u16::MAX).to_be_bytes());
    answer[..5].copy_from_slice(&[0x16, 3, 3, record[0], record[1]]);
    answer[5..11].copy_from_slice(&[2, 0, message[0], message[1], 3, 3]);
    answer
}

/// Captured from curl; its server name is `curl.captured.test`.
pub const HELLO: &[u8] = include_bytes!("../../../../tests/data/hellos/curl-default.bin");
/// About a ServerHello with a short flight in the same record.
const ANSWER_BYTES: usize = 1200;
const TRIP_BYTES: usize = 512;
const TRIP_BYTE: u8 = 0x5a;
const COMMAND_BYTES: usize = 16;
/// A record whose last byte tells the backend: round trips, down, up, both.
const COMMANDS: [[u8; COMMAND_BYTES]; 4] = {
    let mut commands = [[0; COMMAND_BYTES]; 4];
    let mut number = 0;
    while number < 4 {
        commands[number][0] = 0x17;
        commands[number][1] = 3;
        commands[number][2] = 3;
        commands[number][4] = 11;
        commands[number][COMMAND_BYTES - 1] = number as u8;
        number += 1;
    }
    commands
};
const BULK_CHUNK_BYTES: usize = 256 << 10;
const MIXED_CHUNK_BYTES: usize = 64 << 10;
const MOST_EVENTS: usize = 256;
const MOST_ACCEPTS: usize = 64;
const LISTENER: u64 = u64::MAX;
const NEW_SOCKET: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
const QUIET: SendFlags = SendFlags::NOSIGNAL;
