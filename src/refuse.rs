//! Refuses a client in its own protocol.
//!
//! In:  how the configuration refuses, and what the client sent; then its stream.
//! Out: [`TurnedAway`]; then the alert or answer on the wire, and a close that does not discard it.
//! Source: RFC 8446 §6 (alerts), RFC 6066 §3 (unrecognized_name).

mod answer;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use self::answer::{Answer, Body};
use crate::alert::Alert;
use crate::client_hello::{ClientHello, NotHello};
use crate::ech::Illegal;
use crate::request_head::BadRequest;
use crate::scratch::with_scratch;
use crate::settings::Refuse;
use crate::socket;
use crate::starttls;
use crate::telemetry::{Match, Reason, Saw};

/// What a refused client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A fatal alert in a record of `version`.
    Alert { version: u16, alert: Alert },
    /// To a client that speaks HTTP/1 to a port that speaks TLS.
    Http,
    /// To a client whose exchange before TLS fails, in its own protocol.
    Starttls(starttls::Refused),
    /// To a client of a listener that speaks HTTP.
    Answer(Answer),
    /// FIN, also to a client that is still sending.
    Close,
    /// FIN to a client that has been silent for so long that we do not wait for its FIN.
    Leave,
    /// RST, so that a client takes it for a failure and tries again.
    Reset,
    /// Nothing: neither FIN nor RST.
    Drop,
}

/// The end of a connection that is not relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    /// For the log and the metrics.
    pub reason: Reason,
    pub refusal: Refusal,
}

/// What of a ClientHello decides how its client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub tls13: bool,
    /// The version of the record that carries an alert.
    pub alert_version: u16,
}

impl Offer {
    /// A client that offers TLS 1.3.
    pub(crate) const TLS13: Self = Self { tls13: true, alert_version: 0x0303 };
    /// A client that offers TLS 1.2 and nothing newer.
    pub(crate) const TLS12: Self = Self { tls13: false, alert_version: 0x0303 };

    pub(crate) fn of(hello: &ClientHello) -> Self {
        Self { tls13: hello.offers.tls13(), alert_version: hello.alert_version() }
    }
}

/// Decides how a client that sent a ClientHello is refused, when the configuration says `how` for what `matched`.
pub(crate) fn for_hello(how: Refuse, matched: Match, offer: Offer) -> TurnedAway {
    let (reason, alert) = match matched {
        // RFC 8446 §9.2: a server that requires server_name answers missing_extension. TLS 1.2 has no such alert.
        Match::NoSni if offer.tls13 => (Reason::NoSni, Alert::MISSING_EXTENSION),
        Match::NoSni => (Reason::NoSni, Alert::HANDSHAKE_FAILURE),
        Match::Unmatched => (Reason::NoRoute, Alert::UNRECOGNIZED_NAME),
        _ => (Reason::Refused, Alert::UNRECOGNIZED_NAME),
    };
    let refusal = match how {
        Refuse::Alert => Refusal::Alert { version: offer.alert_version, alert },
        Refuse::Close => Refusal::Close,
        Refuse::Reset => Refusal::Reset,
        Refuse::Drop => Refusal::Drop,
    };
    TurnedAway { reason, refusal }
}

/// Decides the same for a client whose `first_bytes` are not TLS. It would not understand an alert.
pub(crate) fn for_not_tls(how: Refuse, first_bytes: &[u8]) -> TurnedAway {
    let refusal = match how {
        Refuse::Reset => Refusal::Reset,
        Refuse::Drop => Refusal::Drop,
        Refuse::Alert | Refuse::Close if looks_like_http(first_bytes) => Refusal::Http,
        Refuse::Alert | Refuse::Close => Refusal::Close,
    };
    TurnedAway { reason: Reason::NotTls, refusal }
}

/// Decides how a client is refused whose bytes, which begin with `first_bytes`, do not lead to TLS.
pub(crate) fn for_starttls(refused: starttls::Refused, first_bytes: &[u8]) -> TurnedAway {
    match refused {
        starttls::Refused::Foreign => for_not_tls(Refuse::Close, first_bytes),
        _ if refused.is_malformed() => TurnedAway { reason: Reason::BadHello, refusal: Refusal::Starttls(refused) },
        _ => TurnedAway { reason: Reason::NotTls, refusal: Refusal::Starttls(refused) },
    }
}

/// Decides how a request is refused, when the configuration says `how` for what `matched`. `body`: of its answer.
pub(crate) fn for_request(how: Refuse, matched: Match, body: Body) -> TurnedAway {
    let reason = match matched {
        Match::NoSni => Reason::NoSni,
        Match::Unmatched => Reason::NoRoute,
        _ => Reason::Refused,
    };
    let refusal = match how {
        Refuse::Alert => Refusal::Answer(Answer::error(404, body)),
        Refuse::Close => Refusal::Close,
        Refuse::Reset => Refusal::Reset,
        Refuse::Drop => Refusal::Drop,
    };
    TurnedAway { reason, refusal }
}

/// Decides how a client is refused whose request cannot be served. `body`: of its answer.
pub(crate) fn for_bad_request(error: &BadRequest, body: Body) -> TurnedAway {
    let refusal = match error {
        // It would not understand HTTP.
        BadRequest::Tls => Refusal::Alert { version: 0x0303, alert: Alert::PROTOCOL_VERSION },
        error => Refusal::Answer(Answer::error(error.status(), body)),
    };
    TurnedAway { reason: Reason::BadRequest, refusal }
}

/// Decides how a client is refused whose bytes do not make a hello.
pub(crate) fn for_not_hello(error: &NotHello) -> TurnedAway {
    let (reason, alert) = match error {
        NotHello::NotTls => return TurnedAway { reason: Reason::NotTls, refusal: Refusal::Close },
        NotHello::Malformed(_) => (Reason::BadHello, Alert::DECODE_ERROR),
        NotHello::Name { .. } | NotHello::TwoNames => (Reason::InvalidSni, Alert::ILLEGAL_PARAMETER),
        NotHello::TooLong { .. } | NotHello::TooManyRecords => (Reason::HelloTooLarge, Alert::RECORD_OVERFLOW),
    };
    TurnedAway { reason, refusal: Refusal::Alert { version: 0x0303, alert } }
}

/// Decides how a client is refused whose encrypted_client_hello extension, or the hello in it, violates RFC 9849.
pub(crate) fn for_illegal_ech(illegal: &Illegal) -> TurnedAway {
    match illegal {
        Illegal::Hello(error) => for_not_hello(error),
        Illegal::Extension(_) | Illegal::Inner(_) | Illegal::PublicName => bad_hello(Alert::ILLEGAL_PARAMETER),
        Illegal::Missing => bad_hello(Alert::MISSING_EXTENSION),
        Illegal::Sealed => bad_hello(Alert::DECRYPT_ERROR),
    }
}

fn bad_hello(alert: Alert) -> TurnedAway {
    TurnedAway { reason: Reason::BadHello, refusal: Refusal::Alert { version: 0x0303, alert } }
}

/// RFC 8446 §6.2, access_denied: what a client sees that `allow` or `deny` of its route keeps out. No backend that has a
/// certificate sends it at this point, so it tells the two apart.
pub(crate) fn denied(offer: Offer) -> TurnedAway {
    let refusal = Refusal::Alert { version: offer.alert_version, alert: Alert::ACCESS_DENIED };
    TurnedAway { reason: Reason::Denied, refusal }
}

/// RFC 8446 §4.1.2: a second hello may change only what the server requested, which is never the name.
pub(crate) const NAME_CHANGED: TurnedAway = TurnedAway {
    reason: Reason::NameChanged,
    refusal: Refusal::Alert { version: 0x0303, alert: Alert::ILLEGAL_PARAMETER },
};

/// Refuses `client`, which the caller then drops; waits until it has read the answer or has had its time.
pub(crate) async fn refuse(client: &mut TcpStream, refusal: &Refusal) {
    match refusal {
        Refusal::Alert { version, alert } => {
            let [high, low] = version.to_be_bytes();
            say(client, &[ALERT_RECORD, high, low, 0, 2, FATAL, alert.code()]).await;
        }
        Refusal::Http => say(client, HTTP_ANSWER).await,
        Refusal::Starttls(refused) => say(client, &refused.answer()).await,
        Refusal::Answer(answer) => say(client, &answer.bytes).await,
        Refusal::Close => say(client, &[]).await,
        Refusal::Leave => {}
        Refusal::Reset => socket::reset_on_drop(client),
        Refusal::Drop => {
            if let Err(error) = socket::vanish_on_drop(client) {
                warn_that_clients_may_notice(&error);
            }
        }
    }
}

/// Once: it is the same for every client.
fn warn_that_clients_may_notice(error: &io::Error) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            event = "drop_not_silent",
            %error,
            "`refuse: drop` is silent only with CAP_NET_ADMIN; without it, a reset is sent that no router forwards"
        );
    });
}

/// What the first bytes of a client that does not speak TLS look like, for the log.
pub(crate) fn saw(first_bytes: &[u8]) -> Saw {
    match first_bytes {
        [b'S', b'S', b'H', b'-', ..] => Saw::Ssh,
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => Saw::Proxy,
        _ if looks_like_http(first_bytes) => Saw::Http,
        _ if starttls::looks_like_postgres(first_bytes) => Saw::Postgres,
        _ => Saw::Other,
    }
}

/// Whether the first bytes look like an HTTP/1 request, as far as they came.
fn looks_like_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some((method, target)) = line.iter().position(|&byte| byte == b' ').map(|space| line.split_at(space)) else {
        return false;
    };
    (3..=8).contains(&method.len())
        && method.iter().all(u8::is_ascii_uppercase)
        && matches!(target.get(1), Some(b'/' | b'h' | b'*'))
}

/// Writes, sends FIN, and reads on for a while: closing with bytes unread would send a RST, which takes the answer from
/// a client that has not read it yet.
async fn say(client: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8]) {
    let exchange = async {
        client.write_all(answer).await?;
        client.shutdown().await?;
        let mut left = MOST_DRAINED_BYTES;
        while left > 0 {
            match poll_fn(|cx| with_scratch(|scratch| poll_read(client, cx, scratch))).await? {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        io::Result::Ok(())
    };
    // A client that is gone, or that does not close, has had its answer.
    let _ = timeout(PATIENCE, exchange).await;
}

fn poll_read(client: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(client).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

const ALERT_RECORD: u8 = 21;
const FATAL: u8 = 2;
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 40\r\nConnection: close\r\n\r\nThis port speaks TLS: use https:// here\n";
/// Room for what a client had in flight: 16 KiB of early data in several records, and some more.
const MOST_DRAINED_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn refused(refusal: Refusal, in_flight: usize) -> std::io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        client.write_all(&vec![0; in_flight]).await?;
        let (mut accepted, _) = listener.accept().await?;
        accepted.readable().await?;
        let read = async {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await?;
            drop(client);
            Ok(answer)
        };
        let refused = async move {
            refuse(&mut accepted, &refusal).await;
        };
        tokio::join!(read, refused).0
    }

    #[tokio::test]
    async fn an_alert_arrives_also_when_more_was_in_flight() {
        let alert = Refusal::Alert { version: 0x0303, alert: Alert::UNRECOGNIZED_NAME };
        for in_flight in [1, 517, 40_000] {
            assert_eq!(refused(alert.clone(), in_flight).await.expect("no reset"), [21, 3, 3, 0, 2, 2, 112]);
        }
    }

    #[tokio::test]
    async fn http_is_reported_in_http() {
        let answer = String::from_utf8(refused(Refusal::Http, 16).await.expect("no reset")).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains(&format!("Content-Length: {}", body.len())));
    }

    #[tokio::test]
    async fn a_reset_is_a_reset() {
        assert_eq!(refused(Refusal::Reset, 1).await.expect_err("RST").kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn requests_look_like_http_and_other_protocols_do_not() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"OPTIONS * HTTP/1.1", b"POST /x", b"GET http://a/ HTTP/1.1"] {
            assert!(looks_like_http(bytes), "{}", bytes.escape_ascii());
        }
        for bytes in [&b"SSH-2.0-OpenSSH"[..], b"EHLO mail", b"GET", b"\x80\x2e\x01", b"G /", b""] {
            assert!(!looks_like_http(bytes), "{}", bytes.escape_ascii());
        }
    }
}
