//! Makes the bytes of hellos, honest and other.
//!
//! Source: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3.

/// A usual hello of TLS 1.3 for `name`, in one record.
pub fn hello(name: &str) -> Vec<u8> {
    records(&message(&usual(name)), MOST_IN_RECORD)
}

/// What a TLS backend says first: the beginning of a ServerHello (RFC 8446 §4.1.3).
pub const SERVER_HELLO: &[u8] = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03served";
/// The beginning of a HelloRetryRequest: a ServerHello with this random (RFC 8446 §4.1.3).
pub const HELLO_RETRY: &[u8] = b"\x16\x03\x03\x00\x58\x02\x00\x00\x54\x03\x03\
    \xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\
    \xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";
/// A fatal alert: the backend cannot go on (RFC 8446 §6.2).
pub const INTERNAL_ERROR: &[u8] = &[0x15, 3, 3, 0, 2, 2, 80];
/// A fatal alert: the client offers nothing that the backend takes.
pub const REFUSED_OFFER: &[u8] = &[0x15, 3, 3, 0, 2, 2, 40];

/// The extensions of [`hello`].
pub fn usual(name: &str) -> Vec<u8> {
    [server_name(name.as_bytes()), alpn(&["h2", "http/1.1"]), groups(), versions()].concat()
}

/// A hello of which the message has `bytes` bytes, by padding (RFC 7685).
pub fn padded(name: &str, bytes: usize) -> Vec<u8> {
    let without = message(&[usual(name), extension(PADDING, &[])].concat()).len();
    let padding = extension(PADDING, &vec![0; bytes - without]);
    let message = message(&[usual(name), padding].concat());
    assert_eq!(message.len(), bytes);
    records(&message, MOST_IN_RECORD)
}

/// A handshake message with these extensions; none at all if the list is empty.
pub fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4, 0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    if !extensions.is_empty() {
        body.extend(prefixed(extensions));
    }
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

pub fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for fragment in message.chunks(fragment_bytes) {
        wire.extend([0x16, 3, 1]);
        wire.extend(prefixed(fragment));
    }
    wire
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(data)].concat()
}

pub fn server_name(name: &[u8]) -> Vec<u8> {
    server_names(&[(0, name)])
}

/// A list of names with their types.
pub fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [&[*kind][..], &prefixed(name)].concat()).collect();
    extension(0, &prefixed(&list))
}

pub fn alpn(protocols: &[&str]) -> Vec<u8> {
    let name = |name: &&str| [&[u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat();
    extension(16, &prefixed(&protocols.iter().flat_map(name).collect::<Vec<_>>()))
}

pub fn groups() -> Vec<u8> {
    extension(10, &prefixed(&[0x11, 0xec, 0, 29]))
}

/// TLS 1.3 and 1.2.
pub fn versions() -> Vec<u8> {
    extension(43, &[4, 3, 4, 3, 3])
}

pub fn prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes()[..], data].concat()
}

/// A fatal alert as a hello of TLS 1.2 or later is answered.
pub fn alert(number: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, number]
}

/// Bytes of which no two places look alike, so that one lost, doubled or moved is seen.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

pub const RECORD_OVERFLOW: u8 = 22;
pub const HANDSHAKE_FAILURE: u8 = 40;
pub const ILLEGAL_PARAMETER: u8 = 47;
pub const DECODE_ERROR: u8 = 50;
pub const MISSING_EXTENSION: u8 = 109;
pub const UNRECOGNIZED_NAME: u8 = 112;

/// RFC 8446 §5.1.
pub const MOST_IN_RECORD: usize = 1 << 14;
const PADDING: u16 = 21;
