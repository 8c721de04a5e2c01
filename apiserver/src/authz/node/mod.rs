//! The node authoriser: a node may read what the pods bound to it need, and write its own objects.
//!
//! ```text
//!  node <- pod <- secret, configmap, service account, resource claim
//!          pod <- claim <- volume <- secret
//!  node <- volume attachment, resource slice
//! ```
//! The [`graph`] follows the store's events and is brought up to date when a node asks; nothing is
//! scanned and nothing runs while no node asks. What is not subdivided is decided by the fixed rules
//! of the role `system:node`. Refusals carry Kubernetes' reasons. Does not: look at bodies (the
//! NodeRestriction admission does).

mod graph;

use std::sync::{Mutex, PoisonError};

use coxswain_consensus::Store;
use coxswain_store::Snapshot;
use serde_json::Value;

use super::rbac::Rule;
use super::{Attributes, Authorizer, Decision};
use crate::User;
use graph::{Graph, Kind};
pub(crate) use graph::{visit_config_maps, visit_secrets};

const LEASES: &str = "kube-node-lease";

/// Decides about requests of nodes.
pub(crate) struct NodeAuthorizer {
    store: Store,
    rules: Vec<Rule>,
    graph: Mutex<Graph>,
}

/// The name of the node that a user is; `None` when it is no node.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.is_in("system:nodes").then_some(name)
}

/// A verdict before it becomes a [`Decision`]: the reason of a refusal.
type Verdict = Result<(), String>;

fn refuse(reason: &str) -> Verdict {
    Err(reason.to_owned())
}

impl NodeAuthorizer {
    /// An authoriser whose fixed rules are `rules`.
    pub fn new(store: Store, rules: Vec<Value>) -> Self {
        Self {
            store,
            rules: rules.iter().map(Rule::new).collect(),
            graph: Mutex::default(),
        }
    }

    fn verdict(&self, node: &str, attributes: &Attributes) -> Verdict {
        if attributes.is_resource {
            let verb = attributes.verb.as_str();
            let status = attributes.subresource == "status";
            match (attributes.group.as_str(), attributes.resource.as_str()) {
                ("", "secrets") => return self.read_namespaced(node, Kind::Secret, attributes),
                ("", "configmaps") => return self.read_namespaced(node, Kind::ConfigMap, attributes),
                ("", "persistentvolumeclaims") if status && matches!(verb, "update" | "patch") => {
                    return self.related(node, Kind::Claim, attributes);
                }
                ("", "persistentvolumeclaims") if status => return refuse("can only get/update/patch this type"),
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, attributes),
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, attributes),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Kind::ResourceClaim, attributes),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Kind::Attachment, attributes),
                ("", "serviceaccounts") => return self.service_account(node, attributes),
                ("coordination.k8s.io", "leases") => return lease(node, attributes),
                ("storage.k8s.io", "csinodes") => return csi_node(node, attributes),
                ("resource.k8s.io", "resourceslices") => return self.slice(node, attributes),
                ("", "nodes") => return own_node(node, attributes),
                ("", "pods") => return self.pod(node, attributes),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(attributes)) {
            Ok(())
        } else {
            Err(String::new())
        }
    }

    fn read_namespaced(&self, node: &str, kind: Kind, attributes: &Attributes) -> Verdict {
        if !matches!(attributes.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, kind, attributes)
    }

    fn get(&self, node: &str, kind: Kind, attributes: &Attributes) -> Verdict {
        if attributes.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, kind, attributes)
    }

    fn service_account(&self, node: &str, attributes: &Attributes) -> Verdict {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.get(node, Kind::ServiceAccount, attributes);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if attributes.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, attributes)
    }

    fn slice(&self, node: &str, attributes: &Attributes) -> Verdict {
        if !attributes.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match attributes.verb.as_str() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::Slice, attributes),
            "watch" | "list" | "deletecollection" if selects(attributes, "nodeName", node) => Ok(()),
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes) -> Verdict {
        match (attributes.subresource.as_str(), attributes.verb.as_str()) {
            ("", "get") => self.related(node, Kind::Pod, attributes),
            ("", "list" | "watch") if selects(attributes, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !attributes.name.is_empty() => self.related(node, Kind::Pod, attributes),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => refuse(""),
        }
    }

    fn related(&self, node: &str, kind: Kind, attributes: &Attributes) -> Verdict {
        if attributes.name.is_empty() {
            return refuse("No Object name found");
        }
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        graph.catch_up(&self.store);
        if graph.reaches(kind, &attributes.namespace, &attributes.name, node) {
            Ok(())
        } else {
            Err(format!("no relationship found between node '{node}' and this object"))
        }
    }
}

impl Authorizer for NodeAuthorizer {
    fn decide(&self, user: &User, attributes: &Attributes, _snapshot: &Snapshot) -> Decision {
        match node_of(user) {
            None => Decision::NoOpinion(String::new()),
            Some("") => Decision::NoOpinion(format!("unknown node for user {:?}", user.name)),
            Some(node) => match self.verdict(node, attributes) {
                Ok(()) => Decision::Allow(String::new()),
                Err(reason) => Decision::NoOpinion(reason),
            },
        }
    }
}

fn selects(attributes: &Attributes, field: &str, value: &str) -> bool {
    attributes
        .fields
        .iter()
        .any(|(name, wanted)| name == field && wanted == value)
}

fn own_node(node: &str, attributes: &Attributes) -> Verdict {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match attributes.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => refuse(""),
    }
}

fn lease(node: &str, attributes: &Attributes) -> Verdict {
    let verb = attributes.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if verb != "create" && attributes.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, attributes: &Attributes) -> Verdict {
    let verb = attributes.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if verb != "create" && attributes.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}
