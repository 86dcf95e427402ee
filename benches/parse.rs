//! What does reading a ClientHello cost?
//!
//! `cargo bench --bench parse`. The hello lies in the cache, as it does when it has just been received.

use std::fs;
use std::path::Path;

use divan::{Bencher, black_box};
use snigate::internals::{Hello, parse};

fn main() {
    divan::main();
}

/// As most clients sent it for years: padded to 517 bytes, captured from OpenSSL.
#[divan::bench]
fn of_517_bytes(bencher: Bencher) {
    let hello = captured("curl-default.bin");
    assert_eq!(hello.len(), 517);
    bench(bencher, &hello);
}

/// As browsers send it now, with a post-quantum key share.
#[divan::bench]
fn post_quantum_of_1800_bytes(bencher: Bencher) {
    let hello = records(&post_quantum(), 1 << 14);
    assert!((1750..1850).contains(&hello.len()));
    bench(bencher, &hello);
}

/// The same, cut into as many records as some clients do on purpose.
#[divan::bench]
fn post_quantum_in_16_records(bencher: Bencher) {
    let message = post_quantum();
    let hello = records(&message, message.len().div_ceil(16));
    bench(bencher, &hello);
}

fn bench(bencher: Bencher, hello: &[u8]) {
    assert!(matches!(parse(hello, LIMIT), Ok(Hello::Whole(hello)) if hello.server_name.is_some()));
    bencher.bench_local(|| parse(black_box(hello), LIMIT));
}

fn captured(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hellos").join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Extensions of the kinds and sizes that a browser of 2025 sends; what is in those that are not read is zeros.
fn post_quantum() -> Vec<u8> {
    let name = b"www.shop.example.com";
    let sni = [&[0][..], &u16_prefixed(name)].concat();
    let groups = [0x2a, 0x2a, 0x11, 0xec, 0, 0x1d, 0, 0x17, 0, 0x18];
    let extensions: Vec<(u16, Vec<u8>)> = vec![
        (0x4a4a, vec![]),
        (0x0000, u16_prefixed(&sni)),
        (0x0017, vec![]),
        (0xff01, vec![0]),
        (0x000a, u16_prefixed(&groups)),
        (0x000b, vec![1, 0]),
        (0x0023, vec![]),
        (0x0010, u16_prefixed(b"\x02h2\x08http/1.1")),
        (0x0005, vec![1, 0, 0, 0, 0]),
        (0x000d, u16_prefixed(&[0; 16])),
        (0x0012, vec![]),
        (0x0033, vec![0; 2 + 5 + 4 + 1216 + 4 + 32]),
        (0x002d, vec![1, 1]),
        (0x002b, vec![6, 0x3a, 0x3a, 3, 4, 3, 3]),
        (0x001b, vec![2, 0, 2]),
        (0x44cd, vec![0, 3, 2, b'h', b'2']),
        (0xfe0d, vec![0; 250]),
        (0x6a6a, vec![0]),
    ];
    let list: Vec<u8> =
        extensions.iter().flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &u16_prefixed(data)].concat()).collect();
    let body =
        [&[3, 3][..], &[7; 32], &[32], &[8; 32], &u16_prefixed(&[0x13; 32]), &[1, 0], &u16_prefixed(&list)].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

fn u16_prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).expect("short").to_be_bytes()[..], data].concat()
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    message.chunks(fragment_bytes).flat_map(|fragment| [&[0x16, 3, 1][..], &u16_prefixed(fragment)].concat()).collect()
}

const LIMIT: usize = 64 << 10;
