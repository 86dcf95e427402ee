//! Asks the other data planes which Gateways they have in force.
//!
//! In:  the EndpointSlices of the Service that has the label `snigate.dev/data-planes`, with a port called `admin`, in the
//!      namespace of this pod.
//! Out: for each Gateway, the generation that every ready data plane has in force.
//! Source: docs/admin.md (`/api/v1/status`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoints::{self, ServicePort};
use super::objects::ObjectName;

/// For each Gateway, the generation that is in force.
pub(super) type InForce = BTreeMap<ObjectName, i64>;

/// For each Gateway, by `NAMESPACE/NAME`, the generation that is in force.
type Generations = BTreeMap<String, i64>;

/// The part of a status that is read.
#[derive(Deserialize)]
struct Status {
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
struct Kubernetes {
    gateways: Generations,
}

/// Where the ready data planes can be asked. Empty: there is no such Service.
pub(super) fn addresses(slices: &[Arc<EndpointSlice>], namespace: &str) -> Vec<SocketAddr> {
    let port = ServicePort { service: ObjectName::default(), port: "admin".to_owned() };
    let slices = slices.iter().map(|slice| &**slice).filter(|slice| is_of_data_planes(slice, namespace));
    endpoints::addresses(&port, slices).into_iter().take(MOST).collect()
}

/// Whether a slice has data planes of snigate, in its namespace.
pub(super) fn is_of_data_planes(slice: &EndpointSlice, namespace: &str) -> bool {
    slice.metadata.namespace.as_deref() == Some(namespace)
        && slice.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL))
}

/// What all of them have in force. One that does not answer has nothing.
pub(super) async fn in_force(addresses: &[SocketAddr]) -> InForce {
    let answers = join_all(addresses.iter().map(|address| async {
        let answer = timeout(PATIENCE, ask(*address)).await;
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }));
    let everywhere = answers.await.into_iter().reduce(|all, one| {
        let common = all.into_iter().filter_map(|(name, generation)| Some((generation.min(*one.get(&name)?), name)));
        common.map(|(generation, name)| (name, generation)).collect()
    });
    let name = |(name, generation): (String, i64)| {
        let (namespace, name) = name.split_once('/')?;
        Some((ObjectName::new(namespace, name), generation))
    };
    everywhere.unwrap_or_default().into_iter().filter_map(name).collect()
}

async fn ask(address: SocketAddr) -> Result<Generations, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::get("/api/v1/status").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let read = async {
        let response = sender.send_request(request).await?;
        Limited::new(response.into_body(), MOST_BYTES).collect().await
    };
    // The connection is driven while the answer is read. When it ends, the answer is there, or its reader has an error.
    let drive = async {
        let _ = connection.await;
        std::future::pending().await
    };
    let body = tokio::select! {
        body = read => body?,
        () = drive => return Ok(Generations::new()),
    };
    let status: Status = serde_json::from_slice(&body.to_bytes())?;
    Ok(status.kubernetes.map(|kubernetes| kubernetes.gateways).unwrap_or_default())
}

const LABEL: &str = "snigate.dev/data-planes";
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: usize = 256;
const MOST_BYTES: usize = 16 << 20;
