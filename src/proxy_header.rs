//! Reads and writes PROXY protocol headers, which pass on the client's address through a proxy; no I/O.
//!
//! In:  the first bytes of a connection; or two addresses and other facts about a connection.
//! Out: [`Header`], [`Parsed::Needs`] with the number of bytes missing, or [`Malformed`]; or the bytes of a header.
//! Source: the PROXY protocol, versions 1 and 2, revision of 2020-03-05 (haproxy.org, `proxy-protocol.txt`).

mod checksum;
mod encode;
mod received;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;

use checksum::crc32c;
pub(crate) use encode::MOST_ADDED_BYTES;
pub use encode::{Added, Values, encode, local};
pub use received::{Kinds, Received};

/// The versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// A header from the front of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version it was written in.
    pub version: Version,
    /// Length of the header; the bytes after it are the client's.
    pub bytes: usize,
    /// Who opened the connection.
    pub command: Command,
    /// `None` with [`Command::Local`], and if the proxy does not know the client's address or its family is neither IPv4
    /// nor IPv6 (UNKNOWN, UNSPEC, unix).
    pub addresses: Option<Addresses>,
}

/// Who opened the connection (section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The proxy itself: its address is that of the client.
    Local,
    /// A client of the proxy.
    Proxy,
}

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub client: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
}

/// The result of parsing the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header, and the bytes that it takes up.
    Whole(Header),
    /// A valid beginning; at least this many more bytes are needed.
    Needs(NonZeroUsize),
}

/// The bytes are not a PROXY header; the text says where they go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads a header from the front of `bytes`.
///
/// # Errors
/// [`Malformed`], as soon as the bytes can no longer become a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    if bytes.is_empty() {
        Ok(needs(V1_FEWEST_BYTES))
    } else if begins(V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(V1_SIGNATURE) {
        parse_v1(bytes)
    } else {
        Err(Malformed("no PROXY signature"))
    }
}

/// Version 1: one line of at most 107 bytes.
fn parse_v1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(end) = bytes.iter().take(V1_MOST_BYTES).position(|&byte| byte == b'\n') else {
        if bytes.len() >= V1_MOST_BYTES {
            return Err(Malformed("a line over 107 bytes"));
        }
        // The shortest line still possible ends with the two bytes CR LF.
        return Ok(needs(if bytes.last() == Some(&b'\r') { 1 } else { 2.min(V1_MOST_BYTES - bytes.len()) }));
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed("a line that does not end with CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("a line that is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let whole = |addresses| {
        Ok(Parsed::Whole(Header { version: Version::V1, bytes: end + 1, command: Command::Proxy, addresses }))
    };
    let family = words.next();
    let is_family = |ip: &IpAddr| match family {
        Some("TCP4") => ip.is_ipv4(),
        Some("TCP6") => ip.is_ipv6(),
        _ => false,
    };
    match family {
        Some("UNKNOWN") => return whole(None),
        Some("TCP4" | "TCP6") => {}
        _ => return Err(Malformed("a family that is not TCP4, TCP6 or UNKNOWN")),
    }
    let mut address = || words.next()?.parse().ok().filter(is_family);
    let (client, local) = address().zip(address()).ok_or(Malformed("an address"))?;
    // A port has no sign and no leading zero (section 2.1).
    let mut port = || words.next().filter(|word| *word == "0" || !word.starts_with(['0', '+']))?.parse().ok();
    let (client_port, local_port) = port().zip(port()).ok_or(Malformed("a port"))?;
    if words.next().is_some() {
        return Err(Malformed("more than four fields"));
    }
    let (client, local) = (SocketAddr::new(client, client_port), SocketAddr::new(local, local_port));
    whole(Some(Addresses { client, local }))
}

/// Version 2: 16 bytes, addresses, and type-length-values.
fn parse_v2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let command = bytes.get(V2_SIGNATURE.len());
    if command.is_some_and(|command| command & 0xf0 != V2_VERSION) {
        return Err(Malformed("a version that is not 2"));
    }
    if command.is_some_and(|command| command & 0x0f > COMMAND_PROXY) {
        return Err(Malformed("a command that is neither LOCAL nor PROXY"));
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(needs(V2_FIXED_BYTES - bytes.len()));
    };
    let &[.., command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if family & 0x0f > 2 {
        return Err(Malformed("an unknown transport protocol"));
    }
    let address_bytes = address_bytes(family).ok_or(Malformed("an unknown address family"))?;
    let local_command = command & 0x0f == COMMAND_LOCAL;
    // A TCP connection that is announced as UDP or a unix datagram cannot be what the proxy received.
    if !local_command && family & 0x0f == DATAGRAM {
        return Err(Malformed("a datagram protocol on a stream"));
    }
    if !local_command && length < address_bytes {
        return Err(Malformed("a length that does not hold the addresses"));
    }
    let Some(body) = rest.get(..length) else { return Ok(needs(length - rest.len())) };
    let whole = &bytes[..V2_FIXED_BYTES + length];
    let header =
        |command, addresses| Ok(Parsed::Whole(Header { version: Version::V2, bytes: whole.len(), command, addresses }));
    if local_command {
        return header(Command::Local, None);
    }
    check_values(whole, V2_FIXED_BYTES + address_bytes)?;
    // The addresses of the unspecified family and of unix sockets are skipped (section 2.2).
    let addresses = match family {
        TCP_OVER_IPV4 => {
            addresses(body, 4, |octets| <[u8; 4]>::try_from(octets).map(Ipv4Addr::from).ok().map(IpAddr::V4))
        }
        TCP_OVER_IPV6 => {
            addresses(body, 16, |octets| <[u8; 16]>::try_from(octets).map(Ipv6Addr::from).ok().map(IpAddr::V6))
        }
        _ => None,
    };
    header(Command::Proxy, addresses)
}

fn addresses(body: &[u8], width: usize, ip: impl Fn(&[u8]) -> Option<IpAddr>) -> Option<Addresses> {
    let port = |at: usize| body.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let client = SocketAddr::new(ip(body.get(..width)?)?, port(2 * width)?);
    let local = SocketAddr::new(ip(body.get(width..2 * width)?)?, port(2 * width + 2)?);
    Some(Addresses { client, local })
}

/// The length of the addresses of a family; `None` if it is unknown.
fn address_bytes(family: u8) -> Option<usize> {
    match family >> 4 {
        0 => Some(0),
        1 => Some(12),
        2 => Some(36),
        3 => Some(216),
        _ => None,
    }
}

/// Walks the type-length-values from `at` on, and checks those that have a fixed form (section 2.2.1 to 2.2.8).
fn check_values(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    while at < header.len() {
        let (kind, value, rest) = take_value(&header[at..])?;
        let end = header.len() - rest.len();
        match kind {
            TYPE_CRC32C => {
                let sent = <[u8; 4]>::try_from(value).map_err(|_| Malformed("a checksum that is not 4 bytes"))?;
                let zeroed = [&header[..at + VALUE_HEAD_BYTES], &[0; 4], &header[end..]];
                if crc32c(zeroed.into_iter().flatten().copied()) != u32::from_be_bytes(sent) {
                    return Err(Malformed("a wrong checksum"));
                }
            }
            TYPE_UNIQUE_ID if value.len() > MOST_UNIQUE_ID_BYTES => {
                return Err(Malformed("a UNIQUE_ID over 128 bytes"));
            }
            TYPE_SSL => check_ssl(value)?,
            _ => {}
        }
        at = end;
    }
    Ok(())
}

/// What the proxy says about TLS with its client: flags, the result of a verification, and values inside the value.
fn check_ssl(value: &[u8]) -> Result<(), Malformed> {
    let mut rest = value.get(SSL_FIXED_BYTES..).ok_or(Malformed("an SSL value under 5 bytes"))?;
    while !rest.is_empty() {
        (_, _, rest) = take_value(rest).map_err(|_| Malformed("a value longer than the SSL value around it"))?;
    }
    Ok(())
}

/// Splits the first type-length-value off: its type, its value, and what follows.
fn take_value(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Malformed> {
    let Some((&[kind, high, low], rest)) = bytes.split_first_chunk() else {
        return Err(Malformed("a type-length-value"));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) = rest.split_at_checked(length).ok_or(Malformed("a type-length-value longer than the header"))?;
    Ok((kind, value, rest))
}

fn needs(bytes: usize) -> Parsed {
    Parsed::Needs(NonZeroUsize::new(bytes).expect("something is missing, or the header would be whole"))
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed PROXY header: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// `PROXY UNKNOWN` and CR LF; any header of version 2 is longer.
const V1_FEWEST_BYTES: usize = 15;
const V1_MOST_BYTES: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
const V2_VERSION: u8 = 0x20;
const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const DATAGRAM: u8 = 2;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const TYPE_ALPN: u8 = 0x01;
const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_UNIQUE_ID: u8 = 0x05;
const TYPE_SSL: u8 = 0x20;
/// Of Google Cloud, AWS and Azure, out of the range that applications may use as they like.
const TYPE_GCP: u8 = 0xe0;
const TYPE_AWS: u8 = 0xea;
const TYPE_AZURE: u8 = 0xee;
/// A type and a length.
const VALUE_HEAD_BYTES: usize = 3;
/// The flags and the result that an SSL value begins with.
const SSL_FIXED_BYTES: usize = 5;
/// Section 2.2.5.
const MOST_UNIQUE_ID_BYTES: usize = 128;

#[cfg(test)]
mod tests;
