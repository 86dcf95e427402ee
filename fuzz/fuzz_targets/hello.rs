//! A hello is the same however it comes, and is never more than its bytes say.
//!
//! The input is taken three times: as the bytes on the wire, as the extension list of a hello, and as a server name.

#![no_main]

use std::mem::discriminant;

use libfuzzer_sys::fuzz_target;
use snigate::internals::{Alpn, ClientHello, Hello, MAX_RECORDS, NotHello, Reader, ServerName, Sni, parse};
use snigate_fuzz::{gathered, message_with_extensions, numbers, records, server_name};

fuzz_target!(|bytes: &[u8]| {
    for limit in [64 << 10, 600] {
        check(bytes, limit);
        let hellos = [Some(bytes.to_vec()), server_name(bytes)].into_iter().flatten();
        for message in hellos.filter_map(|list| message_with_extensions(&list)) {
            check(&records(&message, || 1 << 14), limit);
        }
    }
});

fn check(bytes: &[u8], limit: usize) {
    let all = parse(bytes, limit);
    check_pieces(bytes, limit, &all);
    match all {
        Ok(Hello::Whole(hello)) => {
            check_hello(&hello, bytes, limit);
            check_prefixes(&hello, bytes, limit);
            check_other_records(&hello, bytes, limit);
        }
        Ok(Hello::Needs(more)) => {
            // Every byte that is asked for belongs to a message within the limit, or to the header of a record.
            assert!(bytes.len() + more.get() <= limit + 5 * MAX_RECORDS, "asks past the limit");
        }
        Err(refused) => {
            let longer = [bytes, &[0x16, 3, 1, 0, 1, 0]].concat();
            match parse(&longer, limit) {
                Err(still) => assert_eq!(discriminant(&still), discriminant(&refused), "{still:?}, before {refused:?}"),
                Ok(mended) => panic!("more bytes mend a broken hello: {mended:?}, before {refused:?}"),
            }
        }
    }
}

/// Whoever reads as much as was asked for, or in any other steps, comes to the same end.
fn check_pieces(bytes: &[u8], limit: usize, all: &Result<Hello, NotHello>) {
    let mut random = numbers(bytes);
    let as_asked = |asked: usize| asked;
    let as_it_comes = |_| 1 + random() % 700;
    for (seen, end) in [in_pieces(bytes, limit, as_asked), in_pieces(bytes, limit, as_it_comes)] {
        match (&end, all) {
            (Ok(Hello::Whole(a)), Ok(Hello::Whole(b))) => assert_eq!(a, b),
            (Ok(Hello::Needs(a)), Ok(Hello::Needs(b))) => assert_eq!(a, b),
            // The earlier a lie is seen the better, and then another one may be the first that is seen. What the
            // client is told may not depend on it.
            (Err(a), Err(b)) => assert_eq!(discriminant(a), discriminant(b), "{a:?} after {seen} bytes, else {b:?}"),
            (a, b) => panic!("{a:?} after {seen} bytes, but {b:?}"),
        }
    }
    if let (seen, Ok(Hello::Whole(hello))) = in_pieces(bytes, limit, as_asked) {
        assert_eq!(seen, hello.wire_bytes, "more was asked for than the hello holds");
    }
}

fn in_pieces(bytes: &[u8], limit: usize, mut step: impl FnMut(usize) -> usize) -> (usize, Result<Hello, NotHello>) {
    let (mut reader, mut end) = (Reader::new(limit), 0);
    loop {
        match reader.read(&bytes[..end]) {
            Ok(Hello::Needs(more)) if end < bytes.len() => end = bytes.len().min(end + step(more.get())),
            other => return (end, other),
        }
    }
}

fn check_hello(hello: &ClientHello, bytes: &[u8], limit: usize) {
    assert!(hello.wire_bytes <= bytes.len());
    assert!((1..=MAX_RECORDS).contains(&hello.records));
    assert!(hello.wire_bytes - 5 * hello.records <= limit);
    if let Some(Sni::Name(name)) = &hello.server_name {
        let text = name.as_str();
        assert!((1..=253).contains(&text.len()) && text.split('.').all(|label| (1..=63).contains(&label.len())));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b'*'));
        assert_eq!(text.parse::<ServerName>().as_ref(), Ok(name));
    }
    let protocols: Vec<&[u8]> = hello.alpn.protocols().collect();
    assert_eq!(Alpn::of(&protocols), hello.alpn);
    assert!(protocols.iter().all(|protocol| hello.alpn.offers(protocol)));
}

/// Every prefix is a true beginning that asks for no byte behind the hello; what comes behind changes nothing.
fn check_prefixes(hello: &ClientHello, bytes: &[u8], limit: usize) {
    let whole = &bytes[..hello.wire_bytes];
    let same = |bytes: &[u8]| matches!(parse(bytes, limit), Ok(Hello::Whole(same)) if same == *hello);
    assert!(same(whole) && same(&[whole, bytes].concat()));
    let mut random = numbers(bytes);
    let some = std::iter::repeat_with(|| random() % whole.len()).take(20);
    for cut in [0, 1, 4, 5, 6, whole.len() - 1].into_iter().chain(some) {
        match parse(&whole[..cut], limit) {
            Ok(Hello::Needs(more)) => assert!(cut + more.get() <= whole.len(), "{cut} + {more} bytes"),
            other => panic!("{other:?} after {cut} bytes of a good hello"),
        }
    }
}

/// The same message in other records is the same hello.
fn check_other_records(hello: &ClientHello, bytes: &[u8], limit: usize) {
    let message = gathered(&bytes[..hello.wire_bytes]);
    let mut random = numbers(bytes);
    let most = 1 + random() % message.len();
    let wire = records(&message, || 1 + random() % most);
    match parse(&wire, limit) {
        Ok(Hello::Whole(again)) => {
            assert_eq!(again.server_name_as_sent(&wire), hello.server_name_as_sent(bytes));
            let mut expected = hello.clone();
            (expected.wire_bytes, expected.records) = (wire.len(), again.records);
            assert_eq!(again, expected);
        }
        Err(NotHello::TooManyRecords) => assert!(message.len() > MAX_RECORDS),
        other => panic!("{other:?}, in one record {hello:?}"),
    }
}
