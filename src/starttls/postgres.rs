//! PostgreSQL's request for TLS, from either side.
//!
//! In:  the bytes of a connection before TLS.
//! Out: a [`Step`], [`Refused`] or [`Declined`]; the error message for a client.
//! Source: the chapter "Frontend/Backend Protocol" of PostgreSQL's manual: SSL Session Encryption, Canceling Requests in
//! Progress, Message Formats, Error and Notice Message Fields; `ProcessStartupPacket` in its source. CVE-2021-23214 and CVE-2021-23222 (bytes that somebody adds before TLS begins).

use std::num::NonZeroUsize;

use super::{Declined, Refused, Step, shown};

/// What a client has been answered so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Client {
    #[default]
    Nothing,
    /// That GSSAPI encryption is not available.
    GssDenied,
    /// That TLS may begin.
    Tls,
}

impl Client {
    /// Decides with as few bytes as possible: a packet announces its length, and its sender may never send that much.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, Refused> {
        let code = match (*self, bytes) {
            (Self::Tls, _) | (Self::Nothing, [HANDSHAKE_RECORD, ..]) => return Ok(Step::Tls { taken: 0 }),
            // A length below 16 MiB.
            (_, [first, ..]) if *first != 0 => return Err(Refused::Foreign),
            (_, [a, b, c, d, ..]) if !PACKET_BYTES.contains(&u32::from_be_bytes([*a, *b, *c, *d])) => {
                return Err(Refused::Length { bytes: u32::from_be_bytes([*a, *b, *c, *d]) });
            }
            (_, [_, _, _, _, a, b, c, d, ..]) => u32::from_be_bytes([*a, *b, *c, *d]),
            // The length first: with it alone, nothing follows from the rest.
            (_, short) => {
                let wanted = if short.len() < LENGTH_BYTES { LENGTH_BYTES } else { REQUEST_BYTES };
                return Ok(Step::Needs(NonZeroUsize::new(wanted - short.len()).expect("it is shorter")));
            }
        };
        let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let has_length = |expected: usize| {
            if length as usize == expected { Ok(()) } else { Err(Refused::Length { bytes: length }) }
        };
        match (code, *self) {
            (SSL_REQUEST, _) => {
                has_length(REQUEST_BYTES)?;
                self.answered(Self::Tls, b"S", bytes)
            }
            (GSSENC_REQUEST, Self::Nothing) => {
                has_length(REQUEST_BYTES)?;
                self.answered(Self::GssDenied, b"N", bytes)
            }
            (GSSENC_REQUEST, _) => Err(Refused::Again),
            // The key has 4 bytes, or up to 256 since protocol 3.2.
            (CANCEL_REQUEST, _) if length as usize <= REQUEST_BYTES => Err(Refused::Length { bytes: length }),
            (CANCEL_REQUEST, _) => Err(Refused::Cancel),
            (version, _) => match ((version >> 16) as u16, version as u16) {
                (2 | 3, _) => Err(Refused::Plain),
                (major, minor) => Err(Refused::Version { major, minor }),
            },
        }
    }

    /// The request is whole, and nothing may have come behind it.
    fn answered(&mut self, next: Self, answer: &'static [u8], bytes: &[u8]) -> Result<Step, Refused> {
        if bytes.len() > REQUEST_BYTES {
            return Err(Refused::Injected { bytes: bytes.len() - REQUEST_BYTES });
        }
        *self = next;
        Ok(Step::Send { taken: REQUEST_BYTES, bytes: answer })
    }
}

/// Whether the bytes begin with a packet that the protocol knows.
pub(super) fn is_first_packet(bytes: &[u8]) -> bool {
    let Some((length, [a, b, c, d, ..])) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return false };
    let is_known = matches!(
        u32::from_be_bytes([*a, *b, *c, *d]),
        SSL_REQUEST | GSSENC_REQUEST | CANCEL_REQUEST | 0x0002_0000..=0x0003_ffff
    );
    is_known && PACKET_BYTES.contains(&u32::from_be_bytes(*length))
}

/// What a backend has been sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Backend {
    #[default]
    Nothing,
    SslRequest,
}

impl Backend {
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, Declined> {
        match (*self, bytes) {
            (Self::Nothing, _) => {
                *self = Self::SslRequest;
                Ok(Step::Send { taken: 0, bytes: &SSL_REQUEST_PACKET })
            }
            (_, []) => Ok(Step::Needs(NonZeroUsize::MIN)),
            (_, [b'S']) => Ok(Step::Tls { taken: 1 }),
            (_, [b'S', b'S', b'H', b'-', ..]) => Err(Declined::Foreign(shown(bytes))),
            (_, [b'S', behind @ ..]) => Err(Declined::Injected { bytes: behind.len() }),
            (_, [b'N', ..]) => Err(Declined::NoTls),
            (_, [b'E', error @ ..]) => Err(Declined::Error(shown(message(error)))),
            (_, foreign) => Err(Declined::Foreign(shown(foreign))),
        }
    }
}

/// The text in what follows the type of an ErrorResponse: its field `M`; or, of a server that could not even start to
/// serve, all of it up to the zero.
fn message(error: &[u8]) -> &[u8] {
    let mut fields = error.get(LENGTH_BYTES..).unwrap_or_default().split(|byte| *byte == 0);
    let text = fields.find_map(|field| field.strip_prefix(b"M"));
    let line = text.unwrap_or_else(|| error.split(|byte| *byte == 0).find(|part| !part.is_empty()).unwrap_or_default());
    line.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// What a refused client gets: an ErrorResponse, which libpq shows to its user.
pub(super) fn refusal(refused: Refused) -> Vec<u8> {
    match refused {
        // Not a client of PostgreSQL; or one that expects no answer.
        Refused::Foreign | Refused::Cancel => Vec::new(),
        Refused::Plain => error(
            "28000",
            "this port requires TLS and a server name (SNI)",
            Some("Connect with sslmode=require or stricter, by name instead of by address, with libpq 14 or newer."),
        ),
        Refused::Version { major, minor } => {
            error("0A000", &format!("unsupported frontend protocol {major}.{minor}"), None)
        }
        Refused::Injected { .. } => error(
            "08P01",
            "received unencrypted data after a request for encryption",
            Some("The client has a fault, or somebody has tampered with the connection."),
        ),
        Refused::Length { .. } => error("08P01", "invalid length of startup packet", None),
        Refused::Again => error("08P01", "GSSAPI encryption was requested twice", None),
    }
}

/// An ErrorResponse: severity, its untranslated form, SQLSTATE, message, hint.
fn error(sqlstate: &str, message: &str, hint: Option<&str>) -> Vec<u8> {
    let fields = [('S', "FATAL"), ('V', "FATAL"), ('C', sqlstate), ('M', message)];
    let fields = fields.into_iter().chain(hint.map(|hint| ('H', hint)));
    let body: String = fields.map(|(kind, text)| format!("{kind}{text}\0")).chain(["\0".to_owned()]).collect();
    let length = u32::try_from(LENGTH_BYTES + body.len()).expect("short texts");
    [b"E", &length.to_be_bytes()[..], body.as_bytes()].concat()
}

/// The length counts itself.
const LENGTH_BYTES: usize = 4;
/// A request for encryption: its length and its code.
const REQUEST_BYTES: usize = 8;
/// What the server accepts: MAX_STARTUP_PACKET_LENGTH, and the length itself.
const PACKET_BYTES: std::ops::RangeInclusive<u32> = 8..=10_004;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
pub(super) const SSL_REQUEST_PACKET: [u8; REQUEST_BYTES] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// The first byte of a TLS record that can begin a connection (RFC 8446 §5.1). No packet begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;

#[cfg(test)]
mod tests;
