//! Rules that hold for every captured hello, however it is cut and wherever one of its lengths lies.
//!
//! In:  the whole hellos of `tests/data`, and of `../shared/corpus` beside the repository where that is there (it is
//!      skipped otherwise; `SNIGATE_REQUIRE_CORPUS=1` makes its absence a failure, `SNIGATE_CORPUS` names another place).
//! Source: docs/design.md: a cut hello is the same hello, an invalid one is refused and never falls to a default.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use snigate::internals::Sni;
use snigate::internals::{ClientHello, Hello, MAX_RECORDS, NotHello, Reader, parse};

#[test]
fn a_hello_is_the_same_wherever_the_stream_is_cut() {
    for captured in captured() {
        let bytes = captured.wire();
        // Every offset of a usual hello; of the large ones a sample that takes in all of the first and last kilobyte.
        let offsets = (1..bytes.len()).filter(|at| bytes.len() < 4096 || near_an_end(*at, bytes) || at % 97 == 0);
        for at in offsets {
            let mut reader = Reader::new(LIMIT);
            let begun = reader.read(&bytes[..at]);
            assert_needs_no_more_than(&begun, bytes.len() - at, &captured.id, at);
            let whole = reader.read(bytes);
            assert_eq!(route(&whole), captured.route(), "{} cut at {at}", captured.id);
        }
    }
}

#[test]
fn a_hello_is_the_same_however_it_is_cut_into_records() {
    for captured in captured() {
        for fragment_bytes in [1, 2, 4, 16, 100] {
            let wire = records(&captured.message, fragment_bytes);
            let read = parse(&wire, LIMIT);
            if captured.message.len().div_ceil(fragment_bytes) > MAX_RECORDS {
                assert!(matches!(read, Err(NotHello::TooManyRecords)), "{}: {read:?}", captured.id);
                continue;
            }
            assert_eq!(route(&read), captured.route(), "{} in records of {fragment_bytes}", captured.id);
        }
    }
}

#[test]
fn every_prefix_needs_more_and_never_more_than_there_is() {
    for captured in captured() {
        let small = captured.message.len() < MAX_RECORDS;
        for wire in [Some(captured.wire().to_vec()), small.then(|| records(&captured.message, 3))].into_iter().flatten()
        {
            // One reader, a byte at a time, so that it costs no more than the bytes; and a fresh one now and then.
            let mut dripped = Reader::new(LIMIT);
            for at in 0..wire.len() {
                let begun = dripped.read(&wire[..at]);
                assert_needs_no_more_than(&begun, wire.len() - at, &captured.id, at);
                if at % 61 == 0 {
                    let fresh = parse(&wire[..at], LIMIT);
                    assert_needs_no_more_than(&fresh, wire.len() - at, &captured.id, at);
                }
            }
            assert_eq!(route(&dripped.read(&wire)), captured.route(), "{}", captured.id);
        }
    }
}

#[test]
fn bytes_behind_a_hello_are_not_looked_at() {
    for captured in captured() {
        for behind in [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 40], b"GET / HTTP/1.1\r\n"] {
            let wire = [captured.wire(), behind].concat();
            assert_eq!(route(&parse(&wire, LIMIT)), captured.route(), "{}", captured.id);
        }
    }
}

#[test]
fn a_length_that_lies_is_refused_at_once_or_changes_no_name() {
    let mut refused = 0;
    for captured in captured() {
        let fields = length_fields(&captured.message);
        assert!(fields.len() >= 3, "{}", captured.id);
        for field in fields {
            for lie in field.lies(&captured.message) {
                let mut message = captured.message.clone();
                field.write(&mut message, lie);
                let what = || format!("{}: {} at {} says {lie}", captured.id, field.name, field.at);
                match parse(&records(&message, MOST_IN_RECORD), LIMIT) {
                    Err(NotHello::Malformed(_) | NotHello::Name { .. } | NotHello::TwoNames) => refused += 1,
                    Err(NotHello::TooLong { .. }) if field.name == "message" => refused += 1,
                    Err(error) => panic!("{}: {error:?}", what()),
                    Ok(Hello::Needs(more)) => panic!("{}: waits for {more} bytes", what()),
                    Ok(Hello::Whole(hello)) => {
                        let same = hello.server_name.is_none() || hello.server_name == captured.hello.server_name;
                        assert!(same, "{}: another name, {:?}", what(), hello.server_name);
                        assert!(!field.decides, "{}: taken for whole", what());
                    }
                }
            }
        }
    }
    assert!(refused > 1000, "only {refused} lies were told");
}

#[test]
fn a_record_length_that_lies_is_refused_at_once() {
    for captured in captured().iter().filter(|captured| captured.message.len() < MOST_IN_RECORD) {
        let honest = records(&captured.message, MOST_IN_RECORD);
        let length = captured.message.len();
        for lie in [0, 1, length - 1, length + 1, MOST_IN_RECORD, MOST_IN_RECORD + 1, 0xffff] {
            let mut wire = honest.clone();
            wire[3..5].copy_from_slice(&u16::try_from(lie).unwrap().to_be_bytes());
            let read = parse(&wire, LIMIT);
            // A record that ends early leaves a tail that is no record, unless it happens to begin like one.
            let tail_begins_a_record = wire.get(5 + lie) == Some(&0x16) && wire.get(6 + lie).is_none_or(|b| *b == 3);
            let malformed = matches!(read, Err(NotHello::Malformed(_)));
            assert!(malformed || tail_begins_a_record, "{}: a record of {lie}: {read:?}", captured.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_into_records_and_segments_gives_the_same_hello(
        which in any::<Index>(),
        fragments in proptest::collection::vec(1_usize..3000, 1..60),
        segments in proptest::collection::vec(1_usize..3000, 1..60),
    ) {
        let captured = which.get(captured());
        prop_assume!(captured.message.len() < MAX_RECORDS);
        let wire = records_of(&captured.message, fragments.iter().copied().cycle());
        let (mut reader, mut shown) = (Reader::new(LIMIT), 0);
        for segment in segments.iter().cycle() {
            shown += segment;
            if shown >= wire.len() {
                break;
            }
            let begun = reader.read(&wire[..shown]);
            prop_assert!(matches!(&begun, Ok(Hello::Needs(more)) if more.get() <= wire.len() - shown), "{begun:?}");
        }
        prop_assert_eq!(route(&reader.read(&wire)), captured.route());
    }

    #[test]
    fn a_byte_changed_anywhere_but_in_the_name_gives_no_other_name(
        which in any::<Index>(),
        at in any::<Index>(),
        to in any::<u8>(),
    ) {
        let captured = which.get(captured());
        let mut wire = captured.wire().to_vec();
        let at = at.index(wire.len());
        let Some(Sni::Name(name)) = &captured.hello.server_name else { return Ok(()) };
        wire[at] = to;
        let Ok(Hello::Whole(hello)) = parse(&wire, LIMIT) else { return Ok(()) };
        let Some(Sni::Name(read)) = &hello.server_name else { return Ok(()) };
        // The byte may be one of the name's own; then one letter differs and no more.
        let differing = read.as_str().bytes().zip(name.as_str().bytes()).filter(|(a, b)| a != b).count();
        let lengths = read.as_str().len().abs_diff(name.as_str().len());
        prop_assert!(differing <= 1 && lengths <= 1, "{name} became {read}");
    }

    #[test]
    fn what_is_kept_of_a_hello_is_never_asked_past_the_limit(
        which in any::<Index>(),
        limit in 64_usize..4096,
        at in any::<Index>(),
    ) {
        let captured = which.get(captured());
        let wire = captured.wire();
        let at = at.index(wire.len());
        match parse(&wire[..at], limit) {
            Ok(Hello::Needs(more)) => {
                let ahead = at + more.get();
                // Framing of what is within the limit comes on top.
                prop_assert!(ahead <= limit + 5 * (2 + captured.hello.records), "{ahead} for {limit}");
            }
            Ok(Hello::Whole(_)) => prop_assert!(captured.message.len() <= limit),
            Err(NotHello::TooLong { bytes }) => prop_assert!(bytes > limit && bytes == captured.message.len()),
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}

/// A whole hello that a real client sent.
struct Captured {
    id: String,
    bytes: Vec<u8>,
    /// The handshake message out of its records.
    message: Vec<u8>,
    hello: ClientHello,
}

type Route = (Option<Sni>, Vec<u8>);

impl Captured {
    /// The bytes up to the end of the record that completes it.
    fn wire(&self) -> &[u8] {
        &self.bytes[..self.hello.wire_bytes]
    }

    fn route(&self) -> Route {
        route_of(&self.hello)
    }
}

/// Read once for all tests.
fn captured() -> &'static [Captured] {
    static ALL: LazyLock<Vec<Captured>> = LazyLock::new(read_all);
    &ALL
}

fn read_all() -> Vec<Captured> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let corpus = env::var_os("SNIGATE_CORPUS").map(PathBuf::from);
    let corpus = corpus.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"));
    let mut all = read(&ours);
    if corpus.join("manifest.json").is_file() {
        all.extend(read(&corpus));
    } else {
        let required = env::var_os("SNIGATE_REQUIRE_CORPUS").is_some_and(|value| value == "1");
        assert!(!required, "no corpus at {}", corpus.display());
    }
    all
}

fn read(directory: &Path) -> Vec<Captured> {
    let manifest: Value = serde_json::from_str(&fs::read_to_string(directory.join("manifest.json")).unwrap()).unwrap();
    let entries = manifest["hellos"].as_array().expect("a list of hellos").iter();
    let whole = entries.filter(|entry| entry["valid"] == true && entry["oddities"].is_null());
    whole.map(|entry| capture(directory, entry)).collect()
}

fn capture(directory: &Path, entry: &Value) -> Captured {
    let id = entry["id"].as_str().unwrap().to_owned();
    let bytes = fs::read(directory.join(entry["file"].as_str().unwrap())).unwrap();
    let hello = match parse(&bytes, LIMIT) {
        Ok(Hello::Whole(hello)) => hello,
        other => panic!("{id}: {other:?}"),
    };
    let message = unframed(&bytes[..hello.wire_bytes]);
    Captured { id, message, hello, bytes }
}

/// Takes the fragments out of their records.
fn unframed(mut wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((header, rest)) = wire.split_first_chunk::<5>() {
        let (fragment, rest) = rest.split_at(u16::from_be_bytes([header[3], header[4]]).into());
        message.extend_from_slice(fragment);
        wire = rest;
    }
    message
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    records_of(message, std::iter::repeat(fragment_bytes))
}

fn records_of(mut message: &[u8], fragments: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut wire = Vec::new();
    for bytes in fragments {
        if message.is_empty() {
            break;
        }
        let (fragment, rest) = message.split_at(bytes.min(message.len()));
        wire.extend([0x16, 3, 1]);
        wire.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        wire.extend_from_slice(fragment);
        message = rest;
    }
    wire
}

fn route(read: &Result<Hello, NotHello>) -> Route {
    match read {
        Ok(Hello::Whole(hello)) => route_of(hello),
        other => panic!("{other:?}"),
    }
}

fn route_of(hello: &ClientHello) -> Route {
    (hello.server_name.clone(), hello.alpn.as_wire().to_vec())
}

fn near_an_end(at: usize, bytes: &[u8]) -> bool {
    at < 1024 || at + 1024 > bytes.len()
}

#[track_caller]
fn assert_needs_no_more_than(begun: &Result<Hello, NotHello>, missing: usize, id: &str, at: usize) {
    assert!(
        matches!(begun, Ok(Hello::Needs(more)) if more.get() <= missing),
        "{id}: {missing} bytes are missing at {at}: {begun:?}"
    );
}

/// Where a message says how long something is.
struct LengthField {
    name: &'static str,
    at: usize,
    width: usize,
    /// Whether we read by it, so that a lie must be seen.
    decides: bool,
}

impl LengthField {
    fn value(&self, message: &[u8]) -> u32 {
        message[self.at..self.at + self.width].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn write(&self, message: &mut [u8], value: u32) {
        message[self.at..self.at + self.width].copy_from_slice(&value.to_be_bytes()[4 - self.width..]);
    }

    /// One less, one more, none, the most; what is said already is no lie.
    fn lies(&self, message: &[u8]) -> Vec<u32> {
        let honest = self.value(message);
        let most = u32::MAX >> (32 - 8 * self.width);
        let mut lies = vec![honest.wrapping_sub(1) & most, honest.wrapping_add(1) & most, 0, most];
        lies.retain(|lie| *lie != honest);
        lies.sort_unstable();
        lies.dedup();
        lies
    }
}

/// Walks a whole, honest message (RFC 8446 §4.1.2) and tells where its lengths stand.
fn length_fields(message: &[u8]) -> Vec<LengthField> {
    let mut fields = Vec::new();
    let mut field = |name, at, width, decides| {
        let field = LengthField { name, at, width, decides };
        let value = usize::try_from(field.value(message)).unwrap();
        fields.push(field);
        (at + width, at + width + value)
    };
    field("message", 1, 3, true);
    let (_, suites) = field("session id", 4 + 2 + 32, 1, true);
    let (_, compression) = field("cipher suites", suites, 2, true);
    let (_, extensions) = field("compression", compression, 1, true);
    if extensions == message.len() {
        return fields;
    }
    let (mut at, end) = field("extensions", extensions, 2, true);
    while at < end {
        let kind = u16::from_be_bytes([message[at], message[at + 1]]);
        let (content, next) = field("an extension", at + 2, 2, false);
        match kind {
            0 => {
                let (list, _) = field("the server name list", content, 2, true);
                field("the server name", list + 1, 2, true);
            }
            10 => drop(field("the groups", content, 2, true)),
            13 => drop(field("the signature algorithms", content, 2, false)),
            16 => {
                let (mut protocol, end) = field("the protocol list", content, 2, true);
                while protocol < end {
                    // A length that lies may still cut the list into other, well-formed protocols.
                    protocol = field("a protocol", protocol, 1, false).1;
                }
            }
            43 => drop(field("the versions", content, 1, true)),
            51 if next > content + 2 => {
                let (mut share, end) = field("the key shares", content, 2, false);
                while share < end {
                    share = field("a key share", share + 2, 2, false).1;
                }
            }
            _ => {}
        }
        at = next;
    }
    fields
}

const LIMIT: usize = 64 << 10;
/// RFC 8446 §5.1.
const MOST_IN_RECORD: usize = 1 << 14;
