//! Writes the answers to HTTP requests that are not relayed.
//!
//! In:  a status; where it redirects to; the method.
//! Out: [`Answer`]: the bytes of a whole response, after which the connection is closed.
//! Source: RFC 9110 §15 (status codes), §6.6.1 (Date), §10.2.1 (Allow), §10.2.3 (Retry-After); RFC 9112 §9.6 (close).

use std::fmt::Write;
use std::time::SystemTime;

/// A whole HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    pub(super) bytes: Box<[u8]>,
}

/// Whether the method allows the answer to have a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Allowed,
    /// RFC 9110 §9.3.2: an answer to HEAD has none.
    Head,
}

impl Answer {
    /// An error, explained by its own name.
    pub(crate) fn error(status: u16, body: Body) -> Self {
        let fields = match status {
            405 => "Allow: GET, HEAD\r\n",
            // What is full or down now may not be in a moment.
            503 => "Retry-After: 1\r\n",
            _ => "",
        };
        Self::new(status, fields, body)
    }

    /// Sends the client to `location`, with the same method.
    pub(crate) fn redirect(location: &str, body: Body) -> Self {
        Self::new(308, &format!("Location: {location}\r\n"), body)
    }

    fn new(status: u16, fields: &str, body: Body) -> Self {
        let phrase = phrase(status);
        let mut text =
            format!("HTTP/1.1 {status} {phrase}\r\nDate: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
        let content = format!("{status} {phrase}\n");
        let length = content.len();
        write!(text, "{fields}Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
            .expect("a String takes every text");
        if body == Body::Allowed {
            text.push_str(&content);
        }
        Self { status, bytes: text.into_bytes().into() }
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer) -> String {
        String::from_utf8(answer.bytes.to_vec()).expect("text")
    }

    #[test]
    fn an_answer_is_whole_and_closes_and_one_to_head_has_no_body() {
        for status in [308, 400, 403, 404, 405, 408, 413, 414, 431, 502, 503, 504, 505] {
            let (whole, head) = (text(&Answer::error(status, Body::Allowed)), text(&Answer::error(status, Body::Head)));
            let (fields, body) = whole.split_once("\r\n\r\n").expect("a head");
            assert!(fields.starts_with(&format!("HTTP/1.1 {status} ")) && !phrase(status).is_empty(), "{fields}");
            assert!(fields.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{fields}");
            assert!(fields.ends_with("\r\nConnection: close") && fields.contains("\r\nDate: "), "{fields}");
            assert_eq!(fields.contains("\r\nAllow: GET, HEAD\r\n"), status == 405);
            assert_eq!(fields.contains("\r\nRetry-After: 1\r\n"), status == 503);
            assert_eq!(head.split_once("\r\n\r\n").expect("a head").1, "");
        }
    }
}
