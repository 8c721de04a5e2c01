//! Amounts of resources: CPU in thousandths of a core, everything else in its own unit (bytes, pieces).

use std::collections::BTreeMap;

use coxswain_api::Quantity;
use coxswain_client::k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use coxswain_client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a pod without requests counts as when nodes are scored, so that such pods spread too.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts by resource name; absent is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

/// The amount a quantity means for a resource; one that does not parse counts as nothing.
fn amount(name: &str, quantity: &Text) -> i64 {
    match Quantity::parse(&quantity.0) {
        Ok(q) if name == "cpu" => q.milli(),
        Ok(q) => q.value(),
        Err(_) => 0,
    }
}

impl Resources {
    /// From a resource list.
    #[must_use]
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        Self(
            list.into_iter()
                .flatten()
                .map(|(name, q)| (name.clone(), amount(name, q)))
                .collect(),
        )
    }

    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let entry = self.0.entry(name.clone()).or_default();
            *entry = entry.saturating_add(*value);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let entry = self.0.entry(name.clone()).or_default();
            *entry = entry.saturating_sub(*value);
        }
    }

    /// Raises each amount to at least the other's.
    pub fn max(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let entry = self.0.entry(name.clone()).or_default();
            *entry = (*entry).max(*value);
        }
    }
}

fn requests(container: Option<&ResourceRequirements>) -> Resources {
    Resources::of(container.and_then(|r| r.requests.as_ref()))
}

fn restarts_always(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod asks a node for: the sum of its containers, or of what its start needs if that is more, and overhead.
/// Init containers that go on running count beside everything that starts after them.
#[must_use]
pub fn of_pod(spec: &PodSpec) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&requests(container.resources.as_ref()));
    }
    let mut sidecars = Resources::default();
    let mut start = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container.resources.as_ref());
        if restarts_always(container) {
            sidecars.add(&own);
            total.add(&own);
            start.max(&sidecars);
        } else {
            let mut with_sidecars = own;
            with_sidecars.add(&sidecars);
            start.max(&with_sidecars);
        }
    }
    total.max(&start);
    // Requests of the pod as a whole replace the sum for the resources they name.
    for (name, value) in requests(spec.resources.as_ref()).0 {
        total.0.insert(name, value);
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

/// CPU and memory for scoring: containers that ask for nothing count with a default.
#[must_use]
pub fn for_scoring(spec: &PodSpec, requested: &Resources) -> (i64, i64) {
    let lacking = |name: &str, default: i64| {
        let without = spec
            .containers
            .iter()
            .filter(|c| requests(c.resources.as_ref()).get(name) == 0)
            .count();
        default.saturating_mul(i64::try_from(without).unwrap_or(i64::MAX))
    };
    (
        requested.get("cpu").saturating_add(lacking("cpu", DEFAULT_CPU_MILLI)),
        requested
            .get("memory")
            .saturating_add(lacking("memory", DEFAULT_MEMORY_BYTES)),
    )
}
