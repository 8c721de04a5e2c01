//! Objections to security contexts of pods and containers.

use super::volumes::descending_path;
use super::{dump, windows};
use crate::field::{ErrorList, Path, duplicate, invalid, not_supported, required, too_long};
use crate::kinds::access::{flag, get, has, int_of, list, str_of};
use crate::kinds::check::{self, strings};
use crate::kinds::go;
use crate::names;
use crate::schema::choices::PROFILES;
use serde_json::Value;
use std::collections::BTreeSet;

const ID_MAX: i64 = i32::MAX as i64;

/// A number of a user or a group.
pub fn id(errors: &mut ErrorList, path: &Path, value: Option<i64>) {
    if let Some(n) = value.filter(|n| !(0..=ID_MAX).contains(n)) {
        errors.push(invalid(path, n, names::in_range(0, ID_MAX)));
    }
}

/// `spec.securityContext` of a pod.
pub fn pod(errors: &mut ErrorList, spec_path: &Path, spec: &Value) {
    let context = get(spec, "securityContext");
    let path = spec_path.child("securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, &path.child(key), int_of(context, key));
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(errors, &path.child("supplementalGroups").index(i), group.as_i64());
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(errors, &path.child("sysctls"), list(context, "sysctls"), spec);
    let one_of = |errors: &mut ErrorList, key: &str, supported: &[&str]| {
        if has(context, key) {
            check::one_of(errors, &path.child(key), str_of(context, key), supported);
        }
    };
    one_of(errors, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    seccomp(errors, &path.child("seccompProfile"), get(context, "seccompProfile"));
    windows::options(errors, &path.child("windowsOptions"), get(context, "windowsOptions"));
    app_armor(errors, &path.child("appArmorProfile"), get(context, "appArmorProfile"));
    one_of(errors, "supplementalGroupsPolicy", &["Merge", "Strict"]);
    one_of(errors, "seLinuxChangePolicy", &["MountOption", "Recursive"]);
}

fn sysctls(errors: &mut ErrorList, path: &Path, sysctls: &[Value], spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i).child("name");
        let name = str_of(sysctl, "name");
        if name.is_empty() {
            errors.push(required(&path, ""));
        } else if !valid_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(invalid(&path, name, detail));
        } else if !seen.insert(name) {
            errors.push(duplicate(&path, name));
        }
        let shared = match sysctl_namespace(name) {
            Some(Namespace::Net) if flag(spec, "hostNetwork") => "hostNetwork",
            Some(Namespace::Ipc) if flag(spec, "hostIPC") => "hostIPC",
            _ => continue,
        };
        errors.push(invalid(
            &path,
            name,
            format!("may not be specified when '{shared}' is true"),
        ));
    }
}

/// A namespace that a sysctl belongs to.
enum Namespace {
    Ipc,
    Net,
}

fn sysctl_namespace(name: &str) -> Option<Namespace> {
    let name = name.replace('/', ".");
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|p| name.starts_with(p));
    if ipc {
        Some(Namespace::Ipc)
    } else {
        name.starts_with("net.").then_some(Namespace::Net)
    }
}

fn valid_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|c| plain(*c))
                && bytes.last().is_some_and(|c| plain(*c))
                && bytes.iter().all(|c| plain(*c) || *c == b'-' || *c == b'_')
        })
}

fn seccomp(errors: &mut ErrorList, path: &Path, profile: &Value) {
    if !profile.is_object() {
        return;
    }
    let kind = str_of(profile, "type");
    match kind {
        "" => errors.push(required(
            &path.child("type"),
            "type is required when seccompProfile is set",
        )),
        _ => check::one_of(errors, &path.child("type"), kind, PROFILES),
    }
    let at = path.child("localhostProfile");
    match (kind, has(profile, "localhostProfile")) {
        ("Localhost", false) => errors.push(required(&at, "must be set when seccomp type is Localhost")),
        ("Localhost", true) => descending_path(errors, &at, str_of(profile, "localhostProfile")),
        (_, true) => {
            let shown = dump::core("SeccompProfile", profile).compact();
            errors.push(go::invalid_shown(
                &at,
                &shown,
                "can only be set when seccomp type is Localhost",
            ));
        }
        (_, false) => {}
    }
}

fn app_armor(errors: &mut ErrorList, path: &Path, profile: &Value) {
    const NAME_BYTES_MAX: usize = 4095;
    const NEEDED: &str = "must be set when AppArmor type is Localhost";
    if !profile.is_object() {
        return;
    }
    let (kind, name) = (str_of(profile, "type"), str_of(profile, "localhostProfile"));
    let at = path.child("localhostProfile");
    match kind {
        "Localhost" if name.is_empty() => errors.push(required(&at, NEEDED)),
        "Localhost" => {
            if name.trim() != name {
                errors.push(invalid(&at, name, "must not be padded with whitespace"));
            }
            if name.len() > NAME_BYTES_MAX {
                errors.push(too_long(&at, NAME_BYTES_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if has(profile, "localhostProfile") {
                errors.push(invalid(&at, name, "can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(required(
            &path.child("type"),
            "type is required when appArmorProfile is set",
        )),
        other => errors.push(not_supported(&path.child("type"), other, PROFILES)),
    }
}

/// `securityContext` of a container.
pub fn container(errors: &mut ErrorList, path: &Path, context: &Value, host_users: bool) {
    if !context.is_object() {
        return;
    }
    for key in ["runAsUser", "runAsGroup"] {
        id(errors, &path.child(key), int_of(context, key));
    }
    if has(context, "procMount") {
        let mount = str_of(context, "procMount");
        check::one_of(errors, &path.child("procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            errors.push(invalid(
                &path.child("procMount"),
                mount,
                "`hostUsers` must be false to use `Unmasked`",
            ));
        }
    }
    seccomp(errors, &path.child("seccompProfile"), get(context, "seccompProfile"));
    if get(context, "allowPrivilegeEscalation").as_bool() == Some(false) {
        let shown = || dump::core("SecurityContext", context).compact();
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(go::invalid_shown(path, &shown(), detail));
        }
        let added = strings(get(context, "capabilities"), "add");
        for _ in added.iter().filter(|c| **c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(go::invalid_shown(path, &shown(), detail));
        }
    }
    windows::options(errors, &path.child("windowsOptions"), get(context, "windowsOptions"));
    app_armor(errors, &path.child("appArmorProfile"), get(context, "appArmorProfile"));
}
