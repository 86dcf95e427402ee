//! Compresses the page for browsers that accept it: the many rows of a large configuration say much the same.
//!
//! In:  an answer, the header `Accept-Encoding`.
//! Out: the answer in gzip, or as it is.
//! Source: RFC 9110 §12.5.3, RFC 1952.

use std::io::Write;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use flate2::Compression;
use flate2::write::GzEncoder;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::operate::admin) enum Encoding {
    Gzip,
    Identity,
}

impl Encoding {
    /// What a client accepts.
    pub(in crate::operate::admin) fn of(headers: &HeaderMap) -> Self {
        let accepts = |coding: &str| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            // A weight of zero, as `q=0.0`, refuses it.
            is_gzip && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
        };
        let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        if values.flat_map(|value| value.split(',')).any(accepts) { Self::Gzip } else { Self::Identity }
    }
}

/// The body for `html`, and the headers that say what it is.
pub(super) fn body(html: String, encoding: Encoding, headers: &mut HeaderMap) -> Body {
    headers.insert(header::VARY, HeaderValue::from_name(header::ACCEPT_ENCODING));
    match encoding {
        Encoding::Identity => Body::from(html),
        Encoding::Gzip => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Body::from(gzip(html.as_bytes()))
        }
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_accept_it() {
        for (accepts, wanted) in [
            ("gzip, deflate, br, zstd", Encoding::Gzip),
            ("br;q=1.0, GZIP;q=0.5", Encoding::Gzip),
            ("gzip;q=0", Encoding::Identity),
            ("gzip; q=0.000", Encoding::Identity),
            ("identity", Encoding::Identity),
            ("xgzip", Encoding::Identity),
            ("", Encoding::Identity),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accepts))]);
            assert_eq!(Encoding::of(&headers), wanted, "{accepts}");
        }
        assert_eq!(Encoding::of(&HeaderMap::new()), Encoding::Identity);
    }
}
