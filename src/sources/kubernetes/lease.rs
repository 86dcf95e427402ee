//! Decides which one of several processes writes: the holder of a Lease.
//!
//! In:  a Lease object that all of them know.
//! Out: until when this process holds it.
//! Source: <https://kubernetes.io/docs/concepts/architecture/leases/>; the rules of client-go's leader election.
//!
//! Others take the Lease over once its object has not changed for [`DURATION`] of their own clock: what is written in it
//! about time is not compared with any clock, so that one that is wrong, or jumps, does no harm.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// A try to become, or stay, the holder.
pub(super) struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// As it was seen last, and since when it is so.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    pub(super) fn new(client: Client, namespace: &str, controller: &str, identity: &str) -> Self {
        let (api, identity) = (Api::namespaced(client, namespace), identity.to_owned());
        Self { api, name: name(controller), identity, seen: None }
    }

    /// Takes or renews the Lease if possible. Until when this process may write: `None`, not at all.
    ///
    /// # Errors
    /// The API server does not answer as it should. What was held before is still held, for as long as it was said then.
    pub(super) async fn attempt(&mut self) -> Result<Option<Instant>, kube::Error> {
        let began = Instant::now();
        let lease = match &self.seen {
            // Nobody else has written it unless the write fails.
            Some((lease, _)) if self.is_holder(lease) => lease.clone(),
            _ => match self.api.get_opt(&self.name).await? {
                Some(lease) => lease,
                None => {
                    let new = self.held(None);
                    return self.written(self.api.create(&PostParams::default(), &new).await, began);
                }
            },
        };
        if !self.is_holder(&lease) && !self.is_free(&lease, began) {
            return Ok(None);
        }
        let new = self.held(Some(&lease));
        let written = self.api.replace(&self.name, &PostParams::default(), &new).await;
        self.written(written, began)
    }

    /// Lets others take it over at once.
    pub(super) async fn release(&mut self) {
        let Some((mut lease, _)) = self.seen.take().filter(|(lease, _)| self.is_holder(lease)) else { return };
        lease.spec.get_or_insert_default().holder_identity = None;
        // If it fails, they wait for its time to pass.
        let _ = self.api.replace(&self.name, &PostParams::default(), &lease).await;
    }

    fn written(&mut self, result: Result<Lease, kube::Error>, began: Instant) -> Result<Option<Instant>, kube::Error> {
        match result {
            Ok(lease) => {
                self.seen = Some((lease, began));
                Ok(Some(began + HELD))
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.seen = None;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_holder(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&*self.identity)
    }

    /// Whether nobody holds it, or its holder has not renewed it in time.
    fn is_free(&mut self, lease: &Lease, now: Instant) -> bool {
        if holder(lease).is_none_or(str::is_empty) {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen.metadata.resource_version == lease.metadata.resource_version => {
                let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
                let most = LONGEST.min(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
                now.duration_since(*since) > most
            }
            _ => {
                self.seen = Some((lease.clone(), now));
                false
            }
        }
    }

    /// The Lease, held by this process from now on.
    fn held(&self, before: Option<&Lease>) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let was = before.and_then(|lease| lease.spec.as_ref());
        let is_ours = before.is_some_and(|lease| self.is_holder(lease));
        let transitions = was.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let mut lease = before.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: was.filter(|_| is_ours).and_then(|spec| spec.acquire_time.clone()).or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(transitions.saturating_add(i32::from(before.is_some() && !is_ours))),
            ..LeaseSpec::default()
        });
        lease
    }
}

/// A name for this process that no other one has had.
pub(super) fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "snigate".to_owned());
    // A pod that is started anew may have the name and the process number of the one before.
    format!("{host}_{}_{:08x}", std::process::id(), fastrand::u32(..))
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// One Lease for each controller name: `snigate.dev/gateway-controller` becomes `snigate.dev-gateway-controller`.
fn name(controller: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    controller.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect()
}

/// How often the holder renews it, and others look.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// After this time without a change, others take it over.
const DURATION: Duration = Duration::from_secs(10);
/// How long the holder trusts its last renewal: shorter, so that there are never two.
const HELD: Duration = Duration::from_secs(7);
/// A Lease that somebody else wrote is not waited for longer than this.
const LONGEST: Duration = Duration::from_secs(60);
