//! What a write through a resource or subresource cannot change, whatever its body says: nobody comes to own it that way.

use super::compare::Changes;
use super::set::Set;
use crate::schema::Node;

/// Paths of fields; `*` stands for any element. A path covers what lies below it.
type Paths = &'static [&'static [&'static str]];

/// The fields that are put back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reset {
    These(Paths),
    AllBut(Paths),
}

const STATUS: Paths = &[&["status"]];
const SPEC: Paths = &[&["spec"]];
const SPEC_AND_METADATA: Paths = &[&["spec"], &["metadata"]];

/// Kind, subresource, fields. What is not here follows the rule for all kinds.
const EXCEPTIONS: &[(&str, &str, Reset)] = &[
    ("APIService", "status", Reset::These(SPEC_AND_METADATA)),
    ("CertificateSigningRequest", "", Reset::These(&[&["spec"], &["status"]])),
    (
        "CertificateSigningRequest",
        "status",
        Reset::These(&[&["spec"], &["status", "conditions"]]),
    ),
    (
        "CertificateSigningRequest",
        "approval",
        Reset::These(&[&["spec"], &["status", "certificate"]]),
    ),
    (
        "Deployment",
        "status",
        Reset::These(&[&["spec"], &["metadata", "labels"]]),
    ),
    ("FlowSchema", "status", Reset::These(SPEC_AND_METADATA)),
    ("Namespace", "finalize", Reset::These(STATUS)),
    (
        "Pod",
        "status",
        Reset::These(&[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ]),
    ),
    (
        "Pod",
        "ephemeralcontainers",
        Reset::AllBut(&[&["spec", "ephemeralContainers"]]),
    ),
    (
        "Pod",
        "resize",
        Reset::AllBut(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
        ]),
    ),
    ("PriorityLevelConfiguration", "status", Reset::These(SPEC_AND_METADATA)),
    ("ResourceClaim", "status", Reset::These(SPEC_AND_METADATA)),
    ("ServiceCIDR", "status", Reset::These(SPEC_AND_METADATA)),
    ("ValidatingAdmissionPolicy", "status", Reset::These(SPEC_AND_METADATA)),
    ("VolumeAttachment", "status", Reset::These(SPEC_AND_METADATA)),
];

impl Reset {
    /// By the subresource (`""` for the resource itself) of the object's type.
    pub fn of(node: Node<'_>, subresource: &str) -> Self {
        let kind = node.type_row().and_then(|row| row.name.rsplit('.').next());
        let exception = EXCEPTIONS
            .iter()
            .find(|(of, through, _)| Some(*of) == kind && *through == subresource);
        match (exception, subresource) {
            (Some((_, _, reset)), _) => *reset,
            _ if node.field("status").is_none() => Self::These(&[]),
            (None, "") => Self::These(STATUS),
            (None, "status") => Self::These(SPEC),
            _ => Self::These(&[]),
        }
    }

    /// Takes the paths of what is put back out of a set.
    pub fn strip(self, set: &mut Set) {
        match self {
            Self::These(paths) => set.without(paths),
            Self::AllBut(paths) => set.only(paths),
        }
    }

    /// Takes them out of a comparison.
    pub fn strip_changes(self, mut changes: Changes) -> Changes {
        for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
            self.strip(set);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_owns_what_is_left() {
        let sent = json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:ownerReferences": {}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:resources": {"f:limits": {}}}},
                "f:ephemeralContainers": {"k:{\"name\":\"e\"}": {".": {}, "f:image": {}}},
            },
            "f:status": {"f:conditions": {}, "f:certificate": {}},
        });
        let sent = Set::decode(&sent).expect("a set");
        let (metadata, status) = (
            [".metadata.ownerReferences", ".metadata.labels.a"],
            [".status.certificate", ".status.conditions"],
        );
        let container = r#".spec.containers[name="c"]"#;
        for (of, through, want) in [
            ("core.v1.Pod", "status", [&metadata[1..], &status].concat()),
            ("apps.v1.ReplicaSet", "status", [&metadata[..], &status].concat()),
            ("apps.v1.Deployment", "status", [&metadata[..1], &status].concat()),
            ("storage.v1.VolumeAttachment", "status", status.to_vec()),
            ("certificates.v1.CertificateSigningRequest", "", metadata.to_vec()),
            (
                "certificates.v1.CertificateSigningRequest",
                "approval",
                [&metadata[..], &status[1..]].concat(),
            ),
            (
                "core.v1.Pod",
                "ephemeralcontainers",
                vec![
                    r#".spec.ephemeralContainers[name="e"]"#,
                    r#".spec.ephemeralContainers[name="e"].image"#,
                ],
            ),
            (
                "core.v1.Pod",
                "resize",
                vec![container, r#".spec.containers[name="c"].resources.limits"#],
            ),
        ] {
            let node = Node::of_type(&format!("io.k8s.api.{of}")).expect("a type");
            let mut left = sent.clone();
            Reset::of(node, through).strip(&mut left);
            let mut paths = left.paths();
            paths.sort();
            let mut want: Vec<String> = want.into_iter().map(str::to_owned).collect();
            want.sort();
            assert_eq!(paths, want, "{of} {through}");
        }
    }

    #[test]
    fn exceptions_are_of_kinds_that_there_are() {
        let registry = crate::Registry::builtin();
        for (kind, _, _) in EXCEPTIONS {
            assert!(registry.resources().any(|row| &*row.kind == *kind), "{kind}");
        }
    }

    /// Where a write of the status leaves the labels as they are, nobody comes to own one by it.
    #[test]
    fn what_is_put_back_is_not_owned() {
        for row in crate::Registry::builtin().resources() {
            if row.subresource("status").is_none() {
                continue;
            }
            let label =
                |value: &str| json!({"metadata": {"name": "x", "labels": {"a": value}}, "spec": {}, "status": {}});
            let (mut new, old) = (label("new"), label("old"));
            row.rules.prepare_update(&mut new, &old, Some("status"));
            let mut owned = Set::default();
            owned.insert_fields(&["metadata", "labels", "a"]);
            Reset::of(row.node(), "status").strip(&mut owned);
            assert_eq!(
                owned.is_empty(),
                new["metadata"]["labels"] == old["metadata"]["labels"],
                "{}",
                row.kind
            );
        }
    }
}
