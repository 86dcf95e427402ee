//! Asks a backend something in plain text, and judges its answer.
//!
//! In:  a connected stream; what to send and what to expect.
//! Out: nothing if the answer is the expected one, otherwise [`WrongAnswer`].
//! Source: RFC 9112 (HTTP/1.1).
//!
//! The caller sets the deadline. What is read has a bound, and the body of an HTTP answer is not read at all.

use std::fmt;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::pool::Address;
use crate::settings::{CheckKind, HealthCheck, OneOrMany, Statuses};

/// A check that asks something in plain text.
pub(crate) enum PlainCheck {
    Http(HttpRequest),
    Text(TextExchange),
}

impl PlainCheck {
    /// `None`: checks of this kind ask nothing, or ask in TLS.
    pub(crate) fn new(check: &HealthCheck) -> Option<Self> {
        match check.kind {
            CheckKind::Tcp | CheckKind::Tls => None,
            CheckKind::Http => Some(Self::Http(HttpRequest::new(check))),
            CheckKind::Text => Some(Self::Text(TextExchange::new(check))),
        }
    }

    /// Asks the backend at `address` over `stream`. The caller ends the check at `deadline`.
    ///
    /// # Errors
    /// [`WrongAnswer`].
    pub(crate) async fn over<S>(&self, stream: S, address: &Address, deadline: Instant) -> Result<(), WrongAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self {
            Self::Http(request) => request.over(stream, address).await,
            Self::Text(exchange) => exchange.over(stream, deadline).await,
        }
    }
}

/// A request, and the statuses of the answers that pass.
pub(crate) struct HttpRequest {
    target: Box<str>,
    host: Option<Box<str>>,
    expected: OneOrMany<Statuses>,
}

/// A text to send, and one to find in the answer.
pub(crate) struct TextExchange {
    send: Box<[u8]>,
    expect: Box<[u8]>,
}

/// Why an answer does not pass.
#[derive(Debug)]
pub(crate) enum WrongAnswer {
    Status {
        expected: OneOrMany<Statuses>,
        got: u16,
    },
    /// No answer, or one that is not HTTP.
    NotHttp(hyper::Error),
    /// The backend closed, or sent as much as is read, without the expected text. `begins` is how the answer begins.
    Text {
        expected: Box<[u8]>,
        begins: Vec<u8>,
    },
    /// The connection failed, after an answer that begins like this.
    Io {
        error: std::io::Error,
        begins: Vec<u8>,
    },
}

impl HttpRequest {
    fn new(check: &HealthCheck) -> Self {
        Self {
            target: check.path.as_ref().map_or_else(|| "/".into(), |path| path.0.clone()),
            host: check.host.as_ref().map(|host| host.0.clone()),
            expected: check.status.clone().unwrap_or_else(|| vec![Statuses::GOOD].into()),
        }
    }

    /// Sends the request and reads the head of the answer. Redirects are not followed.
    async fn over<S>(&self, stream: S, address: &Address) -> Result<(), WrongAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let host = match (&self.host, address) {
            (Some(host), _) => host.to_string(),
            (None, Address::Inet(address)) => address.to_string(),
            (None, Address::Unix(_)) => "localhost".to_owned(),
        };
        let request = Request::get(&*self.target)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("snigate/", env!("CARGO_PKG_VERSION"), " (health check)"))
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .expect("the parts have been checked when they were read");
        let started = http1::Builder::new().max_buf_size(MOST_ANSWER_BYTES).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = started.map_err(WrongAnswer::NotHttp)?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        // Polled here, not spawned, so that dropping the check drops the connection.
        let answer = tokio::select! {
            answer = &mut answer => answer,
            // The answer may have come with the end.
            _ = connection => answer.await,
        };
        let got = answer.map_err(WrongAnswer::NotHttp)?.status().as_u16();
        match self.expected.iter().any(|statuses| statuses.contain(got)) {
            true => Ok(()),
            false => Err(WrongAnswer::Status { expected: self.expected.clone(), got }),
        }
    }
}

impl TextExchange {
    fn new(check: &HealthCheck) -> Self {
        let bytes = |text: &Option<String>| text.as_deref().unwrap_or_default().as_bytes().into();
        Self { send: bytes(&check.send), expect: bytes(&check.expect) }
    }

    /// Sends the text, and reads until the answer contains the expected one. At the `deadline`, which is also the caller's,
    /// it returns how the wrong answer begins, if there is one.
    async fn over(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        deadline: Instant,
    ) -> Result<(), WrongAnswer> {
        let mut answer = Vec::new();
        let exchange = async {
            stream.write_all(&self.send).await?;
            while answer.len() < MOST_ANSWER_BYTES {
                // Where the text can begin that the next bytes may complete.
                let from = (answer.len() + 1).saturating_sub(self.expect.len());
                if (&mut stream).take((MOST_ANSWER_BYTES - answer.len()) as u64).read_buf(&mut answer).await? == 0 {
                    return Ok(false);
                }
                if answer[from..].windows(self.expect.len()).any(|window| window == &*self.expect) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match timeout_at(deadline, exchange).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(WrongAnswer::Io { error, begins: begins(answer) }),
            // The caller's deadline says the rest.
            Err(_) if answer.is_empty() => std::future::pending().await,
            Ok(Ok(false)) | Err(_) => Err(WrongAnswer::Text { expected: self.expect.clone(), begins: begins(answer) }),
        }
    }
}

fn begins(mut answer: Vec<u8>) -> Vec<u8> {
    answer.truncate(MOST_SHOWN_BYTES);
    answer
}

impl fmt::Display for WrongAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { expected, got } => {
                let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
                write!(f, "expected status {}, got {got}", expected.join(" or "))
            }
            Self::NotHttp(error) => write!(f, "no HTTP answer: {}", innermost(error)),
            Self::Text { expected, begins } => {
                write!(f, "expected \"{}\", got ", Shown(expected))?;
                match begins.is_empty() {
                    true => f.write_str("nothing"),
                    false => write!(f, "\"{}\"", Shown(begins)),
                }
            }
            Self::Io { error, begins } if begins.is_empty() => error.fmt(f),
            Self::Io { error, begins } => write!(f, "{error}, after \"{}\"", Shown(begins)),
        }
    }
}

/// Bytes as the file writes them in double quotes, shortened.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..self.0.len().min(MOST_SHOWN_BYTES)].escape_ascii().fmt(f)
    }
}

/// hyper says only what it did when the cause stopped it.
fn innermost(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Also what hyper needs at least.
const MOST_ANSWER_BYTES: usize = 16 << 10;
const MOST_SHOWN_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;

    use super::*;
    use crate::settings::Word;

    fn check(kind: CheckKind) -> HealthCheck {
        HealthCheck { kind, ..HealthCheck::default() }
    }

    /// What the check says about a backend that sends `answer` and closes; and what it sent.
    async fn http(check: &HealthCheck, answer: &'static [u8]) -> (Result<(), String>, String) {
        let (ours, mut theirs) = duplex(64 << 10);
        let backend = async move {
            let mut request = vec![0; 4096];
            let bytes = theirs.read(&mut request).await.unwrap();
            // The check may have seen enough.
            let _ = theirs.write_all(answer).await;
            String::from_utf8(request[..bytes].to_vec()).unwrap()
        };
        let address = Address::Inet(([127, 0, 0, 1], 8080).into());
        let request = HttpRequest::new(check);
        let (judged, request) = tokio::join!(request.over(ours, &address), backend);
        (judged.map_err(|error| error.to_string()), request)
    }

    #[tokio::test]
    async fn a_status_passes_if_it_is_expected() {
        let statuses = |texts: &[&str]| -> OneOrMany<Statuses> {
            texts.iter().map(|text| Statuses::read(text).unwrap()).collect::<Vec<_>>().into()
        };
        let http_check = check(CheckKind::Http);
        let (judged, request) = http(&http_check, b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n").await;
        assert_eq!(judged, Ok(()), "the body is not read");
        assert!(request.starts_with("GET / HTTP/1.1\r\n") && request.contains("host: 127.0.0.1:8080\r\n"), "{request}");
        assert!(request.contains("connection: close\r\n"), "{request}");
        assert_eq!(http(&http_check, b"HTTP/1.0 302 Found\r\nLocation: http://x/\r\n\r\n").await.0, Ok(()));
        assert_eq!(http(&http_check, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").await.0, Ok(()));
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(
            http(&http_check, b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.0,
            refused("expected status 200-399, got 503")
        );
        let only = HealthCheck { status: Some(statuses(&["204", "300-302"])), ..check(CheckKind::Http) };
        assert_eq!(http(&only, b"HTTP/1.1 200 OK\r\n\r\n").await.0, refused("expected status 204 or 300-302, got 200"));
        assert_eq!(http(&only, b"HTTP/1.1 301 Moved\r\n\r\n").await.0, Ok(()));
        let (path, host) = ("/healthz?full=1", "shop.example.com:80");
        let asked = HealthCheck {
            path: Some(crate::settings::RequestTarget::read(path).unwrap()),
            host: Some(crate::settings::Host::read(host).unwrap()),
            ..check(CheckKind::Http)
        };
        let (_, request) = http(&asked, b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: shop.example.com:80\r\n"), "{request}");
    }

    #[tokio::test]
    async fn what_is_not_http_or_too_long_fails() {
        let endless: &'static [u8] = [b"HTTP/1.1 200 OK\r\n", &[b'x'; 40_000][..]].concat().leak();
        let http_check = check(CheckKind::Http);
        for answer in [&b""[..], b"\x15\x03\x03\x00\x02\x02\x16", b"SSH-2.0-x\r\n", b"HTTP/1.1 20", endless] {
            let (judged, _) = http(&http_check, answer).await;
            assert!(judged.as_ref().is_err_and(|why| why.starts_with("no HTTP answer: ")), "{judged:?}");
        }
    }

    async fn text(expect: &str, answer: &[&[u8]], closes: bool) -> Result<(), String> {
        let check = HealthCheck {
            send: Some("PING\r\n".to_owned()),
            expect: Some(expect.to_owned()),
            ..check(CheckKind::Text)
        };
        let (ours, mut theirs) = duplex(7);
        let exchange = TextExchange::new(&check);
        let deadline = Instant::now() + Duration::from_secs(2);
        let backend = async move {
            let mut request = [0; 6];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"PING\r\n");
            for part in answer {
                let _ = theirs.write_all(part).await;
            }
            if !closes {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            judged = exchange.over(ours, deadline) => judged.map_err(|error| error.to_string()),
            never = async { backend.await; std::future::pending().await } => never,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_expected_text_is_found_wherever_it_is_cut() {
        for cut in 0..=9 {
            let (one, other) = b"\x00+PONG\r\nx".split_at(cut);
            assert_eq!(text("+PONG", &[one, other], false).await, Ok(()), "{cut}");
        }
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(text("+PONG", &[b"-NOAUTH\r\n"], true).await, refused(r#"expected "+PONG", got "-NOAUTH\r\n""#));
        // A backend that keeps the connection open has until the deadline.
        assert_eq!(text("+PONG", &[b"+PON"], false).await, refused(r#"expected "+PONG", got "+PON""#));
        assert_eq!(text("+PONG", &[], true).await, refused(r#"expected "+PONG", got nothing"#));
        let endless = [b'x'; 100_000];
        assert!(text("+PONG", &[&endless], false).await.is_err_and(|why| why.len() < 200));
    }
}
