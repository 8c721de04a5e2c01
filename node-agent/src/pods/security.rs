//! The rights of containers: what the runtime is told about users, capabilities, profiles, and what of the kernel's own
//! file systems is hidden. Pure.
//!
//! A field that this node cannot honour is never passed over in silence: the pod is refused, as on every Kubernetes node.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile, SecurityContext};

use super::fields::NodeFacts;
use crate::cri::v1::{self, SecurityProfile, security_profile::ProfileType};
use crate::runtime::ImageFacts;

/// Hidden from containers, beside [`NodeFacts::thermal_throttle`]. The runtime hides nothing by itself.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Where a profile of type Localhost is looked for.
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";

/// Why no sandbox can be made for a pod on this node: the end of "Failed to create pod sandbox: ".
pub fn check_sandbox(pod: &Pod) -> Result<(), String> {
    if pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false) {
        return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into());
    }
    Ok(())
}

/// Reason and message when the node cannot give a pod what it asks for its own protection.
pub fn refusal(pod: &Pod, node: &NodeFacts) -> Option<(&'static str, String)> {
    let spec = pod.spec.as_ref()?;
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(("PodOSNotSupported", message.into()));
    }
    let context = spec.security_context.as_ref();
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Some(("SupplementalGroupsPolicyNotSupported", message.into()));
    }
    let of_pod = context.and_then(|context| context.app_armor_profile.as_ref());
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let confined = |container: &Container| {
        let own = container.security_context.as_ref();
        let profile = own.and_then(|own| own.app_armor_profile.as_ref()).or(of_pod);
        profile.is_some_and(|profile| profile.type_ != "Unconfined")
    };
    if !node.app_armor && all.into_iter().any(confined) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Some(("AppArmor", message.into()));
    }
    None
}

/// What the runtime is told of a container's rights, or the sentence for `CreateContainerConfigError`.
pub fn context(
    pod: &Pod,
    container: &Container,
    image: &ImageFacts,
    node: &NodeFacts,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.clone())
        .unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        check_non_root(pod, container, user, image)?;
    }
    let (run_as_user, run_as_username) = match user {
        Some(value) => (Some(v1::Int64Value { value }), String::new()),
        None => match image.uid {
            Some(value) => (Some(v1::Int64Value { value }), String::new()),
            None if !image.username.is_empty() => (None, image.username.clone()),
            None => (Some(v1::Int64Value { value: 0 }), String::new()),
        },
    };
    let mut supplemental_groups = of_pod.supplemental_groups.clone().unwrap_or_default();
    supplemental_groups.extend(of_pod.fs_group);
    let caps = own.capabilities.clone().unwrap_or_default();
    let (masked, read_only) = hidden(pod, &own, node);
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: caps.add.unwrap_or_default(),
            drop_capabilities: caps.drop.unwrap_or_default(),
        }),
        privileged,
        run_as_user,
        run_as_username,
        run_as_group: own
            .run_as_group
            .or(of_pod.run_as_group)
            .map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: masked,
        readonly_paths: read_only,
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()),
            privileged,
        )?),
        apparmor: app_armor(own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref())),
        ..v1::LinuxContainerSecurityContext::default()
    })
}

/// Which paths are hidden from a container, and which it may only read. Privileged containers see all; unmasked ones do
/// only with users of their own.
fn hidden(pod: &Pod, own: &SecurityContext, node: &NodeFacts) -> (Vec<String>, Vec<String>) {
    let own_users = pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") && own_users;
    if unmasked || own.privileged.unwrap_or(false) {
        return (Vec::new(), Vec::new());
    }
    let masked = MASKED.iter().map(|path| (*path).to_owned());
    let masked = masked.chain(node.thermal_throttle.iter().cloned()).collect();
    (masked, READ_ONLY.iter().map(|path| (*path).to_owned()).collect())
}

fn check_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &ImageFacts) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let place = format!(
        "(pod: \"{name}_{namespace}({})\", container: {})",
        pod.metadata.uid.as_deref().unwrap_or_default(),
        container.name
    );
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_)) => Ok(()),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool) -> Result<SecurityProfile, String> {
    let of_type = |profile_type: ProfileType| SecurityProfile {
        profile_type: profile_type as i32,
        localhost_ref: String::new(),
    };
    let Some(profile) = profile else {
        return Ok(of_type(ProfileType::Unconfined));
    };
    match profile.type_.as_str() {
        "RuntimeDefault" if privileged => Ok(of_type(ProfileType::Unconfined)),
        "RuntimeDefault" => Ok(of_type(ProfileType::RuntimeDefault)),
        "Unconfined" => Ok(of_type(ProfileType::Unconfined)),
        "Localhost" => {
            let file = profile.localhost_profile.as_deref().unwrap_or_default();
            if file.is_empty() {
                return Err("localhostProfile must be set if seccompProfile type is Localhost".into());
            }
            let inside = Path::new(file)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(format!(
                    "localhostProfile {file:?} must be a relative path below {SECCOMP_ROOT}, without '..'"
                ));
            }
            Ok(SecurityProfile {
                profile_type: ProfileType::Localhost as i32,
                localhost_ref: Path::new(SECCOMP_ROOT).join(file).display().to_string(),
            })
        }
        other => Err(format!("seccompProfile type {other:?} is not supported by this node")),
    }
}

/// `None` leaves the choice to the runtime, which confines where the kernel can.
fn app_armor(profile: Option<&AppArmorProfile>) -> Option<SecurityProfile> {
    let profile = profile?;
    let (profile_type, name) = match profile.type_.as_str() {
        "Localhost" => (
            ProfileType::Localhost,
            profile.localhost_profile.clone().unwrap_or_default(),
        ),
        "Unconfined" => (ProfileType::Unconfined, String::new()),
        _ => (ProfileType::RuntimeDefault, String::new()),
    };
    Some(SecurityProfile {
        profile_type: profile_type as i32,
        localhost_ref: name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, of_container: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "securityContext": of_container}]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("pod")
    }

    fn told(pod: &Pod) -> Result<v1::LinuxContainerSecurityContext, String> {
        let node = NodeFacts {
            thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
            ..NodeFacts::default()
        };
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        context(pod, container, &ImageFacts::default(), &node)
    }

    #[test]
    fn the_kernels_file_systems_are_hidden_unless_the_container_is_privileged() {
        let table = [
            (json!({}), json!({}), true),
            (json!({}), json!({"procMount": "Default"}), true),
            // Without users of its own, root in the container is root on the node.
            (json!({}), json!({"procMount": "Unmasked"}), true),
            (json!({"hostUsers": true}), json!({"procMount": "Unmasked"}), true),
            (json!({"hostUsers": false}), json!({"procMount": "Unmasked"}), false),
            (json!({"hostUsers": false}), json!({}), true),
            (json!({}), json!({"privileged": true}), false),
            (
                json!({}),
                json!({"privileged": false, "capabilities": {"add": ["SYS_ADMIN"]}}),
                true,
            ),
        ];
        for (spec, own, hides) in table {
            let told = told(&pod(spec.clone(), own.clone())).expect("a context");
            let counts = (told.masked_paths.len(), told.readonly_paths.len());
            let expected = if hides {
                (MASKED.len() + 1, READ_ONLY.len())
            } else {
                (0, 0)
            };
            assert_eq!(counts, expected, "{spec} {own}");
        }
    }

    #[test]
    fn profiles_are_passed_on_or_refused() {
        let table = [
            (json!({}), json!({}), Ok((ProfileType::Unconfined, ""))),
            (
                json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
                json!({}),
                Ok((ProfileType::RuntimeDefault, "")),
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
                json!({"seccompProfile": {"type": "Unconfined"}}),
                Ok((ProfileType::Unconfined, "")),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}),
                Ok((ProfileType::Localhost, "/var/lib/kubelet/seccomp/a/b.json")),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}),
                Err("without '..'"),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/etc/x"}}),
                Err("relative path"),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost"}}),
                Err("must be set"),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Other"}}),
                Err("not supported"),
            ),
        ];
        for (spec, own, expected) in table {
            let found = told(&pod(spec, own.clone())).map(|told| told.seccomp.unwrap_or_default());
            match (found, expected) {
                (Ok(found), Ok((kind, file))) => {
                    assert_eq!(
                        (found.profile_type, found.localhost_ref.as_str()),
                        (kind as i32, file),
                        "{own}"
                    );
                }
                (Err(found), Err(words)) => assert!(found.contains(words), "{own}: {found}"),
                (found, expected) => panic!("{own}: {found:?} instead of {expected:?}"),
            }
        }
        let confined = pod(
            json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}}}),
            json!({}),
        );
        let found = told(&confined).expect("a context").apparmor.expect("a profile");
        assert_eq!(
            (found.profile_type, found.localhost_ref.as_str()),
            (ProfileType::Localhost as i32, "p")
        );
        assert_eq!(told(&pod(json!({}), json!({}))).expect("a context").apparmor, None);
    }

    /// Each field that asks for protection which the node does not have, with the reason of the refusal.
    #[test]
    fn what_cannot_be_enforced_is_refused() {
        let profile = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        let unconfined = json!({"appArmorProfile": {"type": "Unconfined"}});
        let table = [
            (json!({}), json!({}), None),
            (json!({"os": {"name": "windows"}}), json!({}), Some("PodOSNotSupported")),
            (json!({"os": {"name": "linux"}}), json!({}), None),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
                json!({}),
                Some("SupplementalGroupsPolicyNotSupported"),
            ),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}),
                json!({}),
                None,
            ),
            (json!({"securityContext": profile}), json!({}), Some("AppArmor")),
            (json!({"securityContext": profile}), unconfined.clone(), None),
            (
                json!({"securityContext": unconfined}),
                profile.clone(),
                Some("AppArmor"),
            ),
        ];
        for (spec, own, expected) in table {
            let found = refusal(&pod(spec.clone(), own.clone()), &NodeFacts::default());
            assert_eq!(found.map(|(reason, _)| reason), expected, "{spec} {own}");
            let able = NodeFacts {
                app_armor: true,
                ..NodeFacts::default()
            };
            let found = refusal(&pod(spec.clone(), own.clone()), &able);
            assert_eq!(
                found.map(|(reason, _)| reason),
                expected.filter(|reason| *reason != "AppArmor"),
                "{spec} {own}"
            );
        }
        assert!(check_sandbox(&pod(json!({"hostUsers": false}), json!({}))).is_err());
        assert!(check_sandbox(&pod(json!({"hostUsers": true}), json!({}))).is_ok());
    }

    #[test]
    fn privileges_are_those_that_were_asked_for() {
        let plain = told(&pod(json!({}), json!({}))).expect("a context");
        assert!(!plain.privileged && !plain.no_new_privs && !plain.readonly_rootfs);
        let tight = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsUser": 7, "runAsGroup": 8,
            "capabilities": {"drop": ["ALL"]}});
        let spec = json!({"securityContext": {"supplementalGroups": [1, 2], "fsGroup": 3}});
        let tight = told(&pod(spec, tight)).expect("a context");
        assert!(tight.no_new_privs && tight.readonly_rootfs);
        assert_eq!(tight.supplemental_groups, [1, 2, 3]);
        assert_eq!(tight.run_as_user.map(|user| user.value), Some(7));
        assert_eq!(tight.run_as_group.map(|group| group.value), Some(8));
        assert_eq!(
            tight.capabilities.map(|capabilities| capabilities.drop_capabilities),
            Some(vec!["ALL".to_owned()])
        );
    }

    #[test]
    fn non_root_is_checked() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}}))
        .expect("pod");
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let image = |uid, username: &str| ImageFacts {
            uid,
            username: username.into(),
            ..ImageFacts::default()
        };
        assert!(context(&pod, container, &image(Some(0), ""), &NodeFacts::default()).is_err());
        assert!(context(&pod, container, &image(None, "web"), &NodeFacts::default()).is_err());
        assert!(context(&pod, container, &image(Some(7), ""), &NodeFacts::default()).is_ok());
    }
}
