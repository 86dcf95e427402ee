//! A real DNS server on loopback, over UDP and TCP, whose answers a test changes while it runs.
//!
//! In:  names with their records, or with the way in which they fail.
//! Out: an address for `resolve: { nameservers: […] }`; how often each name was asked for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{CNAME, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;

/// Serves until it is dropped.
pub struct Nameserver {
    pub address: SocketAddr,
    zone: Zone,
    _stop: oneshot::Sender<()>,
}

/// What is answered to a query, if anything.
pub type ToEdns = fn(&[u8]) -> Option<Vec<u8>>;

/// Starts a nameserver that does not know EDNS (RFC 6891): it answers a query with an OPT record by `to_edns`, and any
/// other with 127.0.0.1. Returns its address, and the ids of the queries with EDNS as they come.
pub fn without_edns(to_edns: ToEdns) -> (SocketAddr, mpsc::Receiver<[u8; 2]>) {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (tell, reported) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let query = &bytes[..length];
            // RFC 1035 §4.1.1: the number of additional records, of which the OPT record is the only one.
            let answer = if query[10..12] == [0, 0] {
                Some([&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &query[12..], LOOPBACK_RECORD].concat())
            } else {
                let _ = tell.send([query[0], query[1]]);
                to_edns(query)
            };
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    (address, reported)
}

/// For the name of the question: type A, class IN, a TTL of 0, and the address (RFC 1035 §4.1.3).
const LOOPBACK_RECORD: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1];

/// The response to a query, with an error and the given counts of records (RFC 1035 §4.1.1).
pub fn error_response(query: &[u8], code: u8, questions: u8) -> Vec<u8> {
    [&query[..2], &[0x81, 0x80 | code, 0, questions, 0, 0, 0, 0, 0, 0]].concat()
}

/// How a name fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    ServFail,
    Refused,
    /// No answer at all.
    Silent,
}

#[derive(Clone, Default)]
struct Zone(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A name that is not here does not exist.
    names: HashMap<Name, Vec<Record>>,
    failing: HashMap<(Name, Option<RecordType>), Fails>,
    asked: Vec<(Name, RecordType, Protocol)>,
    /// As a server does that only knows its own zones.
    leaves_aliases: bool,
}

impl Nameserver {
    pub fn start() -> Self {
        let zone = Zone::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, reported) = mpsc::channel();
        let handler = zone.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (udp, tcp) = bind().await;
                tell.send(udp.local_addr().unwrap()).unwrap();
                let mut server = hickory_server::Server::new(handler);
                server.register_socket(udp);
                server.register_listener(tcp, Duration::from_secs(20), 64);
                let _ = stopped.await;
            });
        });
        let address = reported.recv().expect("the nameserver is bound");
        Self { address, zone, _stop: stop }
    }

    /// `name` has these addresses and nothing else from now on.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) -> &Self {
        let data = addresses.iter().map(|address| match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        });
        self.set(name, ttl, data.collect())
    }

    /// `name` is another name for `target`.
    pub fn alias(&self, name: &str, ttl: u32, target: &str) -> &Self {
        self.set(name, ttl, vec![RData::CNAME(CNAME(whole(target)))])
    }

    /// `name` has these SRV records: priority, weight, port, target.
    pub fn services(&self, name: &str, ttl: u32, services: &[(u16, u16, u16, &str)]) -> &Self {
        let data = |&(priority, weight, port, target): &_| RData::SRV(SRV::new(priority, weight, port, whole(target)));
        self.set(name, ttl, services.iter().map(data).collect())
    }

    /// `name` does not exist any more.
    pub fn remove(&self, name: &str) -> &Self {
        let mut zone = self.zone.0.lock().unwrap();
        zone.names.remove(&whole(name));
        zone.failing.retain(|(failing, _), _| *failing != whole(name));
        drop(zone);
        self
    }

    /// Questions for `name`, of one kind or of all, fail until its records are set anew.
    pub fn fail(&self, name: &str, kind: Option<RecordType>, how: Fails) -> &Self {
        self.zone.0.lock().unwrap().failing.insert((whole(name), kind), how);
        self
    }

    /// Aliases are given without what they lead to.
    pub fn leave_aliases(&self) -> &Self {
        self.zone.0.lock().unwrap().leaves_aliases = true;
        self
    }

    /// How often `name` was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.count(|(asked, _, _)| *asked == whole(name))
    }

    pub fn asked_over_tcp(&self, name: &str) -> usize {
        self.count(|(asked, _, protocol)| *asked == whole(name) && *protocol == Protocol::Tcp)
    }

    fn count(&self, of: impl Fn(&(Name, RecordType, Protocol)) -> bool) -> usize {
        self.zone.0.lock().unwrap().asked.iter().filter(|asked| of(asked)).count()
    }

    fn set(&self, name: &str, ttl: u32, data: Vec<RData>) -> &Self {
        self.remove(name);
        let records = data.into_iter().map(|data| Record::from_rdata(whole(name), ttl, data)).collect();
        self.zone.0.lock().unwrap().names.insert(whole(name), records);
        self
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let nothing_sent = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(info) = request.request_info() else { return nothing_sent };
        let (name, kind) = (Name::from(info.query.name()), info.query.query_type());
        let Some((code, answers)) = self.answer(name, kind, request.protocol()) else { return nothing_sent };
        metadata.response_code = code;
        let response = MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
        to.send_response(response).await.unwrap_or(nothing_sent)
    }
}

impl Zone {
    /// Follows aliases within the zone, as a recursive server does.
    fn answer(&self, name: Name, kind: RecordType, protocol: Protocol) -> Option<(ResponseCode, Vec<Record>)> {
        let mut state = self.0.lock().unwrap();
        state.asked.push((name.clone(), kind, protocol));
        let failing = [None, Some(kind)].into_iter().find_map(|kind| state.failing.get(&(name.clone(), kind)));
        match failing {
            Some(Fails::Silent) => return None,
            Some(Fails::ServFail) => return Some((ResponseCode::ServFail, Vec::new())),
            Some(Fails::Refused) => return Some((ResponseCode::Refused, Vec::new())),
            None => {}
        }
        let (mut name, mut answers) = (name, Vec::new());
        for _ in 0..8 {
            let Some(records) = state.names.get(&name) else { return Some((ResponseCode::NXDomain, answers)) };
            answers.extend(records.iter().filter(|record| record.record_type() == kind).cloned());
            let Some((alias, target)) = records.iter().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((record, target.0.clone())),
                _ => None,
            }) else {
                break;
            };
            answers.push(alias.clone());
            if state.leaves_aliases {
                break;
            }
            name = target;
        }
        Some((ResponseCode::NoError, answers))
    }
}

/// The same port for both.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port that is free for UDP and TCP");
}

fn whole(name: &str) -> Name {
    let mut name = Name::from_str(name).unwrap();
    name.set_fqdn(true);
    name
}
