//! Sends requests to the API server.
//!
//! In:  requests as the `kube` crate makes them.
//! Out: an object, or the lines of a watch; or a [`Failure`], with the time after which the server wants to be asked again.
//!
//! The `kube` crate has functions for the same. They read a refused watch as its first line, pass over half a line at the
//! end of one, and lose `Retry-After`.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde::de::DeserializeOwned;

use super::client::causes;

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The status of the answer, if it was refused.
    pub code: Option<u16>,
    pub message: String,
    /// How long the server wants not to be asked, bounded.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into(), retry_after: None }
    }

    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self::new(causes(error))
    }

    /// The server no longer knows the version that was asked for, or the rest of a list.
    pub(super) fn is_gone(&self) -> bool {
        self.code == Some(StatusCode::GONE.as_u16())
    }

    /// There are no such objects, or there is nothing at that path at all.
    pub(super) fn is_not_found(&self) -> bool {
        self.code == Some(StatusCode::NOT_FOUND.as_u16())
    }

    fn of_status(code: StatusCode, headers: &header::HeaderMap, body: &[u8]) -> Self {
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let in_body = || status.as_ref()?.details.as_ref().map(|details| details.retry_after_seconds);
        let seconds: Option<u64> = seconds.or_else(|| in_body().map(u64::from).filter(|seconds| *seconds > 0));
        let message = match &status {
            Some(status) if !status.message.is_empty() => status.message.clone(),
            // Proxies in front of the server answer with whole pages.
            _ => String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned(),
        };
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
        Self { code: Some(code.as_u16()), retry_after, ..Self::of(&Refused { code, message }) }
    }

    /// As it is sent within a watch.
    pub(super) fn of_event(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { code: Some(code.as_u16()), ..Self::of(&Refused { code, message: status.message.clone() }) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// What a server says that refuses a request.
#[derive(Debug)]
struct Refused {
    code: StatusCode,
    message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the API server answers {}: {}", self.code, self.message)
    }
}

impl Error for Refused {}

/// The object with which a request is answered.
///
/// # Errors
/// There is no answer, it is a refusal, or it cannot be read.
pub(super) async fn object<T: DeserializeOwned>(client: &Client, request: Request<Vec<u8>>) -> Result<T, Failure> {
    let body = answer(client, request).await?.into_body();
    let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|error| Failure::of(&*error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| Failure::of(&error))
}

/// The lines with which a watch is answered.
///
/// # Errors
/// There is no answer, or it is a refusal.
pub(super) async fn lines(client: &Client, request: Request<Vec<u8>>) -> Result<Lines, Failure> {
    Ok(Lines { body: answer(client, request).await?.into_body(), read: Vec::new(), searched: 0 })
}

async fn answer(client: &Client, request: Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
    let response = client.send(request.map(Body::from)).await.map_err(|error| Failure::of(&error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MOST_BYTES_OF_REFUSAL).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Err(Failure::of_status(head.status, &head.headers, &body))
}

/// The lines of an answer that goes on.
pub(super) struct Lines {
    body: Body,
    read: Vec<u8>,
    /// How many of the bytes in `read` are known to have no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line; `None`: the answer has ended behind a line. May be dropped and called again.
    ///
    /// # Errors
    /// The connection failed, or ended within a line, or a line is too long.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.read.len() > MOST_BYTES_OF_LINE {
                return Err(Failure::new(format!("a line of the watch is longer than {MOST_BYTES_OF_LINE} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let bytes: Bytes = frame.into_data().unwrap_or_default();
                    self.read.extend_from_slice(&bytes);
                }
                Some(Err(error)) => return Err(Failure::of(&error)),
                None if self.read.is_empty() => return Ok(None),
                None => return Err(Failure::new("the watch has ended within a line")),
            }
        }
    }

    /// A whole line that has been read.
    fn take(&mut self) -> Option<Vec<u8>> {
        let Some(at) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.read.len();
            return None;
        };
        let rest = self.read.split_off(self.searched + at + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.read, rest))
    }
}

/// Of a page of a list: 500 objects, of which most have a few kilobytes.
const MOST_BYTES: usize = 256 << 20;
/// An object has at most 1.5 MB in the store of a cluster.
const MOST_BYTES_OF_LINE: usize = 16 << 20;
const MOST_BYTES_OF_REFUSAL: usize = 64 << 10;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str) -> Lines {
        Lines { body: Body::from(text.as_bytes().to_vec()), read: Vec::new(), searched: 0 }
    }

    #[tokio::test]
    async fn half_a_line_at_the_end_is_an_error_after_all_whole_ones() {
        for (text, whole, is_half) in
            [("", 0, false), ("a\n", 1, false), ("a\n\nb\n", 3, false), ("a\nb\n{\"c", 2, true)]
        {
            let mut lines = lines_of(text);
            for number in 0..whole {
                let line = lines.next().await.unwrap().unwrap();
                assert!(line.ends_with(b"\n"), "{text:?}, line {number}");
            }
            match lines.next().await {
                Ok(None) => assert!(!is_half, "{text:?}"),
                Err(failure) => assert!(is_half && failure.message.contains("within a line"), "{text:?}: {failure}"),
                Ok(Some(more)) => panic!("{text:?}: {more:?}"),
            }
        }
    }

    #[test]
    fn a_refusal_says_when_to_ask_again_in_its_head_or_its_body() {
        let of = |header: Option<&str>, body: &str| {
            let mut headers = header::HeaderMap::new();
            headers.extend(header.map(|value| (header::RETRY_AFTER, value.parse().unwrap())));
            Failure::of_status(StatusCode::TOO_MANY_REQUESTS, &headers, body.as_bytes())
        };
        let body = r#"{"kind":"Status","status":"Failure","code":429,"message":"slow down","details":{"retryAfterSeconds":7}}"#;
        assert_eq!(of(Some("2"), body).retry_after, Some(Duration::from_secs(2)));
        assert_eq!(of(None, body).retry_after, Some(Duration::from_secs(7)));
        assert!(of(None, body).message.ends_with("slow down"), "{}", of(None, body));
        assert_eq!(of(Some("soon"), "Too many requests").retry_after, None);
        assert!(of(None, "Too many requests\nplease").message.ends_with("Too many requests"));
        assert_eq!(of(Some("86400"), "").retry_after, Some(LONGEST_RETRY_AFTER));
    }
}
