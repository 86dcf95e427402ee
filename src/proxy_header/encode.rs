//! Writes the header sent before a client's bytes.
//!
//! In:  two addresses and other facts about the connection.
//! Out: bytes that fit into one TCP segment on any path.
//! Source: the PROXY protocol, section 2.1 (version 1), 2.2 (version 2), 2.2.1 to 2.2.5 (type-length-values).
//!
//! ```text
//! version 2:  signature (12) | 0x21 | family | length (2) | addresses (12 or 36) | type (1) length (2) value ...
//! ```

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::checksum::crc32c;
use super::{
    Addresses, COMMAND_PROXY, Kinds, Received, TCP_OVER_IPV4, TCP_OVER_IPV6, TYPE_ALPN, TYPE_AUTHORITY, TYPE_CRC32C,
    TYPE_UNIQUE_ID, V2_FIXED_BYTES, V2_SIGNATURE, V2_VERSION, VALUE_HEAD_BYTES, Version,
};
use crate::ids::ConnectionId;

/// What version 2 carries besides the addresses; version 1 has no place for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// Identifies the connection, PP2_TYPE_UNIQUE_ID; unless one is passed on.
    pub unique_id: Option<ConnectionId>,
    /// What the operator adds.
    pub added: &'a [Added],
    /// What the header from a proxy in front holds, and what of it is passed on.
    pub relayed: Option<(&'a Received, Kinds)>,
    /// The server name as the client sent it, with its case.
    pub authority: Option<&'a [u8]>,
    /// The client's protocol if it offers exactly one. If it offers several, none is agreed on yet, so none is sent.
    pub alpn: Option<&'a [u8]>,
}

/// A value that is the same in every header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// 0xE0 to 0xEF.
    pub kind: u8,
    /// At most 65535 bytes; all together must leave room for the longest name.
    pub value: Box<str>,
}

/// Encodes the header for a client's connection. In version 2 it ends with a checksum.
///
/// A value that would make the header longer than one segment, or a name longer than receivers accept, is omitted. The
/// client controls the length of its name and its protocol, so these two come last: they cannot displace what a proxy
/// in front says about the client.
pub fn encode(version: Version, addresses: Addresses, values: &Values<'_>) -> Vec<u8> {
    let addresses = same_family(addresses);
    match version {
        Version::V1 => encode_v1(addresses),
        Version::V2 => encode_v2(addresses, values),
    }
}

/// The header for a connection of our own, such as a health check.
///
/// Version 2 says so and carries no address. Version 1 cannot say so: it carries the connection's `own` addresses,
/// because some receivers (Apache) do not accept `UNKNOWN`, which is left for unix sockets.
pub fn local(version: Version, own: Option<Addresses>) -> Cow<'static, [u8]> {
    match (version, own) {
        (Version::V1, Some(own)) => encode_v1(same_family(own)).into(),
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".into(),
        (Version::V2, _) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".into(),
    }
}

fn encode_v1(Addresses { client, local }: Addresses) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), local.ip(), client.port(), local.port()).into_bytes()
}

fn encode_v2(Addresses { client, local }: Addresses, values: &Values<'_>) -> Vec<u8> {
    let mut header = Vec::with_capacity(MOST_BYTES);
    header.extend(V2_SIGNATURE);
    header.push(V2_VERSION | COMMAND_PROXY);
    header.push(if client.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 });
    header.extend([0, 0]);
    for address in [client.ip(), local.ip()] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(local.port().to_be_bytes());
    let relayed = || values.relayed.into_iter().flat_map(|(received, kinds)| received.only(kinds));
    // A header has one id.
    match (relayed().find(|(kind, _)| *kind == TYPE_UNIQUE_ID), values.unique_id) {
        (Some((_, whole)), _) => header.extend(whole),
        (None, Some(id)) => {
            header.extend([TYPE_UNIQUE_ID, 0, 16]);
            write!(header, "{id}").expect("a Vec takes every byte");
        }
        (None, None) => {}
    }
    for added in values.added {
        push_if_it_fits(&mut header, added.kind, added.value.as_bytes());
    }
    for (_, whole) in relayed().filter(|(kind, _)| *kind != TYPE_UNIQUE_ID) {
        if whole.len() <= room(&header) {
            header.extend(whole);
        }
    }
    if let Some(name) = values.authority.filter(|name| name.len() <= MOST_AUTHORITY_BYTES) {
        push_if_it_fits(&mut header, TYPE_AUTHORITY, name);
    }
    if let Some(protocol) = values.alpn {
        push_if_it_fits(&mut header, TYPE_ALPN, protocol);
    }
    header.extend([TYPE_CRC32C, 0, 4, 0, 0, 0, 0]);
    let length = u16::try_from(header.len() - V2_FIXED_BYTES).expect("within MOST_BYTES");
    header[V2_FIXED_BYTES - 2..V2_FIXED_BYTES].copy_from_slice(&length.to_be_bytes());
    // Section 2.2.3: over the whole header, with the checksum field set to zero.
    let sum = crc32c(header.iter().copied()).to_be_bytes();
    let at = header.len() - sum.len();
    header[at..].copy_from_slice(&sum);
    header
}

fn room(header: &[u8]) -> usize {
    MOST_BYTES - CHECKSUM_BYTES - header.len()
}

fn push_if_it_fits(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let fits = VALUE_HEAD_BYTES + value.len() <= room(header);
    let Some(length) = u16::try_from(value.len()).ok().filter(|_| fits) else { return };
    header.push(kind);
    header.extend(length.to_be_bytes());
    header.extend(value);
}

/// A header has a single family: if one address is IPv4 and the other IPv6, the IPv4 one is written as IPv4-mapped.
pub(super) fn same_family(Addresses { client, local }: Addresses) -> Addresses {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        Addresses { client, local }
    } else {
        Addresses { client: mapped(client), local: mapped(local) }
    }
}

/// The segment every host must accept (section 2): a receiver may require the whole header in its first read.
pub(super) const MOST_BYTES: usize = 536;
/// The limit HAProxy accepts; a DNS name is never longer, an address with a zone could be.
const MOST_AUTHORITY_BYTES: usize = 255;
/// Including its type and length.
const CHECKSUM_BYTES: usize = 7;
/// The most that all values which an operator adds may take, each with its type and length: beside them, and our own id,
/// the longest name still fits.
pub(crate) const MOST_ADDED_BYTES: usize = 200;
