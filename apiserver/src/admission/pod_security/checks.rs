//! The checks of the Pod Security Standards, in Kubernetes' words.
//!
//! A check belongs to a level and holds from a minor version on. Pods are told about checks in the order of the
//! checks' names, which is the order of [`CHECKS`].

use coxswain_api::kinds::access::{self, at, flag, get, list, str_of, text};
use serde_json::Value;
use std::collections::BTreeSet;

use super::Level;

/// What is wrong with a pod: a few words, and who does what.
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

/// A pod as the checks see it.
struct Subject<'a> {
    spec: &'a Value,
    annotations: &'a Value,
    /// Minor version of the standard.
    minor: u32,
}

type Check = fn(&Subject<'_>) -> Option<Violation>;

/// Name, first level it counts at, last level it counts at, first minor version, check.
const CHECKS: &[(&str, Level, Level, u32, Check)] = {
    use Level::{Baseline, Restricted};
    &[
        ("allowPrivilegeEscalation", Restricted, Restricted, 8, escalation),
        ("appArmorProfile", Baseline, Restricted, 0, app_armor),
        ("capabilities_baseline", Baseline, Baseline, 0, baseline_capabilities),
        (
            "capabilities_restricted",
            Restricted,
            Restricted,
            22,
            restricted_capabilities,
        ),
        ("hostNamespaces", Baseline, Restricted, 0, host_namespaces),
        ("hostPathVolumes", Baseline, Restricted, 0, host_paths),
        ("hostPorts", Baseline, Restricted, 0, host_ports),
        ("hostProbesAndHostLifecycle", Baseline, Restricted, 34, probe_hosts),
        ("privileged", Baseline, Restricted, 0, privileged),
        ("procMount", Baseline, Restricted, 0, proc_mount),
        ("restrictedVolumes", Restricted, Restricted, 0, restricted_volumes),
        ("runAsNonRoot", Restricted, Restricted, 0, run_as_non_root),
        ("runAsUser", Restricted, Restricted, 23, run_as_user),
        ("seLinuxOptions", Baseline, Restricted, 0, se_linux),
        ("seccompProfile_baseline", Baseline, Baseline, 19, baseline_seccomp),
        (
            "seccompProfile_restricted",
            Restricted,
            Restricted,
            19,
            restricted_seccomp,
        ),
        ("sysctls", Baseline, Restricted, 0, sysctls),
        ("windowsHostProcess", Baseline, Restricted, 0, host_process),
    ]
};

/// What a pod does that a level of a version does not allow.
pub(super) fn violations(spec: &Value, annotations: &Value, level: Level, minor: u32) -> Vec<Violation> {
    let subject = Subject {
        spec,
        annotations,
        minor,
    };
    CHECKS
        .iter()
        .filter(|(_, first, last, since, _)| (*first..=*last).contains(&level) && minor >= *since)
        .filter_map(|(_, _, _, _, check)| check(&subject))
        .collect()
}

impl<'a> Subject<'a> {
    /// Every container, init containers first.
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |field| list(spec, field))
    }

    /// Names of the containers that something is true of.
    fn named(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|c| bad(c))
            .map(|c| str_of(c, "name"))
            .collect()
    }

    fn context(&self) -> &'a Value {
        get(self.spec, "securityContext")
    }

    /// Whether checks from a version on leave Windows pods alone, and this is one.
    fn spared_as_windows(&self) -> bool {
        self.minor >= 25 && text(self.spec, "/os/name") == "windows"
    }

    /// Whether root inside is nobody outside, and the version knows of that.
    fn spared_as_own_users(&self) -> bool {
        self.minor >= 35 && get(self.spec, "hostUsers").as_bool() == Some(false)
    }
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation {
        reason: reason.to_owned(),
        detail,
    })
}

fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    names.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`
fn containers_text(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// The pod and containers that set something bad, as `pod and container "a"`. `None` when nobody does.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let mut who = Vec::new();
    if pod {
        who.push("pod".to_owned());
    }
    if !containers.is_empty() {
        who.push(containers_text(containers));
    }
    (!who.is_empty()).then(|| who.join(" and "))
}

fn own<'a>(container: &'a Value, pointer: &str) -> &'a Value {
    at(get(container, "securityContext"), pointer)
}

fn escalation(pod: &Subject<'_>) -> Option<Violation> {
    let bad = pod.named(|c| own(c, "/allowPrivilegeEscalation") != &Value::Bool(false));
    if bad.is_empty() || pod.spared_as_windows() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        containers_text(&bad)
    );
    violation("allowPrivilegeEscalation != false", detail)
}

fn app_armor(pod: &Subject<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let kind = |context: &Value| text(context, "/appArmorProfile/type").to_owned();
    let bad = |kind: &str| !["", "RuntimeDefault", "Localhost"].contains(&kind);
    let of_pod = kind(pod.context());
    let named = pod.named(|c| bad(&kind(get(c, "securityContext"))));
    let mut values: BTreeSet<String> = pod.containers().map(|c| kind(get(c, "securityContext"))).collect();
    values.insert(of_pod.clone());
    let mut shown: Vec<String> = values.iter().filter(|v| bad(v)).map(|v| format!("{v:?}")).collect();
    let notes: Vec<String> = pod
        .annotations
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !["", "runtime/default"].contains(value) && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let mut who: Vec<String> = setters(bad(&of_pod), &named).into_iter().collect();
    if !notes.is_empty() {
        who.push(plural("annotation", "annotations", notes.len()).to_owned());
        shown.extend(notes);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", shown.len());
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        who.join(" and "),
        shown.join(", ")
    );
    violation(reason, detail)
}

/// Containers that add capabilities which are not allowed, and those capabilities.
fn added<'a>(pod: &Subject<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let of = |c: &Value| -> BTreeSet<String> {
        let names = access::list_at(get(c, "securityContext"), "/capabilities/add");
        let forbidden = names.iter().filter_map(Value::as_str).filter(|n| !allowed.contains(n));
        forbidden.map(str::to_owned).collect()
    };
    let bad = pod.named(|c| !of(c).is_empty());
    (bad, pod.containers().flat_map(of).collect())
}

fn baseline_capabilities(pod: &Subject<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (bad, names) = added(pod, ALLOWED);
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers_text(&bad),
        quoted(names)
    );
    violation("non-default capabilities", detail)
}

fn restricted_capabilities(pod: &Subject<'_>) -> Option<Violation> {
    if pod.spared_as_windows() {
        return None;
    }
    let drops_all = |c: &Value| {
        own(c, "/capabilities/drop")
            .as_array()
            .is_some_and(|d| d.iter().any(|n| n == "ALL"))
    };
    let keeps = pod.named(|c| !drops_all(c));
    let (bad, names) = added(pod, &["NET_BIND_SERVICE"]);
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        let who = containers_text(&keeps);
        parts.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !bad.is_empty() {
        parts.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers_text(&bad),
            quoted(names)
        ));
    }
    if parts.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", parts.join("; "))
}

fn host_namespaces(pod: &Subject<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| flag(pod.spec, field))
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() {
        return None;
    }
    violation("host namespaces", used.join(", "))
}

fn volumes_text(names: &[&str]) -> String {
    format!("{} {}", plural("volume", "volumes", names.len()), quoted(names))
}

fn host_paths(pod: &Subject<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, "volumes").iter().filter(|v| access::has(v, "hostPath"));
    let names: Vec<&str> = volumes.map(|v| str_of(v, "name")).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", volumes_text(&names))
}

fn host_ports(pod: &Subject<'_>) -> Option<Violation> {
    let of = |c: &Value| -> BTreeSet<String> {
        let ports = list(c, "ports")
            .iter()
            .filter_map(|port| access::int_of(port, "hostPort"));
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = pod.named(|c| !of(c).is_empty());
    if bad.is_empty() {
        return None;
    }
    let ports: BTreeSet<String> = pod.containers().flat_map(of).collect();
    let detail = format!(
        "{} {} {} {}",
        containers_text(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn probe_hosts(pod: &Subject<'_>) -> Option<Violation> {
    const HANDLERS: &[&str] = &[
        "/livenessProbe",
        "/readinessProbe",
        "/startupProbe",
        "/lifecycle/postStart",
        "/lifecycle/preStop",
    ];
    let of = |c: &Value| -> BTreeSet<String> {
        let handlers = HANDLERS.iter().map(|pointer| at(c, pointer));
        let hosts = handlers.flat_map(|h| ["/httpGet/host", "/tcpSocket/host"].map(|p| text(h, p).to_owned()));
        hosts.filter(|host| !host.is_empty()).collect()
    };
    let bad: BTreeSet<&str> = pod.named(|c| !of(c).is_empty()).into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let hosts: BTreeSet<String> = pod.containers().flat_map(of).collect();
    let names: Vec<&str> = bad.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        containers_text(&names),
        plural("uses", "use", names.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Subject<'_>) -> Option<Violation> {
    let bad = pod.named(|c| own(c, "/privileged") == &Value::Bool(true));
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", containers_text(&bad));
    violation("privileged", detail)
}

fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    if pod.spared_as_own_users() {
        return None;
    }
    let kind = |c: &Value| own(c, "/procMount").as_str().unwrap_or("").to_owned();
    let bad = |kind: &str| !["", "Default"].contains(&kind);
    let named = pod.named(|c| bad(&kind(c)));
    if named.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = pod.containers().map(kind).filter(|k| bad(k)).collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers_text(&named),
        quoted(kinds)
    );
    violation("procMount", detail)
}

fn restricted_volumes(pod: &Subject<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let kinds = |v: &Value| -> Vec<String> {
        let members = v.as_object().into_iter().flatten();
        members
            .filter(|(key, v)| *key != "name" && v.is_object())
            .map(|(key, _)| key.clone())
            .collect()
    };
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "volumes") {
        let kinds = kinds(volume);
        if !kinds.iter().any(|kind| ALLOWED.contains(&kind.as_str())) {
            names.push(str_of(volume, "name"));
            types.insert(kinds.into_iter().next().unwrap_or_else(|| "unknown".to_owned()));
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        volumes_text(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(types)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.spared_as_own_users() {
        return None;
    }
    let of_pod = get(pod.context(), "runAsNonRoot").as_bool();
    let of = |c: &Value| own(c, "/runAsNonRoot").as_bool();
    let explicit = pod.named(|c| of(c) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.named(|c| of(c).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    let who = containers_text(&silent);
    violation(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

fn run_as_user(pod: &Subject<'_>) -> Option<Violation> {
    if pod.spared_as_own_users() {
        return None;
    }
    let zero = |context: &Value| access::int_of(context, "runAsUser") == Some(0);
    let bad = pod.named(|c| zero(get(c, "securityContext")));
    let who = setters(zero(pod.context()), &bad)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn se_linux(pod: &Subject<'_>) -> Option<Violation> {
    let engine = pod.minor >= 31;
    let allowed = |kind: &str| {
        ["", "container_t", "container_init_t", "container_kvm_t"].contains(&kind)
            || (engine && kind == "container_engine_t")
    };
    let options = |context: &Value| get(context, "seLinuxOptions").clone();
    let bad = |context: &Value| {
        let options = options(context);
        !allowed(str_of(&options, "type"))
            || !str_of(&options, "user").is_empty()
            || !str_of(&options, "role").is_empty()
    };
    let named = pod.named(|c| bad(get(c, "securityContext")));
    let who = setters(bad(pod.context()), &named)?;
    let all: Vec<Value> = std::iter::once(pod.context())
        .chain(pod.containers().map(|c| get(c, "securityContext")))
        .map(options)
        .collect();
    let types: BTreeSet<&str> = all.iter().map(|o| str_of(o, "type")).filter(|t| !allowed(t)).collect();
    let mut parts = Vec::new();
    if !types.is_empty() {
        parts.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for key in ["user", "role"] {
        if all.iter().any(|o| !str_of(o, key).is_empty()) {
            parts.push(format!("{key} may not be set"));
        }
    }
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        parts.join("; ")
    );
    violation("seLinuxOptions", detail)
}

/// Those who ask for a seccomp profile that is not allowed, and what they ask for.
fn bad_seccomp(pod: &Subject<'_>, bad: fn(&str) -> bool) -> Option<Violation> {
    let kind = |context: &Value| text(context, "/seccompProfile/type").to_owned();
    let named = pod.named(|c| bad(&kind(get(c, "securityContext"))));
    let who = setters(bad(&kind(pod.context())), &named)?;
    let contexts = pod.containers().map(|c| get(c, "securityContext"));
    let kinds: BTreeSet<String> = std::iter::once(pod.context())
        .chain(contexts)
        .map(kind)
        .filter(|k| bad(k))
        .collect();
    let detail = format!(
        "{who} must not set securityContext.seccompProfile.type to {}",
        quoted(kinds)
    );
    violation("seccompProfile", detail)
}

fn baseline_seccomp(pod: &Subject<'_>) -> Option<Violation> {
    bad_seccomp(pod, |kind| !["", "RuntimeDefault", "Localhost"].contains(&kind))
}

fn restricted_seccomp(pod: &Subject<'_>) -> Option<Violation> {
    if pod.spared_as_windows() {
        return None;
    }
    if let Some(explicit) = bad_seccomp(pod, |kind| !["", "RuntimeDefault", "Localhost"].contains(&kind)) {
        return Some(explicit);
    }
    let set = |context: &Value| !text(context, "/seccompProfile/type").is_empty();
    let silent = pod.named(|c| !set(get(c, "securityContext")) && !set(pod.context()));
    if silent.is_empty() {
        return None;
    }
    let who = containers_text(&silent);
    let kinds = "\"RuntimeDefault\" or \"Localhost\"";
    let detail = format!("pod or {who} must set securityContext.seccompProfile.type to {kinds}");
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Subject<'_>) -> Option<Violation> {
    /// What may be set, and since which version.
    const SAFE: &[(&str, u32)] = &[
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let safe = |name: &str| SAFE.iter().any(|(known, since)| *known == name && pod.minor >= *since);
    let bad: Vec<&str> = list(pod.context(), "sysctls")
        .iter()
        .map(|sysctl| str_of(sysctl, "name"))
        .filter(|name| !safe(name))
        .collect();
    if bad.is_empty() {
        return None;
    }
    violation("forbidden sysctls", bad.join(", "))
}

fn host_process(pod: &Subject<'_>) -> Option<Violation> {
    let set = |context: &Value| at(context, "/windowsOptions/hostProcess") == &Value::Bool(true);
    let bad = pod.named(|c| set(get(c, "securityContext")));
    let who = setters(set(pod.context()), &bad)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LATEST: u32 = u32::MAX;

    fn said(spec: Value, level: Level, minor: u32) -> Vec<String> {
        violations(&spec, &json!({}), level, minor)
            .into_iter()
            .map(|v| format!("{} ({})", v.reason, v.detail))
            .collect()
    }

    #[test]
    fn words_and_order() {
        let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let hostile = json!({
            "hostPID": true, "hostNetwork": true,
            "securityContext": {"runAsUser": 0, "seLinuxOptions": {"type": "spc_t", "user": "u"}, "windowsOptions": {"hostProcess": true},
                "sysctls": [{"name": "kernel.msgmax"}], "appArmorProfile": {"type": "Unconfined"}},
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}], "livenessProbe": {"httpGet": {"host": "h"}},
                "securityContext": {"privileged": true, "procMount": "Unmasked", "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]},
                    "seccompProfile": {"type": "Unconfined"}}}],
        });
        let cases: [(Value, Level, u32, &[&str]); 6] = [
            (plain.clone(), Level::Privileged, LATEST, &[]),
            (plain.clone(), Level::Baseline, LATEST, &[]),
            (
                plain,
                Level::Restricted,
                LATEST,
                &[
                    "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
                    "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
                    "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
                    "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
                ],
            ),
            (
                hostile,
                Level::Baseline,
                LATEST,
                &[
                    "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
                    "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
                    "host namespaces (hostNetwork=true, hostPID=true)",
                    "hostPath volumes (volume \"v\")",
                    "hostPort (container \"a\" uses hostPorts 443, 80)",
                    "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
                    "privileged (container \"a\" must not set securityContext.privileged=true)",
                    "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
                    "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
                    "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
                    "forbidden sysctls (kernel.msgmax)",
                    "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
                ],
            ),
            (
                json!({"volumes": [{"name": "v", "nfs": {}}, {"name": "w", "hostPath": {}}], "securityContext": {"runAsNonRoot": false, "runAsUser": 0}}),
                Level::Restricted,
                LATEST,
                &[
                    "hostPath volumes (volume \"w\")",
                    "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
                    "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
                    "runAsUser=0 (pod must not set runAsUser=0)",
                ],
            ),
            // An older version knows fewer checks and fewer safe sysctls.
            (
                json!({"containers": [{"name": "a", "startupProbe": {"tcpSocket": {"host": "h"}}}],
                    "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}),
                Level::Baseline,
                31,
                &["forbidden sysctls (net.ipv4.tcp_rmem)"],
            ),
        ];
        for (spec, level, minor, expected) in cases {
            assert_eq!(said(spec.clone(), level, minor), expected, "{spec}");
        }
    }

    #[test]
    fn pods_that_are_spared() {
        let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
        assert_eq!(said(windows, Level::Restricted, LATEST), Vec::<String>::new());
        let own_users =
            json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]});
        assert_eq!(said(own_users.clone(), Level::Baseline, LATEST), Vec::<String>::new());
        assert_eq!(said(own_users, Level::Baseline, 34).len(), 1);
    }
}
