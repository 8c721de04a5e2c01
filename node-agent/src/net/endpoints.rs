//! EndpointSlices by the Service they belong to, kept current from a cache's changes.
//!
//! Does not: choose among endpoints; the proxy and DNS each do by their own rules.

use coxswain_client::{Change, ObjectKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that names a slice's Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// All slices, by namespace and name of their Service, then by their own name.
#[derive(Debug, Default)]
pub struct Slices {
    by_service: BTreeMap<ObjectKey, BTreeMap<Arc<str>, Arc<EndpointSlice>>>,
}

impl Slices {
    /// Takes one change in and says which Services it touches (two when a slice moved).
    pub fn change(&mut self, change: Change<EndpointSlice>) -> Vec<ObjectKey> {
        let mut touched = Vec::with_capacity(2);
        if let Some(service) = change.old.as_deref().and_then(service_of) {
            if let Some(slices) = self.by_service.get_mut(&service) {
                slices.remove(&change.key.name);
                if slices.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            touched.push(service);
        }
        if let Some(new) = change.new
            && let Some(service) = service_of(&new)
        {
            let slices = self.by_service.entry(service.clone()).or_default();
            slices.insert(change.key.name, new);
            if !touched.contains(&service) {
                touched.push(service);
            }
        }
        touched
    }

    /// The slices of one Service, ordered by name.
    pub fn of(&self, service: &ObjectKey) -> Vec<&EndpointSlice> {
        let slices = self.by_service.get(service);
        slices
            .into_iter()
            .flat_map(|slices| slices.values().map(Arc::as_ref))
            .collect()
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(ObjectKey::new(
        slice.metadata.namespace.as_deref().unwrap_or_default(),
        name,
    ))
}
