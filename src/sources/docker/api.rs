//! Asks the Docker API, by GET alone.
//!
//! In:  the path of its socket.
//! Out: containers, events; or an [`ApiError`]. Every answer has a deadline and a largest size.
//! Source: <https://docs.docker.com/reference/api/engine/>. Paths without a version are those of the engine's newest.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::container::{Container, Inspected, Listed, MOST_CONTAINER_BYTES};
use super::error::{ApiError, INSPECT_PATIENCE, PATIENCE};
use super::events::{Connection, Events};
use super::labels::SNI;

/// The API behind one socket.
#[derive(Clone, Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

/// What is read of the answer of `GET /version`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(default)]
    version: String,
    #[serde(default)]
    api_version: String,
}

/// Asks whether the API answers; returns the version of the engine.
///
/// # Errors
/// As for any request.
pub(crate) async fn ping(socket: PathBuf, limit: Duration) -> Result<String, ApiError> {
    let api = Api::new(socket);
    let Version { version, api_version } = api.get("/version", MOST_CONTAINER_BYTES, limit).await?;
    Ok(format!("version {version}, API {api_version}"))
}

impl Api {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// All containers with a label for names, running or not; the oldest first, and of very many only those.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, ApiError> {
        let path = format!("/containers/json?all=true&filters={}", encoded(&format!(r#"{{"label":["{SNI}"]}}"#)));
        let mut listed: Vec<Listed> = self.get(&path, MOST_LIST_BYTES, PATIENCE).await?;
        // It becomes part of a path.
        let is_identity = |id: &str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        listed.retain(|one| is_identity(&one.id));
        listed.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        listed.dedup_by(|a, b| a.id == b.id);
        Ok(listed)
    }

    /// `None`: it is gone by now.
    pub(super) async fn inspect(&self, listed: &Listed) -> Result<Option<Container>, ApiError> {
        let path = format!("/containers/{}/json", listed.id);
        match self.get::<Inspected>(&path, MOST_CONTAINER_BYTES, INSPECT_PATIENCE).await {
            Ok(inspected) => Ok(Some(Container::new(listed, inspected))),
            Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything that happens to containers and networks from now on.
    pub(super) async fn events(&self) -> Result<Events, ApiError> {
        let path = format!("/events?filters={}", encoded(r#"{"type":["container","network"]}"#));
        let (response, connection) =
            timeout(PATIENCE, self.open(&path)).await.map_err(|_elapsed| ApiError::TimedOut(PATIENCE))??;
        Ok(Events::new(response.into_body(), connection))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, most: usize, limit: Duration) -> Result<T, ApiError> {
        let read = async {
            let (response, _connection) = self.open(path).await?;
            let body = Limited::new(response.into_body(), most).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => ApiError::TooLarge { most },
                false => ApiError::Incomplete(error),
            });
            serde_json::from_slice(&body?.to_bytes()).map_err(ApiError::Json)
        };
        timeout(limit, read).await.map_err(|_elapsed| ApiError::TimedOut(limit))?
    }

    /// Sends a request, and reads the head of an answer that is a success.
    async fn open(&self, path: &str) -> Result<(Response<Incoming>, Connection), ApiError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| ApiError::Connect { socket: self.socket.clone(), error })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ApiError::Http)?;
        // An error of the connection is also that of the request.
        let connection = Connection::new(tokio::spawn(async move { _ = connection.await }));
        let request = Request::get(path).header(header::HOST, "docker").body(Empty::<Bytes>::new());
        let request = request.expect("the path has only characters that a path may have");
        let response = sender.send_request(request).await.map_err(ApiError::Http)?;
        match response.status() {
            status if status.is_success() => Ok((response, connection)),
            status => Err(ApiError::Status { status, said: said(response).await }),
        }
    }
}

/// The message of an answer that is no success.
async fn said(response: Response<Incoming>) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }

    let body = Limited::new(response.into_body(), MOST_MESSAGE_BYTES).collect().await;
    let said = body.ok().and_then(|body| serde_json::from_slice::<Said>(&body.to_bytes()).ok());
    said.map(|said| crate::telemetry::readable(&said.message, 200)).unwrap_or_default()
}

fn encoded(filters: &str) -> String {
    form_urlencoded::byte_serialize(filters.as_bytes()).collect()
}

const MOST_LIST_BYTES: usize = 16 << 20;
const MOST_MESSAGE_BYTES: usize = 64 << 10;
