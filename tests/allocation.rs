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
fn a_hello_in_many_records_is_kept_once() {
    // 4,000 bytes of an honest hello of 60,000, a byte a record.
    let mut begun = Vec::new();
    let message = [&[1, 0, 0xea, 0x60, 3, 3][..], &[7; 32], &[0, 0x80, 0], &[9; 4000]].concat();
    for byte in &message {
        begun.extend([0x16, 3, 1, 0, 1, *byte]);
    }
    let mut reader = Reader::new(64 << 10);
    let allocated = allocated_by(|| {
        for at in (0..begun.len()).step_by(7) {
            let read = reader.read(&begun[..at]);
            assert!(matches!(read, Ok(Hello::Needs(_))), "{read:?}");
        }
    });
    // A buffer that doubles allocates less than four times what it ends up with.
    assert!(allocated <= 4 * message.len(), "{allocated} bytes for {}", message.len());
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
