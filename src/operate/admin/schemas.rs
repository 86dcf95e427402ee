//! The JSON Schemas of parameters that are more than any text, so that tools make valid ones from the description.
//!
//! In:  nothing.
//! Out: patterns and schemas.
//! Source: JSON Schema 2020-12; the regular expressions of ECMA-262.

use schemars::{Schema, SchemaGenerator, json_schema};

/// The id of a connection.
pub(super) const ID: &str = "^[0-9a-fA-F]{1,16}$";
/// Protocols of ALPN with commas between them: visible ASCII.
pub(super) const PROTOCOLS: &str = r"^([!-+\--~]{1,255}(,[!-+\--~]{1,255})*)?$";

pub(super) fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string", "format": "ipv4" }, { "type": "string", "format": "ipv6" }] })
}

/// An address or a network. Of IPv6 networks only those without `::`: a pattern for all is too long to read.
pub(super) fn network(_: &mut SchemaGenerator) -> Schema {
    const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let v4 = format!(r"^({BYTE}\.){{3}}{BYTE}/(3[0-2]|[12]?[0-9])$");
    let v6 = "^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$";
    json_schema!({ "anyOf": [
        { "type": "string", "format": "ipv4" },
        { "type": "string", "format": "ipv6" },
        { "type": "string", "pattern": v4 },
        { "type": "string", "pattern": v6 },
    ] })
}
