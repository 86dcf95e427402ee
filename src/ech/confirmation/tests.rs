use data_encoding::HEXLOWER;

use super::*;

const HELLO_RETRY_REQUEST: &str = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("hexadecimal")
}

fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let [_, high, middle, low] = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind, high, middle, low][..], &body].concat()
}

fn prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).expect("short").to_be_bytes()[..], data].concat()
}

fn hello() -> Awaited {
    let random: Vec<u8> = (0..32).collect();
    let rest = hex("000006130113021303010000" /* no session id, suites, no compression */);
    let message = message(1, &[&[3, 3], &random, &rest, &hex("05fe0d000101")]);
    Awaited::new(&message).expect("a whole hello")
}

/// With a confirmation in its random.
fn server_hello(suite: u16, confirmation: &[u8]) -> Vec<u8> {
    let share = [&hex("002b0002030400330024001d0020")[..], &[9; 32]].concat();
    let random = [&[7; 24][..], confirmation].concat();
    message(2, &[&[3, 3], &random, &[0], &suite.to_be_bytes(), &[0], &prefixed(&share)])
}

/// With this content of an encrypted_client_hello extension, if any.
fn retry(suite: u16, confirmation: Option<&[u8]>) -> Vec<u8> {
    let ech = confirmation.map(|content| [&hex("fe0d")[..], &prefixed(content)].concat()).unwrap_or_default();
    let extensions = [hex("002b00020304003300020017"), ech].concat();
    let random = hex(HELLO_RETRY_REQUEST);
    message(2, &[&[3, 3], &random, &[0], &suite.to_be_bytes(), &[0], &prefixed(&extensions)])
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    message.chunks(fragment_bytes).flat_map(|part| [&[22, 3, 3][..], &prefixed(part)].concat()).collect()
}

fn judged(answer: &[u8]) -> Option<Confirmation> {
    hello().read(answer)
}

/// Computed with Python's `hashlib` and `hmac`, by the text of the RFC.
const VECTORS: [(u16, &str, &str); 3] = [
    (0x1301, "348790b1ac946657", "af24a1fdc4fa985a"),
    (0x1302, "8136407fd3110b80", "e6862c0da13bea67"),
    (0x1303, "65a63dfb8ad86202", "d2d2a1fe44c13631"),
];

#[test]
fn an_answer_is_confirmed_by_eight_bytes_that_depend_on_all_others() {
    for (suite, in_hello, in_retry) in VECTORS {
        for answer in [server_hello(suite, &hex(in_hello)), retry(suite, Some(&hex(in_retry)))] {
            assert_eq!(judged(&records(&answer, 1 << 14)), Some(Confirmation::Confirmed), "{suite:x}");
            // Each bit counts, apart from those of the headers and of what makes it another answer.
            for at in (0..answer.len()).filter(|&at| at >= 6) {
                let mut changed = answer.clone();
                changed[at] ^= 1;
                assert_ne!(judged(&records(&changed, 1 << 14)), Some(Confirmation::Confirmed), "{suite:x} {at}");
            }
        }
    }
}

#[test]
fn an_answer_is_judged_once_its_first_message_is_complete_however_it_is_cut() {
    let answer = server_hello(0x1301, &hex(VECTORS[0].1));
    for fragment_bytes in [1, 3, 100, 1 << 14] {
        let wire = [records(&answer, fragment_bytes), b"\x14\x03\x03\0\x01\x01".to_vec()].concat();
        let whole = records(&answer, fragment_bytes).len();
        for step in [1, 7, wire.len()] {
            let (mut awaited, mut read) = (hello(), 0);
            let confirmation = wire.chunks(step).find_map(|part| {
                read += part.len();
                awaited.read(part)
            });
            assert_eq!(confirmation, Some(Confirmation::Confirmed), "{fragment_bytes} {step}");
            assert!(read >= whole && read < whole + step, "{read} of {whole}");
        }
    }
}

#[test]
fn a_server_that_ignores_the_inner_hello_has_not_confirmed_it() {
    let unconfirmed = [
        server_hello(0x1301, &[7; 8]),
        // The value of another suite.
        server_hello(0x1303, &hex(VECTORS[0].1)),
        retry(0x1301, None),
        retry(0x1301, Some(&[7; 8])),
        retry(0x1301, Some(&[7; 9])),
        // The label of the other message.
        retry(0x1301, Some(&hex(VECTORS[0].1))),
        // TLS 1.2, without extensions.
        message(2, &[&[3, 3], &[7; 32], &[0], &[0xc0, 0x2f], &[0]]),
    ];
    for answer in unconfirmed {
        assert_eq!(judged(&records(&answer, 1 << 14)), Some(Confirmation::Unconfirmed), "{answer:?}");
    }
}

#[test]
fn what_is_no_server_hello_shows_nothing_and_is_not_kept() {
    let other = [
        &b"\x15\x03\x03\0\x02\x02\x28"[..],
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x03\x03\0\0",
        // Another message; one that is too long; one that is malformed; a suite that is not known.
        b"\x16\x03\x03\0\x04\x0b\0\0\0",
        b"\x16\x03\x03\x40\0\x02\xff\xff\xff",
        b"\x16\x03\x03\0\x06\x02\0\0\x02\x03\x03",
        &records(&server_hello(0x13aa, &[7; 8]), 1 << 14),
        &records(&message(2, &[&[3, 3], &[7; 32], &[0, 0x13, 1, 0], &[0, 9, 0, 1]]), 1 << 14),
    ];
    for answer in other {
        assert_eq!(judged(answer), Some(Confirmation::Unknown), "{answer:?}");
    }
    // One byte in each record.
    let mut awaited = hello();
    let endless = records(&message(2, &[&[0; 4000]]), 1);
    assert_eq!(endless.chunks(1000).find_map(|part| awaited.read(part)), Some(Confirmation::Unknown));
    assert!(awaited.answer.len() <= MAX_ANSWER_BYTES);
    assert!(Awaited::new(&[1, 0, 0, 33, 3, 3, 0]).is_none());
}
