//! Makes the exchange with a backend after which TLS may begin, for connections, checks and the doctor.
//!
//! In:  a connected stream; the PROXY header that comes first; a protocol.
//! Out: a stream on which TLS begins with the next byte, either way; or [`StarttlsError`].

use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::starttls::{Declined, Step, WithBackend};

/// Why TLS cannot begin.
#[derive(Debug)]
pub(crate) enum StarttlsError {
    Declined(Declined),
    /// The backend closed the connection before it had answered.
    Closed,
    Io(io::Error),
    /// The backend did not answer within `after`.
    TimedOut {
        after: Duration,
    },
}

/// Sends `header` and makes the exchange. Not a byte is read that belongs to TLS. The caller enforces the deadline.
///
/// # Errors
/// [`StarttlsError`]; the connection cannot be used any more.
pub(crate) async fn begin_tls(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    header: &[u8],
    mut exchange: WithBackend,
) -> Result<(), StarttlsError> {
    let mut unsent = header;
    let mut answer = Vec::new();
    loop {
        match exchange.step(&answer).map_err(StarttlsError::Declined)? {
            Step::Tls { taken } if taken == answer.len() => return Ok(()),
            Step::Tls { taken } => {
                return Err(StarttlsError::Declined(Declined::Injected { bytes: answer.len() - taken }));
            }
            Step::Send { taken, bytes } => {
                answer.drain(..taken);
                let bytes = [std::mem::take(&mut unsent), bytes].concat();
                stream.write_all(&bytes).await.map_err(StarttlsError::Io)?;
            }
            Step::Needs(_) => {
                stream.write_all(std::mem::take(&mut unsent)).await.map_err(StarttlsError::Io)?;
                let mut more = [0; MOST_ANSWER_BYTES];
                let more = match stream.read(&mut more).await.map_err(StarttlsError::Io)? {
                    0 => return Err(StarttlsError::Closed),
                    bytes => &more[..bytes],
                };
                answer.extend_from_slice(more);
            }
        }
    }
}

impl fmt::Display for StarttlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declined(declined) => declined.fmt(f),
            Self::Closed => f.write_str("the backend closed instead of answering the SSLRequest"),
            Self::Io(error) => write!(f, "the backend did not answer the SSLRequest: {error}"),
            Self::TimedOut { after } => {
                write!(f, "the backend did not answer the SSLRequest within {} ms", after.as_millis())
            }
        }
    }
}

impl std::error::Error for StarttlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Enough for the beginning of an error message.
const MOST_ANSWER_BYTES: usize = 512;
