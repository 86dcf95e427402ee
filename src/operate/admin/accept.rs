//! Chooses the format of the metrics by what a client accepts.
//!
//! In:  the Accept fields of a request.
//! Out: [`Format`]: OpenMetrics for those who ask for it by name and like it no less than the others.
//! Source: RFC 9110 §12.4.2 (weights), §12.5.1 (Accept); OpenMetrics 1.0, "Protocol Negotiation".

use axum::http::{HeaderMap, header};

use crate::telemetry::Format;

/// Whatever cannot be read is passed over: a client that asks for nothing we know gets the text that everybody reads.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let fields = headers.get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
    let (mut open, mut text) = (Weight::default(), Weight::default());
    for range in fields.flat_map(|field| field.split(',')).filter_map(Range::read) {
        match (range.kind, range.version) {
            (OPEN_METRICS, None | Some("1.0.0")) => open.set(2, range.weight),
            (TEXT, None | Some("0.0.4")) => text.set(2, range.weight),
            ("text/*", None) => text.set(1, range.weight),
            ("application/*", None) => open.set(1, range.weight),
            ("*/*", None) => text.set(0, range.weight),
            _ => {}
        }
    }
    if open.thousandths > 0 && open.thousandths >= text.thousandths { Format::OpenMetrics } else { Format::Text }
}

/// The weight of a media type: that of the range that names it most closely.
#[derive(Clone, Copy, Default)]
struct Weight {
    thousandths: u16,
    closeness: u8,
}

impl Weight {
    fn set(&mut self, closeness: u8, thousandths: u16) {
        let is_as_close = closeness == self.closeness && thousandths > self.thousandths;
        if closeness > self.closeness || is_as_close {
            *self = Self { thousandths, closeness };
        }
    }
}

/// One media range of an Accept field.
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    weight: u16,
}

impl<'a> Range<'a> {
    fn read(range: &'a str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        let known = [OPEN_METRICS, TEXT, "text/*", "application/*", "*/*"];
        let kind = parts.next()?;
        let kind = known.into_iter().find(|known| known.eq_ignore_ascii_case(kind))?;
        let mut read = Self { kind, version: None, weight: 1000 };
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => read.weight = weight(value)?,
                name if name.eq_ignore_ascii_case("version") => read.version = Some(value),
                // Such as `charset` and `escaping`.
                _ => {}
            }
        }
        Some(read)
    }
}

/// `0.5` in thousandths. At most three digits (RFC 9110 §12.4.2).
fn weight(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text";
const TEXT: &str = "text/plain";

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        for (accept, wanted) in [
            // Prometheus 2 and 3, VictoriaMetrics, curl, a browser.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Text),
            ("", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.001", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.5", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Text),
            ("application/openmetrics-text;q=0.4,text/*;q=0.5", Format::Text),
            ("application/openmetrics-text;q=0.4,text/*;q=0.5,text/plain;q=0.3", Format::OpenMetrics),
            ("application/*", Format::OpenMetrics),
            ("application/*,application/openmetrics-text;q=0", Format::Text),
            // Versions that we do not write.
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
            // Not a weight, or not accepted.
            ("application/openmetrics-text;q=1.5", Format::Text),
            ("application/openmetrics-text;q=", Format::Text),
            ("application/openmetrics-text;q=-1", Format::Text),
            ("application/openmetrics-text;q=0.1234", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.000", Format::Text),
            ("application/openmetrics-text;q", Format::Text),
            (";;;,,,=,q=1", Format::Text),
        ] {
            let headers = [(header::ACCEPT, HeaderValue::from_str(accept).unwrap())].into_iter().collect();
            assert_eq!(format(&headers), wanted, "{accept}");
        }
        assert_eq!(format(&HeaderMap::new()), Format::Text);
    }

    #[test]
    fn several_fields_are_one_list_and_what_is_not_text_is_passed_over() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        headers.append(header::ACCEPT, HeaderValue::from_static("text/plain;q=0.5"));
        assert_eq!(format(&headers), Format::Text);
        headers.append(header::ACCEPT, HeaderValue::from_static("application/openmetrics-text;version=1.0.0"));
        assert_eq!(format(&headers), Format::OpenMetrics);
    }
}
