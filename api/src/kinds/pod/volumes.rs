//! Objections to the volumes of a pod.

use super::defaults::SOURCES;
use super::env;
use super::sources::{self, Owner};
use super::validate::Context;
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::kinds::access::{at, get, has, int_of, is_empty, list, str_of};
use crate::kinds::check::{self, dns_label, strings};
use crate::kinds::claim;
use crate::names;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Volumes without objections, by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Checks all volumes and returns the good ones.
pub fn check<'a>(errors: &mut ErrorList, path: &Path, spec: &'a Value, context: Context<'_>) -> Volumes<'a> {
    let volumes = list(spec, "volumes");
    let pod_name = context.pod_name.filter(|n| !n.is_empty());
    let created: BTreeSet<String> = pod_name.map_or_else(BTreeSet::new, |pod| {
        volumes
            .iter()
            .filter(|v| has(v, "ephemeral"))
            .map(|v| format!("{pod}-{}", str_of(v, "name")))
            .collect()
    });
    let mut good = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut own = ErrorList::new();
        source(&mut own, &path, volume, context);
        let name = str_of(volume, "name");
        if name.is_empty() {
            own.push(required(&path.child("name"), ""));
        } else {
            dns_label(&mut own, &path.child("name"), name);
        }
        if good.contains_key(name) {
            own.push(duplicate(&path.child("name"), name));
        }
        if own.is_empty() {
            good.insert(name, volume);
        }
        errors.extend(own);
        let claimed = str_of(get(volume, "persistentVolumeClaim"), "claimName");
        if created.contains(claimed) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                claimed,
                detail,
            ));
        }
    }
    good
}

/// Exactly one source, and that source's own rules.
fn source(errors: &mut ErrorList, path: &Path, volume: &Value, context: Context<'_>) {
    let mut found = false;
    for kind in SOURCES {
        let value = get(volume, kind);
        if !value.is_object() {
            continue;
        }
        let (own, again) = misnamed(kind);
        if found {
            errors.push(forbidden(&path.child(again), "may not specify more than 1 volume type"));
        } else {
            one_source(errors, &path.child(own), kind, value);
        }
        match *kind {
            "ephemeral" if !found => ephemeral_name(errors, path, str_of(volume, "name"), context.pod_name),
            "iscsi" => sources::initiator_length(errors, &path.child("name"), str_of(volume, "name"), value),
            _ => {}
        }
        found = true;
    }
    if !found {
        errors.push(required(path, "must specify a volume type"));
    }
}

/// How Kubernetes calls a kind of storage in what it says of it, and when there is another one before it.
fn misnamed(kind: &str) -> (&str, &str) {
    match kind {
        "gcePersistentDisk" => ("persistentDisk", kind),
        "cephfs" => (kind, "cephFS"),
        "downwardAPI" => (kind, "downwarAPI"),
        _ => (kind, kind),
    }
}

fn ephemeral_name(errors: &mut ErrorList, path: &Path, volume: &str, pod_name: Option<&str>) {
    let Some(pod) = pod_name.filter(|pod| !pod.is_empty() && !volume.is_empty()) else {
        return;
    };
    let claim = format!("{pod}-{volume}");
    for message in names::dns1123_subdomain(&claim) {
        errors.push(invalid(
            &path.child("name"),
            volume,
            format!("PVC name {}: {message}", crate::field::quote(&claim)),
        ));
    }
}

fn one_source(errors: &mut ErrorList, path: &Path, kind: &str, value: &Value) {
    let need = |errors: &mut ErrorList, key: &str| {
        if str_of(value, key).is_empty() {
            errors.push(required(&path.child(key), ""));
        }
    };
    match kind {
        "emptyDir" => {
            if Quantity::parse(str_of(value, "sizeLimit")).is_ok_and(|q| q < Quantity::ZERO) {
                errors.push(forbidden(
                    &path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
        }
        "secret" | "configMap" => {
            need(errors, if kind == "secret" { "secretName" } else { "name" });
            file_mode(errors, &path.child("defaultMode"), value, "defaultMode");
            env::keys_to_paths(errors, path, value);
        }
        "downwardAPI" => {
            file_mode(errors, &path.child("defaultMode"), value, "defaultMode");
            for file in list(value, "items") {
                env::downward_file(errors, path, file);
            }
        }
        "projected" => {
            file_mode(errors, &path.child("defaultMode"), value, "defaultMode");
            projected(errors, path, value);
        }
        "persistentVolumeClaim" => need(errors, "claimName"),
        "ephemeral" => ephemeral(errors, path, value),
        "image" => image(errors, path, value),
        "gitRepo" => {
            need(errors, "repository");
            descending_path(errors, &path.child("directory"), str_of(value, "directory"));
        }
        _ => sources::check(errors, path, kind, value, Owner::Pod),
    }
}

/// An absolute path.
pub fn absolute(errors: &mut ErrorList, path: &Path, value: &str) {
    if !check::is_absolute(value) {
        errors.push(invalid(path, value, "must be an absolute path"));
    }
}

/// `hostPath` in pods and in PersistentVolumes.
pub fn host_path(errors: &mut ErrorList, path: &Path, value: &Value) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let place = str_of(value, "path");
    if place.is_empty() {
        errors.push(required(&path.child("path"), ""));
        return;
    }
    no_backsteps(errors, &path.child("path"), place);
    check::one_of(errors, &path.child("type"), str_of(value, "type"), TYPES);
}

fn image(errors: &mut ErrorList, path: &Path, value: &Value) {
    if str_of(value, "reference").is_empty() {
        errors.push(required(&path.child("reference"), ""));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    check::required_one_of(
        errors,
        &path.child("pullPolicy"),
        str_of(value, "pullPolicy"),
        &policies,
    );
}

/// Metadata that a claim made from a template cannot have, in the order of the struct.
const NOT_IN_TEMPLATES: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

fn is_zero(v: &Value) -> bool {
    is_empty(v) || v == "" || v.as_i64() == Some(0)
}

fn ephemeral(errors: &mut ErrorList, path: &Path, value: &Value) {
    let template = get(value, "volumeClaimTemplate");
    let path = path.child("volumeClaimTemplate");
    if !template.is_object() {
        errors.push(required(&path, ""));
        return;
    }
    let metadata = get(template, "metadata");
    let at_metadata = path.child("metadata");
    check::annotations(errors, &at_metadata.child("annotations"), metadata);
    check::labels(errors, &at_metadata.child("labels"), metadata, "labels");
    for key in NOT_IN_TEMPLATES {
        if metadata.get(*key).is_some_and(|v| !is_zero(v)) {
            errors.push(forbidden(&at_metadata.child(key), "cannot be set"));
        }
    }
    claim::check_spec(errors, &path.child("spec"), get(template, "spec"));
}

fn projected(errors: &mut ErrorList, path: &Path, value: &Value) {
    let mut places = BTreeSet::new();
    for (i, source) in list(value, "sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken"] {
            let projection = get(source, kind);
            if !projection.is_object() {
                continue;
            }
            count += 1;
            let at = at.child(kind);
            match kind {
                "secret" | "configMap" => {
                    if str_of(projection, "name").is_empty() {
                        errors.push(required(&at.child("name"), ""));
                    }
                    env::keys_to_paths(errors, &at, projection);
                    duplicate_paths(errors, path, projection, &mut places, Some(str_of(projection, "name")));
                }
                "downwardAPI" => {
                    for file in list(projection, "items") {
                        env::downward_file(errors, &at, file);
                    }
                    duplicate_paths(errors, path, projection, &mut places, None);
                }
                _ => token(errors, path, &at, projection),
            }
        }
        if count > 1 {
            errors.push(forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn duplicate_paths(
    errors: &mut ErrorList,
    path: &Path,
    projection: &Value,
    places: &mut BTreeSet<String>,
    owner: Option<&str>,
) {
    for item in list(projection, "items") {
        let place = str_of(item, "path");
        if !place.is_empty() && !places.insert(place.to_owned()) {
            errors.push(invalid(path, owner.unwrap_or(place), "conflicting duplicate paths"));
        }
    }
}

fn token(errors: &mut ErrorList, volume: &Path, path: &Path, value: &Value) {
    let seconds = int_of(value, "expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        errors.push(invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > 1 << 32 {
        errors.push(invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    match str_of(value, "path") {
        "" => errors.push(required(&volume.child("path"), "")),
        place => not_reserved_path(errors, &volume.child("path"), place),
    }
}

/// Permission bits.
pub fn file_mode(errors: &mut ErrorList, path: &Path, owner: &Value, key: &str) {
    if let Some(mode) = int_of(owner, key).filter(|m| !(0..=0o777).contains(m)) {
        errors.push(invalid(
            path,
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}

/// A relative path that stays below its root.
pub fn descending_path(errors: &mut ErrorList, path: &Path, value: &str) {
    if check::is_absolute(value) {
        errors.push(invalid(path, value, "must be a relative path"));
    }
    no_backsteps(errors, path, value);
}

/// A path that never goes up.
pub fn no_backsteps(errors: &mut ErrorList, path: &Path, value: &str) {
    if value.split('/').any(|part| part == "..") {
        errors.push(invalid(path, value, "must not contain '..'"));
    }
}

/// A relative path that also does not look like the kubelet's own names.
pub fn not_reserved_path(errors: &mut ErrorList, path: &Path, value: &str) {
    descending_path(errors, path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(invalid(path, value, "must not start with '..'"));
    }
}

/// Kinds of storage that a PersistentVolume may name.
pub const PERSISTENT: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The one source of a PersistentVolume. `None` when there are several or none, after saying so.
pub fn persistent_source<'a>(
    errors: &mut ErrorList,
    path: &Path,
    spec: &'a Value,
    name: &str,
) -> Option<(&'static str, &'a Value)> {
    let mut found = None;
    for kind in PERSISTENT {
        let value = get(spec, kind);
        if !value.is_object() {
            continue;
        }
        let (own, again) = misnamed(kind);
        // Kubernetes never counts this one.
        if found.is_some() && *kind != "flexVolume" {
            errors.push(forbidden(&path.child(again), "may not specify more than 1 volume type"));
            continue;
        }
        found = Some((*kind, value));
        sources::check(errors, &path.child(own), kind, value, Owner::Volume { name });
    }
    if found.is_none() {
        errors.push(required(path, "must specify a volume type"));
    }
    found
}

/// Claims that a pod names, for warnings and tables.
pub fn claim_names(spec: &Value) -> Vec<&str> {
    list(spec, "volumes")
        .iter()
        .map(|v| str_of(at(v, "/persistentVolumeClaim"), "claimName"))
        .filter(|n| !n.is_empty())
        .collect()
}

/// Access modes that volumes and claims know.
pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Access modes of volumes and claims. `missing` explains that there are none.
pub fn access_modes(errors: &mut ErrorList, path: &Path, owner: &Value, missing: &str) {
    let modes = strings(owner, "accessModes");
    if modes.is_empty() {
        errors.push(required(path, missing));
    }
    mode_values(errors, path, &modes);
}

/// The values of a list of access modes.
pub fn mode_values(errors: &mut ErrorList, path: &Path, modes: &[&str]) {
    for mode in modes {
        check::one_of(errors, path, mode, ACCESS_MODES);
    }
    let others = modes
        .iter()
        .any(|m| *m != "ReadWriteOncePod" && ACCESS_MODES.contains(m));
    if others && modes.contains(&"ReadWriteOncePod") {
        errors.push(forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}
