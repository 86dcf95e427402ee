//! Follows a hello over the records that it is split into, and parses it once it is whole.
//!
//! In:  all bytes received so far, from the first one on, at each call.
//! Out: [`Hello`], or [`NotHello`] as soon as the bytes can no longer become a hello of the permitted size.
//! Source: RFC 8446 §5.1 (records), §4.1.2 (the order of the fields).
//!
//! Between calls only positions and lengths are kept: the caller holds the bytes, and nothing of them is held twice. A
//! message in several records is gathered when it is whole.

use super::{
    CLIENT_HELLO, HANDSHAKE, Hello, MESSAGE_HEADER_BYTES, NotHello, RECORD_HEADER_BYTES, fragments, message_bytes,
    needs, read_message,
};

/// Remembers how far a hello has been parsed, so that one that arrives in small pieces is still parsed in linear time.
#[derive(Debug)]
pub struct Reader {
    /// Offset of the first incomplete record.
    at: usize,
    records: usize,
    /// Bytes of the message in the records before that.
    gathered_bytes: usize,
    outline: Outline,
}

/// The fields before the extensions: each is checked against the announced length as soon as it is present.
///
/// Otherwise a false length would look like an incomplete hello until the deadline.
#[derive(Debug)]
struct Outline {
    max_message_bytes: usize,
    /// `None` until the header of the message is present.
    message_bytes: Option<usize>,
    /// The field to read next; `None` after the last one.
    field: Option<Field>,
    /// Position of its next byte in the message, the bytes of it that are still missing, and the value of the others.
    at: usize,
    missing: usize,
    value: usize,
}

/// The length fields in their order, after the type of the message.
#[derive(Clone, Copy, Debug)]
enum Field {
    Type,
    Length,
    SessionId,
    CipherSuites,
    Compression,
    Extensions,
}

impl Reader {
    /// A reader that refuses a message of more bytes.
    pub fn new(max_message_bytes: usize) -> Self {
        Self { at: 0, records: 0, gathered_bytes: 0, outline: Outline::new(max_message_bytes) }
    }

    /// Parses `bytes`, which must begin with all the bytes passed to earlier calls.
    ///
    /// # Errors
    /// [`NotHello`]; the reader must not be used after that.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Hello, NotHello> {
        loop {
            let rest = &bytes[self.at..];
            let Some(fragment_bytes) = self.record_header(rest)? else {
                return needs(RECORD_HEADER_BYTES - rest.len() + self.missing_after(0));
            };
            let fragment = &rest[RECORD_HEADER_BYTES..];
            let Some(fragment) = fragment.get(..fragment_bytes) else {
                if self.records == 0 {
                    self.outline.follow(fragment, 0)?;
                }
                self.check_fits(fragment_bytes)?;
                let missing = fragment_bytes - fragment.len() + self.missing_after(fragment_bytes);
                // Until the message's length is known, ask for no more than that: it may be too long.
                let to_length = MESSAGE_HEADER_BYTES.saturating_sub(self.gathered_bytes + fragment.len());
                return needs(if to_length > 0 { missing.min(to_length) } else { missing });
            };
            self.at += RECORD_HEADER_BYTES + fragment_bytes;
            self.records += 1;
            if self.records == 1 && message_bytes(fragment) == Some(fragment_bytes) {
                check_type(fragment[0])?;
                self.outline.check_length(fragment_bytes)?;
                return self.whole(fragment);
            }
            self.outline.follow(fragment, self.gathered_bytes)?;
            self.check_fits(fragment_bytes)?;
            self.gathered_bytes += fragment_bytes;
            if self.outline.message_bytes == Some(self.gathered_bytes) {
                let mut message = Vec::with_capacity(self.gathered_bytes);
                fragments(&bytes[..self.at]).for_each(|fragment| message.extend_from_slice(fragment));
                return self.whole(&message);
            }
        }
    }

    /// Checks as much of the header at the start of `rest` as is present; returns the fragment's length once it is
    /// complete.
    fn record_header(&self, rest: &[u8]) -> Result<Option<usize>, NotHello> {
        let first = self.records == 0;
        let wrong =
            if first { NotHello::NotTls } else { NotHello::Malformed("a record of another type inside the hello") };
        if rest.first().is_some_and(|&kind| kind != HANDSHAKE) || rest.get(1).is_some_and(|&major| major != 3) {
            return Err(wrong);
        }
        let Some(&[_, _, _, high, low]) = rest.first_chunk() else { return Ok(None) };
        if self.records == MAX_RECORDS {
            return Err(NotHello::TooManyRecords);
        }
        match u16::from_be_bytes([high, low]).into() {
            0 => Err(NotHello::Malformed("an empty handshake record")),
            length if length > MAX_FRAGMENT_BYTES => Err(NotHello::Malformed("a record over 16 KiB")),
            length => Ok(Some(length)),
        }
    }

    /// Rejects a record of `fragment_bytes` that does not end before the message does.
    fn check_fits(&self, fragment_bytes: usize) -> Result<(), NotHello> {
        match self.outline.message_bytes {
            Some(bytes) if self.gathered_bytes + fragment_bytes > bytes => {
                Err(NotHello::Malformed("bytes after the hello in its record"))
            }
            _ => Ok(()),
        }
    }

    /// The minimum number of bytes that must follow a record of `fragment_bytes` more.
    fn missing_after(&self, fragment_bytes: usize) -> usize {
        // In the first record, the length counts only once the record is complete.
        match self.outline.message_bytes.filter(|_| self.records > 0) {
            // The missing part of the message, in one more record.
            Some(bytes) => match bytes.saturating_sub(self.gathered_bytes + fragment_bytes) {
                0 => 0,
                missing if fragment_bytes == 0 => missing,
                missing => missing + RECORD_HEADER_BYTES,
            },
            None => 0,
        }
    }

    fn whole(&self, message: &[u8]) -> Result<Hello, NotHello> {
        let mut hello = read_message(message)?;
        hello.wire_bytes = self.at;
        hello.records = self.records;
        Ok(Hello::Whole(hello))
    }
}

impl Outline {
    fn new(max_message_bytes: usize) -> Self {
        Self { max_message_bytes, message_bytes: None, field: Some(Field::Type), at: 0, missing: 1, value: 0 }
    }

    /// Reads on in a part of the message that begins at `offset`. All that comes before has been read; of the part
    /// itself, some may have been.
    ///
    /// The type comes first, then the limit, then the fields in their order: the alert a client gets must not depend on
    /// how its bytes are split.
    fn follow(&mut self, part: &[u8], offset: usize) -> Result<(), NotHello> {
        while let Some(field) = self.field
            && let Some(&byte) = part.get(self.at - offset)
        {
            self.at += 1;
            self.missing -= 1;
            self.value = self.value << 8 | usize::from(byte);
            if self.missing == 0 {
                let value = std::mem::take(&mut self.value);
                self.field = self.after(field, value)?;
            }
        }
        Ok(())
    }

    /// Checks the `value` of a field, and finds the next one.
    fn after(&mut self, field: Field, value: usize) -> Result<Option<Field>, NotHello> {
        match field {
            Field::Type => {
                check_type(u8::try_from(value).expect("one byte"))?;
                self.expect(Field::Length, 0, 3)
            }
            Field::Length => {
                let bytes = MESSAGE_HEADER_BYTES + value;
                self.check_length(bytes)?;
                self.message_bytes = Some(bytes);
                self.expect(Field::SessionId, VERSION_AND_RANDOM_BYTES, 1)
            }
            Field::SessionId if value > 32 => Err(NotHello::Malformed("a session id over 32 bytes")),
            Field::SessionId => self.expect(Field::CipherSuites, value, 2),
            Field::CipherSuites if value == 0 || !value.is_multiple_of(2) => {
                Err(NotHello::Malformed("the cipher suites"))
            }
            Field::CipherSuites => self.expect(Field::Compression, value, 1),
            Field::Compression if value == 0 => Err(NotHello::Malformed("no compression method")),
            Field::Compression if Some(self.at + value) == self.message_bytes => Ok(None),
            Field::Compression => self.expect(Field::Extensions, value, 2),
            Field::Extensions if Some(self.at + value) != self.message_bytes => {
                Err(NotHello::Malformed("the length of the extensions does not fit the hello"))
            }
            Field::Extensions => Ok(None),
        }
    }

    /// The next `field`, of `width` bytes, begins after `skipped` more.
    fn expect(&mut self, field: Field, skipped: usize, width: usize) -> Result<Option<Field>, NotHello> {
        self.at += skipped;
        self.missing = width;
        match self.message_bytes {
            Some(bytes) if self.at + width > bytes => Err(NotHello::Malformed("the hello ends before its fields do")),
            _ => Ok(Some(field)),
        }
    }

    fn check_length(&self, bytes: usize) -> Result<(), NotHello> {
        if bytes > self.max_message_bytes { Err(NotHello::TooLong { bytes }) } else { Ok(()) }
    }
}

fn check_type(kind: u8) -> Result<(), NotHello> {
    if kind == CLIENT_HELLO {
        return Ok(());
    }
    Err(NotHello::Malformed("a handshake message that is not a ClientHello"))
}

const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
/// RFC 8446 §5.1.
pub(super) const MAX_FRAGMENT_BYTES: usize = 1 << 14;
/// Enough for a post-quantum hello in one-byte records; limits the framing overhead of a hostile one to 20 KiB.
pub const MAX_RECORDS: usize = 4096;
