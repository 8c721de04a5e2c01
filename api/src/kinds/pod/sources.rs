//! Objections to the kinds of storage that pods and PersistentVolumes have in common.

use super::volumes::{absolute, host_path, no_backsteps};
use crate::field::{ErrorList, Path, invalid, not_supported, required};
use crate::kinds::access::{entries, flag, get, has, int_of, list, str_of};
use crate::kinds::{check, claim};
use crate::names;
use serde_json::Value;

/// Who names the storage. Secrets of a PersistentVolume need a namespace.
#[derive(Clone, Copy)]
pub enum Owner<'a> {
    Pod,
    Volume {
        /// Name of the PersistentVolume.
        name: &'a str,
    },
}

impl Owner<'_> {
    fn is_volume(self) -> bool {
        matches!(self, Self::Volume { .. })
    }
}

/// Members that one kind of source needs.
const NEEDED: &[(&str, &[&str])] = &[
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("nfs", &["server", "path"]),
];

fn needed(errors: &mut ErrorList, path: &Path, kind: &str, value: &Value) {
    let keys = NEEDED
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or(&[] as &[&str], |(_, keys)| keys);
    for key in keys {
        if str_of(value, key).is_empty() && list(value, key).is_empty() {
            errors.push(required(&path.child(key), ""));
        }
    }
}

/// One source.
pub fn check(errors: &mut ErrorList, path: &Path, kind: &str, value: &Value, owner: Owner<'_>) {
    needed(errors, path, kind, value);
    match kind {
        "hostPath" => host_path(errors, path, value),
        "local" => match str_of(value, "path") {
            "" => errors.push(required(&path.child("path"), "")),
            place => no_backsteps(errors, &path.child("path"), place),
        },
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            byte(errors, &path.child("partition"), int_of(value, "partition"), 1);
        }
        "nfs" => absolute(errors, &path.child("path"), str_of(value, "path")),
        "iscsi" => iscsi(errors, path, value, owner),
        "fc" => fibre_channel(errors, path, value),
        "glusterfs" if owner.is_volume() && has(value, "endpointsNamespace") => {
            let at = path.child("endpointsNamespace");
            match str_of(value, "endpointsNamespace") {
                "" => errors.push(invalid(
                    &at,
                    "",
                    "if the endpointnamespace is set, it must be a valid namespace name",
                )),
                namespace => check::dns_label(errors, &at, namespace),
            }
        }
        "flocker" => flocker(errors, path, value),
        "cinder" => secret(errors, &path.child("secretRef"), get(value, "secretRef"), owner),
        "quobyte" => quobyte(errors, path, value),
        "flexVolume" => options(errors, &path.child("options"), value),
        "azureFile"
            if owner.is_volume() && has(value, "secretNamespace") && str_of(value, "secretNamespace").is_empty() =>
        {
            errors.push(required(&path.child("secretNamespace"), ""));
        }
        "azureDisk" => azure_disk(errors, path, value),
        "storageos" => storage_os(errors, path, value, owner),
        "csi" => driver(errors, path, value, owner),
        _ => {}
    }
}

/// A number of one byte. Zero is always fine.
fn byte(errors: &mut ErrorList, path: &Path, number: Option<i64>, low: i64) {
    if let Some(n) = number.filter(|n| !(0..=255).contains(n)) {
        errors.push(invalid(path, n, names::in_range(low, 255)));
    }
}

/// A reference to a secret that needs a name, and a namespace where the owner has none.
fn secret(errors: &mut ErrorList, path: &Path, reference: &Value, owner: Owner<'_>) {
    if !reference.is_object() {
        return;
    }
    let keys: &[&str] = if owner.is_volume() {
        &["name", "namespace"]
    } else {
        &["name"]
    };
    for key in keys {
        if str_of(reference, key).is_empty() {
            errors.push(required(&path.child(key), ""));
        }
    }
}

fn iscsi(errors: &mut ErrorList, path: &Path, value: &Value, owner: Owner<'_>) {
    let (portal, name) = (str_of(value, "targetPortal"), str_of(value, "iqn"));
    if portal.is_empty() {
        errors.push(required(&path.child("targetPortal"), ""));
    }
    if let Owner::Volume { name } = owner
        && too_long_together(name, value)
    {
        errors.push(invalid(&path.child("targetportal"), portal, TOO_LONG_TOGETHER));
    }
    let unknown = if owner.is_volume() {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    if name.is_empty() {
        errors.push(required(&path.child("iqn"), ""));
    } else {
        qualified_initiator(errors, &path.child("iqn"), name, unknown);
    }
    byte(errors, &path.child("lun"), int_of(value, "lun"), 0);
    let reference = get(value, "secretRef");
    if (flag(value, "chapAuthDiscovery") || flag(value, "chapAuthSession")) && !reference.is_object() {
        errors.push(required(&path.child("secretRef"), ""));
    }
    if owner.is_volume() {
        secret(errors, &path.child("secretRef"), reference, Owner::Pod);
    }
    if has(value, "initiatorName") {
        qualified_initiator(
            errors,
            &path.child("initiatorname"),
            str_of(value, "initiatorName"),
            unknown,
        );
    }
}

const TOO_LONG_TOGETHER: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

fn too_long_together(name: &str, value: &Value) -> bool {
    has(value, "initiatorName") && name.len() + 1 + str_of(value, "targetPortal").len() > 64
}

/// The name of a pod's volume makes a session's name together with the portal.
pub fn initiator_length(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    if too_long_together(name, value) {
        errors.push(invalid(path, name, TOO_LONG_TOGETHER));
    }
}

fn qualified_initiator(errors: &mut ErrorList, path: &Path, name: &str, unknown: &str) {
    let detail = match name.get(..3) {
        Some("iqn") if iqn(name) => return,
        Some("eui") if alphanumeric_after(name, 16) => return,
        Some("naa") if alphanumeric_after(name, 32) => return,
        Some("iqn" | "eui" | "naa") => "must be valid format",
        _ => unknown,
    };
    errors.push(invalid(path, name, detail));
}

/// `iqn.2001-04.com.example:disk`
fn iqn(name: &str) -> bool {
    let Some((place, disk)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let date = place.as_bytes();
    let dated = date.len() > 8
        && date.iter().take(8).enumerate().all(|(i, b)| match i {
            4 => *b == b'-',
            7 => *b == b'.',
            _ => b.is_ascii_digit(),
        });
    dated
        && date[8..]
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !disk.is_empty()
        && !disk.chars().any(|c| c.is_whitespace() || ",;*&$|".contains(c))
}

/// Three letters, any character, and then so many letters and digits.
fn alphanumeric_after(name: &str, count: usize) -> bool {
    let rest = name.chars().skip(4);
    name.chars().count() == count + 4 && rest.into_iter().all(|c| c.is_ascii_alphanumeric())
}

fn fibre_channel(errors: &mut ErrorList, path: &Path, value: &Value) {
    let (targets, ids) = (list(value, "targetWWNs"), list(value, "wwids"));
    let at = path.child("targetWWNs");
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => errors.push(required(&at, "must specify either targetWWNs or wwids, but not both")),
        (false, false) => errors.push(invalid(
            &at,
            get(value, "targetWWNs").clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        )),
        _ => {}
    }
    if !targets.is_empty() {
        match int_of(value, "lun") {
            None => errors.push(required(
                &path.child("lun"),
                "lun is required if targetWWNs is specified",
            )),
            lun => byte(errors, &path.child("lun"), lun, 0),
        }
    }
}

fn flocker(errors: &mut ErrorList, path: &Path, value: &Value) {
    let (name, id) = (str_of(value, "datasetName"), str_of(value, "datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => errors.push(required(path, "one of datasetName and datasetUUID is required")),
        (false, false) => errors.push(invalid(
            path,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        )),
        _ => {}
    }
    if name.contains('/') {
        errors.push(invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(errors: &mut ErrorList, path: &Path, value: &Value) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = str_of(value, "registry");
    let at = path.child("registry");
    if registry.is_empty() {
        errors.push(required(&at, PAIRS));
    } else if str_of(value, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(required(&path.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_port(pair)) {
            errors.push(invalid(&at, registry, PAIRS));
        }
    }
    if str_of(value, "volume").is_empty() {
        errors.push(required(&path.child("volume"), ""));
    }
}

fn is_host_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, _)) => !host.contains(':') || (host.starts_with('[') && host.ends_with(']')),
        None => false,
    }
}

/// Options of a driver stay out of Kubernetes' own name space.
fn options(errors: &mut ErrorList, path: &Path, value: &Value) {
    for (key, _) in entries(value, "options") {
        let space = key.split_once('/').map_or(key.as_str(), |(space, _)| space);
        let space = format!(".{}", space.to_lowercase());
        if space.ends_with(".kubernetes.io") || space.ends_with(".k8s.io") {
            errors.push(invalid(
                &path.key(key),
                key.as_str(),
                "kubernetes.io and k8s.io namespaces are reserved",
            ));
        }
    }
}

fn azure_disk(errors: &mut ErrorList, path: &Path, value: &Value) {
    let one_of = |errors: &mut ErrorList, key: &str, supported: &[&str]| {
        if has(value, key) {
            check::one_of(errors, &path.child(key), str_of(value, key), supported);
        }
    };
    one_of(errors, "cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    one_of(errors, "kind", &["Dedicated", "Managed", "Shared"]);
    if !has(value, "kind") {
        return;
    }
    let uri = str_of(value, "diskURI");
    let (start, form) = if str_of(value, "kind") == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        )
    };
    if !uri.starts_with(start) {
        errors.push(not_supported(&path.child("diskURI"), uri, &[form]));
    }
}

fn storage_os(errors: &mut ErrorList, path: &Path, value: &Value, owner: Owner<'_>) {
    match str_of(value, "volumeName") {
        "" => errors.push(required(&path.child("volumeName"), "")),
        name => check::dns_label(errors, &path.child("volumeName"), name),
    }
    let namespace = str_of(value, "volumeNamespace");
    if !namespace.is_empty() {
        check::dns_label(errors, &path.child("volumeNamespace"), namespace);
    }
    secret(errors, &path.child("secretRef"), get(value, "secretRef"), owner);
}

fn driver(errors: &mut ErrorList, path: &Path, value: &Value, owner: Owner<'_>) {
    claim::driver_name(errors, &path.child("driver"), str_of(value, "driver"));
    if !owner.is_volume() {
        let reference = get(value, "nodePublishSecretRef");
        if reference.is_object() {
            match str_of(reference, "name") {
                "" => errors.push(required(&path.child("nodePublishSecretRef").child("name"), "")),
                name => check::dns_subdomain(errors, &path.child("name"), name),
            }
        }
        return;
    }
    if str_of(value, "volumeHandle").is_empty() {
        errors.push(required(&path.child("volumeHandle"), ""));
    }
    for key in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let reference = get(value, key);
        if !reference.is_object() {
            continue;
        }
        let at = path.child(key);
        check::required_subdomain(errors, &at.child("name"), str_of(reference, "name"));
        match str_of(reference, "namespace") {
            "" => errors.push(required(&at.child("namespace"), "")),
            namespace => check::dns_label(errors, &at.child("namespace"), namespace),
        }
    }
}
