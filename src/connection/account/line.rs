//! Writes the line of a connection when it ends.
//!
//! In:  an account, and its entry in the registry.
//! Out: one [`ConnectionLine`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use super::Account;
use crate::client_hello::ClientHello;
use crate::connection::spoken::{Request, features};
use crate::operate::registry::LiveConnection;
use crate::pool::{Address, Backend};
use crate::proxy_header::Received;
use crate::telemetry::{Alpn, Asked, ConnectionLine, Endpoint, Reason, RequestLine};
use crate::way::Way;

impl Account {
    pub(super) fn log(&self, live: &LiveConnection, reason: Reason, lived: Duration) {
        let hello = self.hello();
        let pool = self.routed.as_ref().and_then(|routed| routed.pool.as_ref());
        let backend = self.attempts.last.as_ref();
        let nameless_error = self.error.as_ref().and_then(|error| error.without_name());
        let address = backend.map(|backend| self.address(backend));
        live.terms.connection_log.line(&ConnectionLine {
            id: live.id,
            listener: live.terms.listener(live.listener),
            client: live.client,
            peer: live.peer,
            endpoint: self.received().map(endpoint).unwrap_or_default(),
            sni: hello.and_then(ClientHello::name_or_literal),
            ech: self.ech,
            outer_sni: self.accepted.extras.as_ref().and_then(|extras| extras.outer_name.as_deref()),
            alpn: hello.map_or(Alpn::Absent, |hello| Alpn::Wire(hello.alpn.as_wire())),
            tls: hello.map(|hello| hello.offers.version_name()),
            offers: &hello.map(|hello| features(hello).collect::<Vec<_>>()).unwrap_or_default(),
            hello_bytes: hello.map(|hello| hello.wire_bytes),
            hello_records: hello.map(|hello| hello.records),
            hello_ms: self.spoken.greeting().map(|greeting| greeting.after),
            saw: self.saw,
            request: self.spoken.request().map(|request| request.line()),
            route: live.route.as_deref(),
            matched: self.matched,
            pool: pool.map(|pool| &*pool.name),
            backend: backend.map(|backend| &*backend.name),
            address: address.as_ref().map(|address| address.logged()),
            attempts: self.attempts.count(),
            failed: self.attempts.failed(),
            answer: self.answer.filter(|_| hello.is_some()),
            connect_ms: self.reached.as_ref().map(|reached| Duration::from_micros(reached.connect_micros.into())),
            first_byte_ms: self.first_byte(),
            duration_ms: lived,
            bytes_to_backend: live.bytes[Way::ToBackend as usize],
            bytes_to_client: live.bytes[Way::ToClient as usize],
            phase: live.state,
            reason,
            config: &live.terms.hash,
            error: self.error.as_ref().map(|error| error as &dyn std::fmt::Display),
            nameless_error: nameless_error.as_deref(),
        });
    }
}

/// What the header says about the client's endpoint in a cloud.
fn endpoint(received: &Received) -> Endpoint<'_> {
    Endpoint {
        vpc_endpoint: received.vpc_endpoint(),
        private_link_id: received.private_link_id(),
        psc_connection_id: received.psc_connection_id(),
    }
}

impl Account {
    /// The address that was connected to: a challenge goes to another port than all else.
    fn address<'b>(&self, backend: &'b Backend) -> Cow<'b, Address> {
        let pool = self.routed.as_ref().and_then(|routed| routed.pool.as_ref());
        match (&backend.address, pool) {
            (Address::Inet(address), Some(pool)) if self.is_challenge() => {
                Cow::Owned(Address::Inet(SocketAddr::new(address.ip(), pool.settings.http_port.0)))
            }
            (address, _) => Cow::Borrowed(address),
        }
    }
}

impl Request {
    fn line(&self) -> RequestLine<'_> {
        let head = self.head.as_ref();
        let asked = head.map(|head| Asked { host: head.host(), method: &head.method, path: head.path() });
        RequestLine { asked, status: self.status }
    }
}
