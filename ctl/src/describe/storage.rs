//! Volumes, claims and storage classes.

use serde_json::Value;

use super::parts::{annotations, conditions_with, flat, head, labels, lines, or_none, or_unset, shown, since};
use super::writer::Writer;
use crate::pods::{list, text};

/// `RWO,ROX`.
fn modes(object: &Value, pointer: &str) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    list(object, pointer).iter().map(short).collect::<Vec<_>>().join(",")
}

fn status(object: &Value, now: jiff::Timestamp) -> String {
    match text(object, "/metadata/deletionTimestamp") {
        "" => text(object, "/status/phase").to_owned(),
        time => format!("Terminating (lasts {})", since(time, now)),
    }
}

fn finalizers(object: &Value) -> String {
    let names: Vec<&str> = list(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    format!("[{}]", names.join(" "))
}

/// A PersistentVolume.
pub fn volume(out: &mut Writer, object: &Value, now: jiff::Timestamp) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "Finalizers", &finalizers(object));
    out.pair(0, "StorageClass", text(object, "/spec/storageClassName"));
    out.pair(0, "Status", &status(object, now));
    let claim = &object["spec"]["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, "/namespace"), text(claim, "/name"))
    } else {
        String::new()
    };
    out.pair(0, "Claim", &claim);
    out.pair(0, "Reclaim Policy", text(object, "/spec/persistentVolumeReclaimPolicy"));
    out.pair(0, "Access Modes", &modes(object, "/spec/accessModes"));
    if !text(object, "/spec/volumeMode").is_empty() {
        out.pair(0, "VolumeMode", text(object, "/spec/volumeMode"));
    }
    out.pair(0, "Capacity", text(object, "/spec/capacity/storage"));
    affinity(out, list(object, "/spec/nodeAffinity/required/nodeSelectorTerms"));
    out.pair(0, "Message", text(object, "/status/message"));
    out.line(0, "Source:");
    super::pod::source(out, &object["spec"]);
}

fn affinity(out: &mut Writer, terms: &[Value]) {
    if terms.is_empty() {
        out.pair(0, "Node Affinity", "<none>");
        return;
    }
    out.pair(0, "Node Affinity", "");
    out.pair(1, "Required Terms", "");
    for (position, term) in terms.iter().enumerate() {
        let mut rows: Vec<String> = list(term, "/matchExpressions")
            .iter()
            .map(|expression| {
                let values: Vec<String> = list(expression, "/values").iter().map(shown).collect();
                let values = if values.is_empty() {
                    String::new()
                } else {
                    format!(" [{}]", values.join(", "))
                };
                format!(
                    "{} {}{values}",
                    text(expression, "/key"),
                    text(expression, "/operator").to_lowercase()
                )
            })
            .collect();
        rows.sort();
        lines(out, 2, &format!("Term {position}"), &rows);
    }
}

/// A PersistentVolumeClaim with the pods that use it.
pub fn claim(out: &mut Writer, object: &Value, pods: &[Value], now: jiff::Timestamp) {
    head(out, object);
    out.pair(0, "StorageClass", text(object, "/spec/storageClassName"));
    out.pair(0, "Status", &status(object, now));
    out.pair(0, "Volume", text(object, "/spec/volumeName"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "Finalizers", &finalizers(object));
    let bound = !text(object, "/spec/volumeName").is_empty();
    let (capacity, access) = if bound {
        (
            text(object, "/status/capacity/storage"),
            modes(object, "/status/accessModes"),
        )
    } else {
        ("", String::new())
    };
    out.pair(0, "Capacity", capacity);
    out.pair(0, "Access Modes", &access);
    if !text(object, "/spec/volumeMode").is_empty() {
        out.pair(0, "VolumeMode", text(object, "/spec/volumeMode"));
    }
    if let Some(origin) = object.pointer("/spec/dataSource") {
        out.line(0, "DataSource:");
        for (name, pointer) in [("APIGroup", "/apiGroup"), ("Kind", "/kind"), ("Name", "/name")] {
            if name != "APIGroup" || !text(origin, pointer).is_empty() {
                out.pair(1, name, text(origin, pointer));
            }
        }
    }
    let users: Vec<String> = pods
        .iter()
        .filter(|pod| {
            list(pod, "/spec/volumes")
                .iter()
                .any(|volume| volume["persistentVolumeClaim"]["claimName"] == object["metadata"]["name"])
        })
        .map(|pod| text(pod, "/metadata/name").to_owned())
        .collect();
    lines(out, 0, "Used By", &users);
    conditions_with(
        out,
        list(object, "/status/conditions"),
        &[
            "Type",
            "Status",
            "LastProbeTime",
            "LastTransitionTime",
            "Reason",
            "Message",
        ],
    );
}

/// A StorageClass.
pub fn class(out: &mut Writer, object: &Value) {
    let marks = &object["metadata"]["annotations"];
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|mark| marks[*mark] == "true");
    out.pair(0, "Name", text(object, "/metadata/name"));
    out.pair(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    out.pair(0, "Annotations", &flat(object.pointer("/metadata/annotations")));
    out.pair(0, "Provisioner", text(object, "/provisioner"));
    out.pair(0, "Parameters", &flat(object.get("parameters")));
    let expansion = &object["allowVolumeExpansion"];
    let expansion = match expansion.as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    out.pair(0, "AllowVolumeExpansion", expansion);
    let options: Vec<&str> = list(object, "/mountOptions").iter().filter_map(Value::as_str).collect();
    if options.is_empty() {
        out.pair(0, "MountOptions", "<none>");
    } else {
        out.line(0, "MountOptions:");
        options.iter().for_each(|option| out.line(1, option));
    }
    out.pair(0, "ReclaimPolicy", or_none(text(object, "/reclaimPolicy")));
    out.pair(0, "VolumeBindingMode", or_unset(text(object, "/volumeBindingMode")));
    let topologies = list(object, "/allowedTopologies");
    if !topologies.is_empty() {
        out.pair(0, "AllowedTopologies", "");
        for (position, term) in topologies.iter().enumerate() {
            let mut rows: Vec<String> = list(term, "/matchLabelExpressions")
                .iter()
                .map(|expression| {
                    let values: Vec<String> = list(expression, "/values").iter().map(shown).collect();
                    format!("{} in [{}]", text(expression, "/key"), values.join(", "))
                })
                .collect();
            rows.sort();
            lines(out, 1, &format!("Term {position}"), &rows);
        }
    }
}
