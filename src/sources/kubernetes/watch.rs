//! Keeps copies of the objects of a cluster, one store for each kind.
//!
//! In:  a client; for each kind a list and then a watch, which goes on from where it was after an error, and begins anew
//!      with a list when the server no longer knows that version (410).
//! Out: [`Stores`]; a call for each change, and for each error. A store that has been filled once keeps what it has
//!      while the server is away.
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::any::Any;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::time::Duration;

use futures::StreamExt;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::client::{SILENCE, causes};
use crate::telemetry::KubernetesKind;

/// The objects of each kind, as they were seen last.
#[derive(Clone)]
pub(super) struct Stores {
    pub classes: Store<GatewayClass>,
    pub gateways: Store<Gateway>,
    pub routes: Store<TlsRoute>,
    pub grants: Store<ReferenceGrant>,
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub namespaces: Store<Namespace>,
    pub ingresses: Store<Ingress>,
}

/// The other ends of [`Stores`].
pub(super) struct Writers {
    classes: Writer<GatewayClass>,
    gateways: Writer<Gateway>,
    routes: Writer<TlsRoute>,
    grants: Writer<ReferenceGrant>,
    services: Writer<Service>,
    slices: Writer<EndpointSlice>,
    namespaces: Writer<Namespace>,
    ingresses: Writer<Ingress>,
}

/// A kind of objects that can be kept in a store.
trait Watched: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Watched for K {}

/// What happened to a store.
#[derive(Debug)]
pub(super) enum Happened {
    /// It has all objects, after a list.
    Synced { count: usize },
    /// One object was added, changed or deleted.
    Changed { count: usize },
    /// The same for an EndpointSlice.
    Slice { slice: Box<EndpointSlice>, count: usize },
    /// Nothing but the status of one object has changed.
    StatusChanged,
    /// The server answers, and nothing has changed.
    Answered,
    /// It cannot be kept up to date; it is tried again.
    Failed(Failure),
}

/// Why a store cannot be kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server does not have such objects: their definition (CRD) is not installed, or only of other versions.
    NoSuchKind,
    Other(String),
}

pub(super) fn stores() -> (Stores, Writers) {
    let (classes, of_classes) = reflector::store();
    let (gateways, of_gateways) = reflector::store();
    let (routes, of_routes) = reflector::store();
    let (grants, of_grants) = reflector::store();
    let (services, of_services) = reflector::store();
    let (slices, of_slices) = reflector::store();
    let (namespaces, of_namespaces) = reflector::store();
    let (ingresses, of_ingresses) = reflector::store();
    let stores = Stores { classes, gateways, routes, grants, services, slices, namespaces, ingresses };
    let writers = Writers {
        classes: of_classes,
        gateways: of_gateways,
        routes: of_routes,
        grants: of_grants,
        services: of_services,
        slices: of_slices,
        namespaces: of_namespaces,
        ingresses: of_ingresses,
    };
    (stores, writers)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKind => f.write_str("the cluster has no such kind: install Gateway API 1.5 or newer"),
            Self::Other(error) => f.write_str(error),
        }
    }
}

/// Fills the stores, and keeps them up to date until it is dropped.
pub(super) async fn follow(client: &Client, writers: Writers, happened: &(dyn Fn(KubernetesKind, Happened) + Sync)) {
    let Writers { classes, gateways, routes, grants, services, slices, namespaces, ingresses } = writers;
    tokio::join!(
        keep(client, KubernetesKind::GatewayClass, classes, happened),
        keep(client, KubernetesKind::Gateway, gateways, happened),
        keep(client, KubernetesKind::TlsRoute, routes, happened),
        keep(client, KubernetesKind::ReferenceGrant, grants, happened),
        keep(client, KubernetesKind::Service, services, happened),
        keep(client, KubernetesKind::EndpointSlice, slices, happened),
        keep(client, KubernetesKind::Namespace, namespaces, happened),
        keep(client, KubernetesKind::Ingress, ingresses, happened),
    );
}

/// Keeps one store up to date.
async fn keep<K: Watched>(
    client: &Client,
    kind: KubernetesKind,
    mut writer: Writer<K>,
    happened: &(dyn Fn(KubernetesKind, Happened) + Sync),
) where
    K::DynamicType: Clone + Default + Eq + Hash,
{
    let happened = |what| happened(kind, what);
    let mut pause = SHORTEST_PAUSE;
    // `None`: all objects have to be listed.
    let mut version: Option<String> = None;
    loop {
        let before = version.clone();
        let ended = go_on(&Api::all(client.clone()), &mut writer, &mut version, &happened).await;
        if version != before {
            pause = SHORTEST_PAUSE;
        }
        match ended {
            // A watch that ends at once, again and again, is not to keep anybody busy.
            Ok(()) => sleep(BETWEEN_WATCHES).await,
            Err(failure) => {
                happened(Happened::Failed(failure));
                // Many processes begin to wait at the same time when a server goes away.
                sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Lists the objects if need be, and watches them until the server ends the watch.
async fn go_on<K: Watched>(
    api: &Api<K>,
    writer: &mut Writer<K>,
    version: &mut Option<String>,
    happened: &impl Fn(Happened),
) -> Result<(), Failure>
where
    K::DynamicType: Clone + Default + Eq + Hash,
{
    let from = match &*version {
        Some(version) => version.clone(),
        None => {
            let from = list(api, writer).await?;
            happened(Happened::Synced { count: writer.as_reader().len() });
            version.insert(from).clone()
        }
    };
    let params = WatchParams::default().timeout(WATCH_SECONDS);
    let mut events = match api.watch(&params, &from).await {
        Ok(events) => events.boxed(),
        Err(error) => return Err(gone(failure(&error), &error, version)),
    };
    happened(Happened::Answered);
    while let Some(event) = events.next().await {
        let (event, at) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                let at = object.resource_version();
                (Event::Apply(slim(object)), at)
            }
            Ok(WatchEvent::Deleted(object)) => {
                let at = object.resource_version();
                (Event::Delete(object), at)
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *version = Some(bookmark.metadata.resource_version);
                happened(Happened::Answered);
                continue;
            }
            Ok(WatchEvent::Error(status)) => {
                let error = kube::Error::Api(status);
                return Err(gone(failure(&error), &error, version));
            }
            Err(error) => return Err(failure(&error)),
        };
        let store = writer.as_reader();
        let is_status_alone = match &event {
            Event::Apply(object) => {
                store.get(&ObjectRef::from_obj(object)).is_some_and(|was| is_same_but_status(&*was, object))
            }
            _ => false,
        };
        writer.apply_watcher_event(&event);
        *version = at;
        let count = store.len();
        happened(match event {
            _ if is_status_alone => Happened::StatusChanged,
            Event::Apply(object) | Event::Delete(object) => match (&object as &dyn Any).downcast_ref::<EndpointSlice>()
            {
                Some(slice) => Happened::Slice { slice: Box::new(slice.clone()), count },
                None => Happened::Changed { count },
            },
            _ => Happened::Answered,
        });
    }
    Ok(())
}

/// Puts all objects into the store, in place of those that it has. Returns the version to watch from.
async fn list<K: Watched>(api: &Api<K>, writer: &mut Writer<K>) -> Result<String, Failure>
where
    K::DynamicType: Clone + Default + Eq + Hash,
{
    let mut params = ListParams::default().limit(PAGE);
    writer.apply_watcher_event(&Event::Init);
    loop {
        let page = api.list(&params).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => Failure::NoSuchKind,
            error => failure(error),
        })?;
        for object in page.items {
            writer.apply_watcher_event(&Event::InitApply(slim(object)));
        }
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = ListParams::default().limit(PAGE).continue_token(&next),
            None => {
                writer.apply_watcher_event(&Event::InitDone);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}

/// An object without what says who has set which field, which is often larger than the rest.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Whether nothing of an object has changed that its generation, its labels, its annotations and its deletion show. Kinds
/// without a generation may have changed in any way.
fn is_same_but_status<K: Resource>(was: &K, is: &K) -> bool {
    let (was, is) = (was.meta(), is.meta());
    is.generation.is_some()
        && was.generation == is.generation
        && was.uid == is.uid
        && was.labels == is.labels
        && was.annotations == is.annotations
        && was.deletion_timestamp == is.deletion_timestamp
}

/// Forgets the version if the server no longer knows it (410): the objects are listed again.
fn gone(failure: Failure, error: &kube::Error, version: &mut Option<String>) -> Failure {
    if matches!(error, kube::Error::Api(status) if status.code == 410) {
        *version = None;
    }
    failure
}

fn failure(error: &kube::Error) -> Failure {
    Failure::Other(causes(error))
}

/// After so many seconds the server ends a watch, and the next one begins: without bookmarks, a connection that died
/// unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;
const _: () = assert!((WATCH_SECONDS as u64) < SILENCE.as_secs());
const PAGE: u32 = 500;
const BETWEEN_WATCHES: Duration = Duration::from_millis(100);
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
