//! Key files: what is read, what is skipped and how that is said.

use std::fs;
use std::path::Path;

use snigate::internals::ech::{generate, read_key_file};

use crate::sealing::{PUBLIC, u16_prefixed};

fn captured() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ech/key.pem")).expect("a key file")
}

fn list(pem: &str) -> Vec<u8> {
    let (_, list) = pem.split_once("BEGIN ECHCONFIG-----\n").expect("a list");
    let (list, _) = list.split_once("-----END").expect("its end");
    data_encoding::BASE64.decode(list.replace('\n', "").as_bytes()).expect("base64")
}

fn with_list(pem: &str, list: &[u8]) -> String {
    let (private, _) = pem.split_once("-----BEGIN ECHCONFIG").expect("a list");
    let list = data_encoding::BASE64.encode(list);
    format!("{private}-----BEGIN ECHCONFIG-----\n{list}\n-----END ECHCONFIG-----\n")
}

#[track_caller]
fn refused(pem: &str, expected: &str) {
    let error = read_key_file("k", pem.as_bytes()).map(|read| format!("{read:?}")).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_new_key_is_read_as_it_was_made() {
    let made = generate(200, 33, PUBLIC).expect("a key");
    let read = read_key_file("new.pem", made.pem.as_bytes()).expect("usable");
    let [key] = &read.keys[..] else { panic!("{read:?}") };
    assert_eq!(key.config, made.config);
    assert_eq!((key.config.id, key.config.maximum_name_length, &*key.config.public_name), (200, 33, PUBLIC));
    assert!(read.skipped.is_empty() && !format!("{key:?}").contains("private: [") && key.config.suites.len() == 3);
}

#[test]
fn a_key_file_of_another_program_is_read() {
    let read = read_key_file("key.pem", captured().as_bytes()).expect("usable");
    assert_eq!((read.keys[0].config.id, &*read.keys[0].config.public_name), (42, "public.captured.test"));
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let good = captured();
    let (private, config) = good.split_at(good.find("-----BEGIN ECHCONFIG").expect("a list"));
    refused("", "no PRIVATE KEY");
    refused("not pem", "no PRIVATE KEY");
    refused(config, "no PRIVATE KEY");
    refused(private, "no ECHCONFIG");
    refused(&format!("{private}{good}"), "more than one PRIVATE KEY");
    refused(&format!("{good}{private}"), "more than one PRIVATE KEY");
    refused(
        &private.replace("MC4C", "MC4D").replacen("-----BEGIN", &format!("{config}-----BEGIN"), 1),
        "not an X25519",
    );
    refused(&with_list(&good, &[]), "length of the list");
    refused(&with_list(&good, &[0, 0]), "length of the list");
    refused(&with_list(&good, &[0, 5, 1]), "length of the list");
    // A file that is being written ends somewhere.
    for end in 1..good.len() - 1 {
        let error = read_key_file("k", &good.as_bytes()[..end]).expect_err("half a file").to_string();
        assert!(!error.is_empty() && !error.contains("MC4C"), "{end}: {error}");
    }
}

#[test]
fn configurations_that_cannot_be_used_are_skipped_by_name() {
    let good = captured();
    let config = list(&good)[2..].to_vec();
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = config.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let cases = [
        (changed(0, &[0xfe, 0x0c]), "version 0xfe0c"),
        (changed(5, &[0, 0x10]), "KEM 0x0010"),
        (changed(9, &[1]), "config_id 42 does not belong"),
        (changed(43, &[0, 9, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9]), "no supported cipher suite"),
        (changed(57, b"_ _"), "not a valid public name"),
        (changed(57, b"192.0.2.1\0"), "not a valid public name"),
    ];
    for (config_changed, expected) in cases {
        let both = [config_changed, config.clone()].concat();
        let read = read_key_file("k", with_list(&good, &u16_prefixed(&both)).as_bytes()).expect("one can be used");
        let skipped: Vec<_> = read.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(read.keys.len(), 1, "{expected}");
        assert!(matches!(&skipped[..], [skipped] if skipped.contains(expected)), "{expected}: {skipped:?}");
    }
}

/// Each byte of a list flipped, left out and doubled, and each beginning of it: no panic, and never the same key with
/// other bytes.
#[test]
fn no_length_field_of_a_list_can_be_wrong_without_being_noticed() {
    let good = captured();
    let whole = list(&good);
    let original = &read_key_file("k", good.as_bytes()).expect("usable").keys[0].config.bytes.clone();
    for at in 0..whole.len() {
        let flipped = |bit: u8| [&whole[..at], &[whole[at] ^ bit], &whole[at + 1..]].concat();
        let cut = [&whole[..at], &whole[at + 1..]].concat();
        let grown = [&whole[..=at], &whole[at..]].concat();
        for changed in [flipped(1), flipped(0x80), flipped(0xff), cut, grown, whole[..at].to_vec()] {
            if let Ok(read) = read_key_file("k", with_list(&good, &changed).as_bytes()) {
                assert!(read.keys.iter().all(|key| key.config.bytes != *original), "byte {at}");
            }
        }
    }
}
