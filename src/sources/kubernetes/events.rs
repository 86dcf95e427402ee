//! Tells the owners of Ingresses what is not served: an Ingress has no conditions.
//!
//! In:  the problems of an Ingress.
//! Out: an Event; no I/O.
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>

use std::hash::Hasher;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

/// An Event about `problems`. Its name is that of all Events that say the same of the same Ingress, so that another
/// process does not say it again.
pub(super) fn not_served(
    ingress: &Ingress,
    problems: &[String],
    (controller, process): (&str, &str),
    now: Timestamp,
) -> Event {
    let meta = &ingress.metadata;
    let mut note: String = problems.join("; ");
    if let Some((end, _)) = note.char_indices().find(|(at, letter)| at + letter.len_utf8() > MOST_BYTES_OF_NOTE) {
        note.truncate(end);
    }
    // Stable across processes and versions: SipHash-1-3 with a zero key.
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(meta.uid.as_deref().unwrap_or_default().as_bytes());
    hasher.write(note.as_bytes());
    let ingress_name = meta.name.as_deref().unwrap_or_default();
    let start = ingress_name.chars().take(MOST_OF_NAME).collect::<String>();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", start.trim_end_matches(['.', '-']), hasher.finish())),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some("NotServed".to_owned()),
        action: Some("Translate".to_owned()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("Ingress".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(controller.to_owned()),
        reporting_instance: Some(process.chars().take(MOST_OF_PROCESS).collect()),
        ..Event::default()
    }
}

/// The API server takes no longer ones.
const MOST_BYTES_OF_NOTE: usize = 1000;
const MOST_OF_PROCESS: usize = 128;
/// Of the 253 characters of a name, 17 are for the hash.
const MOST_OF_NAME: usize = 236;
