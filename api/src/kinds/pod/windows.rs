//! Objections to what pods say about their operating system, and to Windows' own options.

use super::containers;
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use crate::kinds::access::{flag, get, has, is_empty, str_of};
use crate::kinds::check;
use crate::names;
use serde_json::Value;

/// `spec.os`, and that nothing is set that the named system does not have.
pub fn os(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let at = path.child("os");
    match str_of(get(spec, "os"), "name") {
        "" => errors.push(required(&at.child("name"), "")),
        "linux" => linux(errors, path, spec),
        "windows" => windows(errors, path, spec),
        other => errors.push(not_supported(&at, other, &["linux", "windows"])),
    }
}

/// Every container's security context and its place.
fn contexts<'a>(path: &Path, spec: &'a Value) -> Vec<(Path, &'a Value)> {
    let all = containers::all(path, spec).into_iter();
    all.map(|(at, c)| (at.child("securityContext"), get(c, "securityContext")))
        .collect()
}

fn linux(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let pod = (path.child("securityContext"), get(spec, "securityContext"));
    for (at, context) in std::iter::once(pod).chain(contexts(path, spec)) {
        if has(context, "windowsOptions") {
            let detail = "windows options cannot be set for a linux pod";
            errors.push(forbidden(&at.child("windowsOptions"), detail));
        }
    }
}

fn windows(errors: &mut ErrorList, path: &Path, spec: &Value) {
    /// Members of the pod, and whether they stand in its security context.
    const POD: &[(&str, bool)] = &[
        ("appArmorProfile", true),
        ("seLinuxOptions", true),
        ("hostUsers", false),
        ("hostPID", false),
        ("hostIPC", false),
        ("seccompProfile", true),
        ("fsGroup", true),
        ("fsGroupChangePolicy", true),
        ("sysctls", true),
        ("shareProcessNamespace", false),
        ("runAsUser", true),
        ("runAsGroup", true),
        ("supplementalGroups", true),
        ("supplementalGroupsPolicy", true),
        ("seLinuxChangePolicy", true),
    ];
    const CONTAINER: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    const REFUSED: &str = "cannot be set for a windows pod";
    for (key, in_context) in POD {
        let (owner, at) = if *in_context {
            (get(spec, "securityContext"), path.child("securityContext"))
        } else {
            (spec, path.clone())
        };
        let plain = ["hostPID", "hostIPC"].contains(key);
        if (plain && flag(owner, key)) || (!plain && has(owner, key) && !list_is_empty(owner, key)) {
            errors.push(forbidden(&at.child(key), REFUSED));
        }
    }
    for (at, context) in contexts(path, spec) {
        for key in CONTAINER.iter().filter(|key| has(context, key)) {
            errors.push(forbidden(&at.child(key), REFUSED));
        }
    }
}

fn list_is_empty(owner: &Value, key: &str) -> bool {
    get(owner, key).is_array() && is_empty(get(owner, key))
}

/// All containers are host processes, or none.
pub fn host_process(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let wish = |context: &Value| get(get(context, "windowsOptions"), "hostProcess").as_bool();
    let of_pod = wish(get(spec, "securityContext"));
    let (mut all, mut hosts) = (0, 0);
    for (at, context) in contexts(path, spec) {
        all += 1;
        let own = wish(context);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(invalid(&at.child("windowsOptions").child("hostProcess"), own, detail));
        }
        hosts += u32::from(own.or(of_pod) == Some(true));
    }
    if hosts == 0 {
        return;
    }
    if hosts != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(invalid(path, "", detail));
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(invalid(&path.child("hostNetwork"), false, detail));
    }
}

/// `windowsOptions` of a pod or a container.
pub fn options(errors: &mut ErrorList, path: &Path, options: &Value) {
    const SPEC_KIB_MAX: usize = 64;
    if has(options, "gmsaCredentialSpecName") {
        let at = path.child("gmsaCredentialSpecName");
        check::dns_subdomain(errors, &at, str_of(options, "gmsaCredentialSpecName"));
    }
    if has(options, "gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        let spec = str_of(options, "gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > SPEC_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {SPEC_KIB_MAX} KiB");
            errors.push(invalid(&at, spec, detail));
        }
    }
    if has(options, "runAsUserName") {
        let name = str_of(options, "runAsUserName");
        for detail in user_name(name) {
            errors.push(invalid(
                &path.child("runAsUserName"),
                name,
                format!("runAsUserName{detail}"),
            ));
        }
    }
}

/// What is wrong with a Windows user name, `DOMAIN\user` or `user`.
fn user_name(name: &str) -> Vec<&'static str> {
    const DOMAIN_BYTES_MAX: usize = 256;
    const USER_BYTES_MAX: usize = 104;
    if name.is_empty() {
        return vec![" cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters"];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec![" cannot contain more than one backslash"],
    };
    let mut out = Vec::new();
    if domain.is_some_and(|d| d.len() >= DOMAIN_BYTES_MAX) {
        out.push("'s Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !is_domain(d)) {
        out.push("'s Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        out.push("'s User cannot be empty");
    } else if user.len() > USER_BYTES_MAX {
        out.push("'s User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        out.push("'s User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        out.push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    out
}

fn is_domain(domain: &str) -> bool {
    let net_bios = (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.chars().any(|c| "\\/:*?\"<>|".contains(c));
    net_bios
        || domain
            .split('.')
            .all(|label| names::dns1123_label(&label.to_ascii_lowercase()).is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn user_names() {
        for (name, expected) in [
            ("ContainerUser", &[] as &[&str]),
            ("example.com\\user", &[]),
            ("", &[" cannot be an empty string"]),
            ("a\\b\\c", &[" cannot contain more than one backslash"]),
            (
                ".\\",
                &[
                    "'s Domain doesn't match the NetBios nor the DNS format",
                    "'s User cannot be empty",
                ],
            ),
            ("..", &["'s User cannot contain only periods or spaces"]),
            (
                "a@b",
                &["'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"],
            ),
        ] {
            assert_eq!(super::user_name(name), expected, "{name}");
        }
    }
}
