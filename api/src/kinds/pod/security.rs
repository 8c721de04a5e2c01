//! Objections to security contexts of pods and containers.

use super::volumes::descending_path;
use crate::field::{ErrorList, Path, duplicate, invalid, not_supported, required};
use crate::kinds::access::{flag, get, has, int_of, list, str_of};
use crate::kinds::check::{self, strings};
use crate::names;
use serde_json::Value;
use std::collections::BTreeSet;

const ID_MAX: i64 = i32::MAX as i64;

fn id(errors: &mut ErrorList, path: &Path, value: Option<i64>) {
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
    sysctls(errors, &path.child("sysctls"), list(context, "sysctls"));
    if has(context, "fsGroupChangePolicy") {
        let policies = ["Always", "OnRootMismatch"];
        check::one_of(
            errors,
            &path.child("fsGroupChangePolicy"),
            str_of(context, "fsGroupChangePolicy"),
            &policies,
        );
    }
    profiles(errors, &path, context);
    if has(context, "supplementalGroupsPolicy") {
        let policies = ["Merge", "Strict"];
        check::one_of(
            errors,
            &path.child("supplementalGroupsPolicy"),
            str_of(context, "supplementalGroupsPolicy"),
            &policies,
        );
    }
    if has(context, "seLinuxChangePolicy") {
        let policies = ["MountOption", "Recursive"];
        check::one_of(
            errors,
            &path.child("seLinuxChangePolicy"),
            str_of(context, "seLinuxChangePolicy"),
            &policies,
        );
    }
}

fn sysctls(errors: &mut ErrorList, path: &Path, sysctls: &[Value]) {
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

/// Seccomp and AppArmor profiles.
fn profiles(errors: &mut ErrorList, path: &Path, context: &Value) {
    for (key, noun) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = get(context, key);
        if !profile.is_object() {
            continue;
        }
        let path = path.child(key);
        let kind = str_of(profile, "type");
        match kind {
            "" => errors.push(required(
                &path.child("type"),
                format!("type is required when {key} is set"),
            )),
            "Localhost" | "RuntimeDefault" | "Unconfined" => {}
            _ => errors.push(not_supported(
                &path.child("type"),
                kind,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            )),
        }
        let at = path.child("localhostProfile");
        let file = str_of(profile, "localhostProfile");
        if kind == "Localhost" {
            if file.is_empty() {
                errors.push(required(&at, format!("must be set when {noun} type is Localhost")));
            } else if key == "seccompProfile" {
                descending_path(errors, &at, file);
            }
        } else if has(profile, "localhostProfile") {
            errors.push(invalid(
                &at,
                file,
                format!("can only be set when {noun} type is Localhost"),
            ));
        }
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
    profiles(errors, path, context);
    if get(context, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if flag(context, "privileged") {
            errors.push(invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if strings(get(context, "capabilities"), "add").contains(&"CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(invalid(path, context.clone(), detail));
        }
    }
}
