//! What a hostile hello announces costs no memory: only bytes that came are kept.
//!
//! An allocator that counts must be alone in its process, so these tests have a binary of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use snigate::internals::proxy_header;
use snigate::internals::{Hello, NotHello, Reader};

#[test]
fn a_message_length_that_lies_allocates_nothing() {
    // As far as the fields before the extensions, so that nothing but the length says what is to come.
    let mut begun = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xf0, 3, 3];
    begun.extend([7; 32]);
    begun.push(0);
    let allocated = allocated_by(|| {
        let read = Reader::new(64 << 10).read(&begun);
        assert!(matches!(read, Ok(Hello::Needs(_))), "{read:?}");
    });
    assert_eq!(allocated, 0);

    begun[6..9].copy_from_slice(&[0xff; 3]);
    let allocated = allocated_by(|| {
        let read = Reader::new(64 << 10).read(&begun);
        assert!(matches!(read, Err(NotHello::TooLong { .. })), "{read:?}");
    });
    assert_eq!(allocated, 0);
}

#[test]
fn a_hello_in_many_records_is_gathered_once_when_it_is_whole() {
    // A byte a record, and each record in pieces.
    let extension = [&[0, 21, 0x0b, 0xb4][..], &[0; 2996]].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0x0b, 0xb8], &extension].concat();
    let message = [&[1, 0, 0x0b, 0xe3][..], &body].concat();
    assert_eq!(message.len(), 4 + 0x0be3);
    let wire: Vec<u8> = message.iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    let mut reader = Reader::new(64 << 10);
    let allocated = allocated_by(|| {
        for at in (0..wire.len()).step_by(7) {
            let read = reader.read(&wire[..at]);
            assert!(matches!(read, Ok(Hello::Needs(_))), "{read:?}");
        }
    });
    assert_eq!(allocated, 0, "the caller holds the bytes");
    let mut read = None;
    let allocated = allocated_by(|| read = Some(reader.read(&wire)));
    assert!(matches!(read, Some(Ok(Hello::Whole(_)))), "{read:?}");
    // And the cipher suites and compression methods, as a list each.
    assert!((message.len()..message.len() + 100).contains(&allocated), "{allocated} bytes for {}", message.len());
}

#[test]
fn a_hello_in_one_record_is_parsed_in_place() {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let wire = [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41][..], &body].concat();
    let allocated = allocated_by(|| assert!(matches!(Reader::new(64 << 10).read(&wire), Ok(Hello::Whole(_)))));
    assert!(allocated < wire.len(), "{allocated} bytes for {}", wire.len());
}

#[test]
fn a_proxy_header_length_that_lies_allocates_nothing() {
    let begun = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff1234";
    let allocated = allocated_by(|| assert!(matches!(proxy_header::parse(begun), Ok(proxy_header::Parsed::Needs(_)))));
    assert_eq!(allocated, 0);
}

/// How many bytes this thread allocates inside `f`, freed ones included.
fn allocated_by(f: impl FnOnce()) -> usize {
    let before = ALLOCATED.get();
    f();
    ALLOCATED.get() - before
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;
