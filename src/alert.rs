//! The TLS alerts: their codes and their names.
//!
//! Source: RFC 8446 §6 and §6.2, RFC 6066 §3, RFC 7301 §3.2, RFC 8446 appendix B.2.

use std::fmt;

/// An AlertDescription. Any byte may come from the wire, also one that no RFC names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(u8);

macro_rules! alerts {
    ($($name:ident = $code:literal $word:literal,)*) => {
        impl Alert {
            $(#[doc = $word] pub const $name: Self = Self($code);)*

            /// All that have a name.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that the RFC gives it, or `unknown`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $word,)*
                    _ => "unknown",
                }
            }
        }
    };
}

alerts! {
    CLOSE_NOTIFY = 0 "close_notify",
    UNEXPECTED_MESSAGE = 10 "unexpected_message",
    BAD_RECORD_MAC = 20 "bad_record_mac",
    RECORD_OVERFLOW = 22 "record_overflow",
    HANDSHAKE_FAILURE = 40 "handshake_failure",
    BAD_CERTIFICATE = 42 "bad_certificate",
    UNSUPPORTED_CERTIFICATE = 43 "unsupported_certificate",
    CERTIFICATE_REVOKED = 44 "certificate_revoked",
    CERTIFICATE_EXPIRED = 45 "certificate_expired",
    CERTIFICATE_UNKNOWN = 46 "certificate_unknown",
    ILLEGAL_PARAMETER = 47 "illegal_parameter",
    UNKNOWN_CA = 48 "unknown_ca",
    ACCESS_DENIED = 49 "access_denied",
    DECODE_ERROR = 50 "decode_error",
    DECRYPT_ERROR = 51 "decrypt_error",
    PROTOCOL_VERSION = 70 "protocol_version",
    INSUFFICIENT_SECURITY = 71 "insufficient_security",
    INTERNAL_ERROR = 80 "internal_error",
    INAPPROPRIATE_FALLBACK = 86 "inappropriate_fallback",
    USER_CANCELED = 90 "user_canceled",
    MISSING_EXTENSION = 109 "missing_extension",
    UNSUPPORTED_EXTENSION = 110 "unsupported_extension",
    UNRECOGNIZED_NAME = 112 "unrecognized_name",
    BAD_CERTIFICATE_STATUS_RESPONSE = 113 "bad_certificate_status_response",
    UNKNOWN_PSK_IDENTITY = 115 "unknown_psk_identity",
    CERTIFICATE_REQUIRED = 116 "certificate_required",
    NO_APPLICATION_PROTOCOL = 120 "no_application_protocol",
}

impl Alert {
    /// An alert by its code (RFC 8446 §6).
    pub const fn new(code: u8) -> Self {
        Self(code)
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.code())
    }
}
