//! What belongs to which node, kept from the store's events.
//!
//! Every edge is counted per node, so that a pod's end takes away exactly what the pod gave. When the
//! store's history no longer reaches back to the last look, the graph is built anew.

use std::collections::{BTreeSet, HashMap, HashSet};

use coxswain_api::kinds::access;
use coxswain_consensus::{Cursor, Store};
use coxswain_store::{EventKind, Snapshot, Stored};
use serde_json::Value;

const FOLLOWED: [&str; 4] = [
    "pods",
    "persistentvolumes",
    "volumeattachments.storage.k8s.io",
    "resourceslices.resource.k8s.io",
];

/// The kinds of objects a node may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    ResourceClaim,
    Volume,
    Attachment,
    Slice,
}

/// Kind, namespace, name.
pub(super) type Place = (Kind, String, String);

/// Who may see what.
#[derive(Default)]
pub(super) struct Graph {
    cursors: Vec<Cursor>,
    /// Nodes of an object, with the number of things that give it to them.
    nodes: HashMap<Place, HashMap<String, u32>>,
    /// What each pod, attachment and slice gave to its node.
    given: HashMap<Place, Given>,
    /// The claim of each volume and the secrets it brings.
    volumes: HashMap<String, (Place, BTreeSet<Place>)>,
    /// The volumes that bring a secret.
    bringers: HashMap<Place, HashSet<String>>,
}

struct Given {
    node: String,
    uid: String,
    generation: i64,
    places: BTreeSet<Place>,
    /// A pod with claims for devices: those that are made for it appear in its status, without a new generation.
    has_claims: bool,
}

impl Graph {
    /// Takes in what the store has published since the last time.
    pub fn catch_up(&mut self, store: &Store) {
        if self.follow().is_some() {
            return;
        }
        // A second time when the history is cut in between.
        for _ in 0..3 {
            let snapshot = store.snapshot();
            let cursors: Result<Vec<Cursor>, _> = FOLLOWED
                .iter()
                .map(|resource| store.watch(resource, snapshot.revision()))
                .collect();
            if let Ok(cursors) = cursors {
                *self = Self::of(&snapshot);
                self.cursors = cursors;
                return;
            }
        }
    }

    /// The graph of a state.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut graph = Self::default();
        for resource in FOLLOWED {
            for stored in snapshot.list(resource, None, None) {
                graph.see(stored, EventKind::Added);
            }
        }
        graph
    }

    /// `None` when the history has a gap or there is none yet.
    fn follow(&mut self) -> Option<()> {
        let mut cursors = std::mem::take(&mut self.cursors);
        if cursors.is_empty() {
            return None;
        }
        for cursor in &mut cursors {
            loop {
                let events = cursor.ready().ok()?;
                if events.is_empty() {
                    break;
                }
                for event in events {
                    self.see(&event.object, event.kind);
                }
            }
        }
        self.cursors = cursors;
        Some(())
    }

    /// Takes in one object as it is now.
    pub fn see(&mut self, stored: &Stored, kind: EventKind) {
        let gone = kind == EventKind::Deleted;
        let (namespace, name) = (stored.key.namespace.to_string(), stored.key.name.to_string());
        match &*stored.key.resource {
            "pods" => self.see_pod((Kind::Pod, namespace, name), stored, gone),
            "persistentvolumes" => {
                self.forget_volume(&name);
                if !gone {
                    self.add_volume(name, &stored.value());
                }
            }
            resource => {
                let attachment = resource.starts_with("volumeattachments");
                let kind = if attachment { Kind::Attachment } else { Kind::Slice };
                let place = (kind, String::new(), name);
                self.take_back(&place);
                let node = access::text(&stored.value(), "/spec/nodeName").to_owned();
                if !gone && !node.is_empty() {
                    let places = BTreeSet::from([place.clone()]);
                    self.give(place, stored, node, places, false);
                }
            }
        }
    }

    fn see_pod(&mut self, place: Place, stored: &Stored, gone: bool) {
        let node = stored.head.field("spec.nodeName").unwrap_or_default();
        if gone || node.is_empty() {
            self.take_back(&place);
            return;
        }
        let same = self.given.get(&place).is_some_and(|given| {
            given.uid == stored.head.uid
                && given.node == node
                && given.generation == stored.head.generation
                && !given.has_claims
        });
        if same {
            return;
        }
        let value = stored.value();
        let node = node.to_owned();
        self.take_back(&place);
        let places = places_of_pod(&place, &value);
        let has_claims = !access::list_at(&value, "/spec/resourceClaims").is_empty();
        self.give(place, stored, node, places, has_claims);
    }

    fn give(&mut self, giver: Place, stored: &Stored, node: String, places: BTreeSet<Place>, has_claims: bool) {
        for place in &places {
            let nodes = self.nodes.entry(place.clone()).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        let given = Given {
            node,
            uid: stored.head.uid.clone(),
            generation: stored.head.generation,
            places,
            has_claims,
        };
        self.given.insert(giver, given);
    }

    fn take_back(&mut self, giver: &Place) {
        let Some(given) = self.given.remove(giver) else {
            return;
        };
        for place in given.places {
            let Some(nodes) = self.nodes.get_mut(&place) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&given.node) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    nodes.remove(&given.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(&place);
            }
        }
    }

    fn add_volume(&mut self, name: String, volume: &Value) {
        let claim = access::at(volume, "/spec/claimRef");
        let home = access::str_of(claim, "namespace");
        if home.is_empty() {
            return;
        }
        let claim = (Kind::Claim, home.to_owned(), access::str_of(claim, "name").to_owned());
        let secrets = secrets_of_volume(access::get(volume, "spec"), home);
        for secret in &secrets {
            self.bringers.entry(secret.clone()).or_default().insert(name.clone());
        }
        self.volumes.insert(name, (claim, secrets));
    }

    fn forget_volume(&mut self, name: &str) {
        let Some((_, secrets)) = self.volumes.remove(name) else {
            return;
        };
        for secret in secrets {
            if let Some(volumes) = self.bringers.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.bringers.remove(&secret);
                }
            }
        }
    }

    /// Whether there is a way from an object to a node.
    pub fn reaches(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let direct = |place: &Place| self.nodes.get(place).is_some_and(|nodes| nodes.contains_key(node));
        let through = |volume: &str| self.volumes.get(volume).is_some_and(|(claim, _)| direct(claim));
        let place = (kind, namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Volume => through(name),
            Kind::Secret => {
                direct(&place)
                    || self
                        .bringers
                        .get(&place)
                        .is_some_and(|volumes| volumes.iter().any(|volume| through(volume)))
            }
            _ => direct(&place),
        }
    }
}

/// Everything a pod gives to its node. A mirror pod gives only itself: a node must not be able to
/// give itself access by making one.
fn places_of_pod(pod_place: &Place, pod: &Value) -> BTreeSet<Place> {
    let (_, namespace, pod_name) = pod_place;
    let mut out = BTreeSet::from([pod_place.clone()]);
    let annotations = access::get(access::get(pod, "metadata"), "annotations");
    if access::has(annotations, "kubernetes.io/config.mirror") {
        return out;
    }
    let spec = access::get(pod, "spec");
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.insert((kind, namespace.clone(), name.to_owned()));
        }
    };
    add(Kind::ServiceAccount, access::str_of(spec, "serviceAccountName"));
    visit_secrets(spec, &mut |name| add(Kind::Secret, name));
    visit_config_maps(spec, &mut |name| add(Kind::ConfigMap, name));
    for volume in access::list(spec, "volumes") {
        add(Kind::Claim, access::text(volume, "/persistentVolumeClaim/claimName"));
        if access::has(volume, "ephemeral") {
            add(Kind::Claim, &format!("{pod_name}-{}", access::str_of(volume, "name")));
        }
    }
    for claim in access::list(spec, "resourceClaims") {
        add(Kind::ResourceClaim, access::str_of(claim, "resourceClaimName"));
    }
    for claim in access::list_at(pod, "/status/resourceClaimStatuses") {
        add(Kind::ResourceClaim, access::str_of(claim, "resourceClaimName"));
    }
    out
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| access::list(spec, field))
}

/// The names of all secrets a pod refers to.
pub(crate) fn visit_secrets(spec: &Value, see: &mut dyn FnMut(&str)) {
    for reference in access::list(spec, "imagePullSecrets") {
        see(access::str_of(reference, "name"));
    }
    for container in containers(spec) {
        for from in access::list(container, "envFrom") {
            see(access::text(from, "/secretRef/name"));
        }
        for variable in access::list(container, "env") {
            see(access::text(variable, "/valueFrom/secretKeyRef/name"));
        }
    }
    for volume in access::list(spec, "volumes") {
        for pointer in [
            "/azureFile/secretName",
            "/cephfs/secretRef/name",
            "/cinder/secretRef/name",
            "/flexVolume/secretRef/name",
            "/rbd/secretRef/name",
            "/secret/secretName",
            "/scaleIO/secretRef/name",
            "/iscsi/secretRef/name",
            "/storageos/secretRef/name",
            "/csi/nodePublishSecretRef/name",
        ] {
            see(access::text(volume, pointer));
        }
        for source in access::list_at(volume, "/projected/sources") {
            see(access::text(source, "/secret/name"));
        }
    }
}

/// The names of all config maps a pod refers to.
pub(crate) fn visit_config_maps(spec: &Value, see: &mut dyn FnMut(&str)) {
    for container in containers(spec) {
        for from in access::list(container, "envFrom") {
            see(access::text(from, "/configMapRef/name"));
        }
        for variable in access::list(container, "env") {
            see(access::text(variable, "/valueFrom/configMapKeyRef/name"));
        }
    }
    for volume in access::list(spec, "volumes") {
        see(access::text(volume, "/configMap/name"));
        for source in access::list_at(volume, "/projected/sources") {
            see(access::text(source, "/configMap/name"));
        }
    }
}

/// The secrets a node needs to mount a volume; those without a namespace are in the claim's.
fn secrets_of_volume(spec: &Value, home: &str) -> BTreeSet<Place> {
    const REFERENCES: [&str; 10] = [
        "/cephfs/secretRef",
        "/cinder/secretRef",
        "/flexVolume/secretRef",
        "/rbd/secretRef",
        "/scaleIO/secretRef",
        "/iscsi/secretRef",
        "/storageos/secretRef",
        "/csi/nodePublishSecretRef",
        "/csi/nodeStageSecretRef",
        "/csi/nodeExpandSecretRef",
    ];
    let azure = access::get(spec, "azureFile");
    let azure = (
        access::str_of(azure, "secretNamespace"),
        access::str_of(azure, "secretName"),
    );
    let others = REFERENCES.iter().map(|pointer| {
        let reference = access::at(spec, pointer);
        (
            access::str_of(reference, "namespace"),
            access::str_of(reference, "name"),
        )
    });
    others
        .chain([azure])
        .filter(|(_, name)| !name.is_empty())
        .map(|(namespace, name)| {
            let namespace = if namespace.is_empty() { home } else { namespace };
            (Kind::Secret, namespace.to_owned(), name.to_owned())
        })
        .collect()
}
