//! Hellos that must be refused, each by hand; and that no byte from outside does harm.

use proptest::prelude::*;
use snigate::internals::NotHello;
use snigate::internals::ech::{Illegal, Opened, open};

use crate::sealing::{
    Client, INNER, LIMIT, body, encoded, extension, key, keys, mark, message, outer_extensions, outer_with, read,
    record, sni, u16_prefixed, usual, versions,
};

#[test]
fn an_extension_that_is_not_well_formed_is_illegal() {
    let keys = keys(&[&key(1)]);
    let whole = [&[0, 0, 1, 0, 1, 1][..], &u16_prefixed(&[9; 32]), &u16_prefixed(&[5; 64])].concat();
    let mut wrong = vec![vec![], vec![1], vec![1, 0], vec![2], vec![255, 1, 2], [&whole[..], &[0]].concat()];
    wrong.extend((1..whole.len()).map(|bytes| whole[..bytes].to_vec()));
    // No payload, which has at least one byte.
    wrong.push([&[0, 0, 1, 0, 1, 1][..], &u16_prefixed(&[9; 32]), &u16_prefixed(&[])].concat());
    for at in [6, 40] {
        for value in [0, 31, 33, 63, 65, 255] {
            let mut changed = whole.clone();
            if changed[at + 1] != value {
                changed[at + 1] = value;
                wrong.push(changed);
            }
        }
    }
    for content in wrong {
        let wire = outer_with(&content);
        let refused = open(&wire, &read(&wire), &keys, LIMIT).expect_err("refused");
        assert!(matches!(refused, Illegal::Extension(_)), "{content:?}: {refused:?}");
    }
    assert!(matches!(open(&outer_with(&whole), &read(&outer_with(&whole)), &keys, LIMIT), Ok(Opened::NotForUs)));
}

#[test]
fn an_inner_hello_against_the_rules_is_illegal() {
    let tail = [versions(&[0x0304]), mark()].concat();
    let with = |middle: &[u8]| encoded(&[sni(INNER), middle.to_vec(), tail.clone()].concat());
    let taking = |kinds: &[u16]| with(&outer_extensions(kinds));
    let ending = |ending: &[Vec<u8>]| encoded(&[sni(INNER), ending.concat()].concat());
    let padded = |byte: u8| [encoded(&usual()), vec![0, 0, byte]].concat();
    let cases = [
        (padded(1), "padding that is not zero"),
        (body(&[7; 32], &usual()), "a session id of its own"),
        (taking(&[99]), "missing"),
        (taking(&[10, 10]), "repeated"),
        (taking(&[51, 10]), "out of order"),
        (taking(&[10, 0xfe0d]), "may not be in it"),
        (taking(&[0xfd00]), "may not be in it"),
        (taking(&[]), "malformed ech_outer_extensions"),
        (with(&extension(0xfd00, &[])), "malformed ech_outer_extensions"),
        (with(&extension(0xfd00, &[3, 0, 10, 0])), "malformed ech_outer_extensions"),
        (with(&extension(0xfd00, &[2, 0, 10, 0])), "malformed ech_outer_extensions"),
        (with(&extension(0xfd00, &[4, 0, 10])), "malformed ech_outer_extensions"),
        (with(&[outer_extensions(&[10]), outer_extensions(&[51])].concat()), "ech_outer_extensions twice"),
        (ending(&[versions(&[0x0304])]), "no encrypted_client_hello of type inner"),
        (ending(&[versions(&[0x0304]), extension(0xfe0d, &[])]), "no encrypted_client_hello of type inner"),
        (ending(&[versions(&[0x0304]), extension(0xfe0d, &[0])]), "no encrypted_client_hello of type inner"),
        (ending(&[versions(&[0x0304]), extension(0xfe0d, &[1, 0])]), "no encrypted_client_hello of type inner"),
        (ending(&[mark()]), "no supported_versions"),
        (ending(&[versions(&[0x1a1a]), mark()]), "does not offer TLS 1.3"),
        (ending(&[versions(&[]), mark()]), "does not offer TLS 1.3"),
        (ending(&[versions(&[0x0304, 0x0303]), mark()]), "below TLS 1.3"),
        (ending(&[versions(&[0x0304, 0x0002]), mark()]), "below TLS 1.3"),
        // The outer hello offers TLS 1.2 too.
        (ending(&[outer_extensions(&[43]), mark()]), "below TLS 1.3"),
        (ending(&[extension(43, &[3, 3, 4, 0]), mark()]), "malformed supported_versions"),
        (ending(&[extension(43, &[2, 3, 4, 0]), mark()]), "malformed supported_versions"),
        (Vec::new(), "its fields do not fit"),
        (vec![0; 200], "its fields do not fit"),
        (encoded(&[0, 0, 0]), "an extension longer than its list"),
        (encoded(&[0, 0, 0, 1]), "an extension longer than its list"),
    ];
    let key = key(1);
    for (inner, what) in cases {
        let wire = Client::of(&key).seal(&inner);
        let refused = open(&wire, &read(&wire), &keys(&[&key]), LIMIT).expect_err(what);
        assert!(matches!(refused, Illegal::Inner(said) if said.contains(what)), "{what}: {refused:?}");
    }
}

#[test]
fn an_inner_hello_passes_the_rules_of_every_hello() {
    let key = key(1);
    let refused = |extensions: &[Vec<u8>]| {
        let inner = encoded(&[extensions.concat(), versions(&[0x0304]), mark()].concat());
        let wire = Client::of(&key).seal(&inner);
        match open(&wire, &read(&wire), &keys(&[&key]), LIMIT) {
            Err(Illegal::Hello(error)) => error,
            other => panic!("not refused: {other:?}"),
        }
    };
    assert!(matches!(refused(&[sni("a_b c.example")]), NotHello::Name { .. }));
    assert!(matches!(refused(&[sni(INNER), sni("second.example")]), NotHello::TwoNames));
    // The outer name may be taken over too, but not as a second one.
    assert!(matches!(refused(&[sni(INNER), outer_extensions(&[0])]), NotHello::TwoNames));
    assert!(matches!(refused(&[extension(10, &[0, 2, 0, 29]), outer_extensions(&[10])]), NotHello::Malformed(_)));
}

#[test]
fn no_length_field_of_a_sealed_hello_can_be_wrong_without_being_noticed() {
    let key = key(1);
    let keys = keys(&[&key]);
    let inner = [encoded(&usual()), vec![0; 8]].concat();
    for at in 0..inner.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = inner.clone();
            changed[at] = changed[at].wrapping_add(change);
            check(&Client::of(&key).seal(&changed), &keys);
        }
        let cut = [&inner[..at], &inner[at + 1..]].concat();
        check(&Client::of(&key).seal(&cut), &keys);
        let grown = [&inner[..at], &[0], &inner[at..]].concat();
        check(&Client::of(&key).seal(&grown), &keys);
        check(&Client::of(&key).seal(&inner[..at]), &keys);
    }
}

/// Whatever was sealed, what comes out is a hello that the reader accepts, with the mark, or nothing.
fn check(wire: &[u8], keys: &snigate::internals::ech::Keys) {
    match open(wire, &read(wire), keys, LIMIT) {
        Ok(Opened::Inner(inner)) => {
            let again = read(&inner.prefix);
            assert_eq!(again, inner.hello);
            assert!(again.offers.tls13() && again.offers.ech);
        }
        Err(Illegal::Inner(_) | Illegal::Hello(_)) => {}
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_hello_that_was_changed_is_never_opened(at in 0_usize..400, change in 1_u8..=255) {
        let key = key(1);
        let wire = Client::of(&key).seal(&encoded(&usual()));
        let mut changed = wire.clone();
        // The record version is not part of what is sealed.
        let at = 9 + at % (wire.len() - 9);
        changed[at] ^= change;
        let Ok(snigate::internals::Hello::Whole(hello)) = snigate::internals::parse(&changed, LIMIT) else { return Ok(()) };
        let opened = open(&changed, &hello, &keys(&[&key]), LIMIT);
        prop_assert!(!matches!(opened, Ok(Opened::Inner(_))), "byte {at}: {opened:?}");
    }

    #[test]
    fn arbitrary_content_does_no_harm(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let wire = outer_with(&content);
        let opened = open(&wire, &read(&wire), &keys(&[&key(1)]), LIMIT);
        prop_assert!(!matches!(opened, Ok(Opened::Inner(_) | Opened::Absent)));
    }

    #[test]
    fn an_arbitrary_inner_hello_does_no_harm(inner in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = key(1);
        check(&Client::of(&key).seal(&inner), &keys(&[&key]));
        check(&Client::of(&key).seal(&encoded(&inner)), &keys(&[&key]));
    }
}

#[test]
fn a_hello_without_a_header_is_not_opened() {
    let wire = record(&message(&body(&[], &[sni(INNER), versions(&[0x0304]), mark()].concat())));
    let hello = read(&wire);
    for cut in [0, 5, 9, 40] {
        assert!(matches!(open(&wire[..cut], &hello, &keys(&[]), LIMIT), Err(Illegal::Extension(_))), "{cut}");
    }
}
