//! Makes ClientHellos around a fuzzer's bytes, so that it need not guess the framing to get at what lies inside.
//!
//! In:  any bytes.
//! Out: a handshake message that holds them, or the records of one.
//! Source: RFC 8446 §4.1.2 (ClientHello), §5.1 (records); RFC 6066 §3 (server_name).

/// The largest message both sides of a comparison take: rustls' limit.
pub const MAX_MESSAGE_BYTES: usize = 0xffff;

/// A hello whose extension list is `list`, whatever that is; `None` when it is too long for one.
pub fn message_with_extensions(list: &[u8]) -> Option<Vec<u8>> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16::try_from(list.len()).ok()?.to_be_bytes());
    body.extend(list);
    message(&body)
}

/// The extension that offers `name`, with every length right.
pub fn server_name(name: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(name.len()).ok().filter(|&length| length < u16::MAX - 5)?;
    let mut extension = vec![0, 0];
    extension.extend((length + 5).to_be_bytes());
    extension.extend((length + 3).to_be_bytes());
    extension.push(0);
    extension.extend(length.to_be_bytes());
    extension.extend(name);
    Some(extension)
}

/// `body` with the header of a ClientHello before it.
pub fn message(body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() + 4 <= MAX_MESSAGE_BYTES)?;
    let mut message = length.to_be_bytes().to_vec();
    message[0] = 1;
    message.extend(body);
    Some(message)
}

/// Cuts `message` into records of the lengths that `lengths` gives, and at last one that takes the rest.
///
/// # Panics
/// When a length is 0.
pub fn records(mut message: &[u8], mut lengths: impl FnMut() -> usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 5);
    while !message.is_empty() {
        let length = lengths().min(message.len()).min(1 << 14);
        assert_ne!(length, 0, "a record of no bytes");
        let (fragment, rest) = message.split_at(length);
        wire.extend([0x16, 3, 1]);
        wire.extend((length as u16).to_be_bytes());
        wire.extend(fragment);
        message = rest;
    }
    wire
}

/// The message in `wire`, its records taken off; `wire` ends with a record.
pub fn gathered(mut wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(wire.len());
    while let Some((header, rest)) = wire.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]])).min(rest.len());
        message.extend(&rest[..length]);
        wire = &rest[length..];
    }
    message
}

/// Numbers that depend on `bytes` alone, so that a finding is found again.
pub fn numbers(bytes: &[u8]) -> impl FnMut() -> usize {
    let mut state = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize
    }
}
