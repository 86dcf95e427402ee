//! Connects to the API server of a cluster.
//!
//! In:  the file that `KUBECONFIG` names; in a pod, the service account.
//! Out: a client. Whether the server answers shows when something is asked.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use kube::{Client, Config};

/// There is no configuration for a client, or it cannot be used.
#[derive(Debug)]
pub(super) struct CannotConnect(Box<dyn Error + Send + Sync>);

/// Makes a client, from the kubeconfig if there is one.
///
/// # Errors
/// There is neither a kubeconfig nor a service account, or they cannot be used.
pub(super) async fn connect() -> Result<Client, CannotConnect> {
    // With two of them in the build, rustls does not choose one. An error means that it was already set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = Config::infer().await.map_err(|error| CannotConnect(error.into()))?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Failures are counted, and retried, by those who ask.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| CannotConnect(error.into()))
}

/// The namespace of this pod, or the one of the kubeconfig.
pub(super) fn own_namespace(client: &Client) -> String {
    std::env::var("POD_NAMESPACE").unwrap_or_else(|_| client.default_namespace().to_owned())
}

impl fmt::Display for CannotConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no access to a Kubernetes API: {}", causes(&*self.0))
    }
}

impl Error for CannotConnect {}

/// An error with its causes, on one line, each once: some errors repeat that of their cause.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    // What a server says may be of any length.
    let end = text.char_indices().nth(MOST_CHARACTERS).map(|(at, _)| at);
    text.truncate(end.unwrap_or(text.len()));
    text.replace(char::is_control, " ")
}

const CONNECT: Duration = Duration::from_secs(10);
pub(super) const NO_ANSWER: &str = "the API server has not answered in time";
/// A server that sends nothing for so long is given up. Watches end earlier, see `watch`.
pub(super) const SILENCE: Duration = Duration::from_secs(75);
const MOST_CHARACTERS: usize = 500;
