//! ResourceQuota: what a namespace may hold. The use is charged in the same transaction as the
//! object, under the revision of the quota: two creations can never both take the last place.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use coxswain_api::kinds::access;
use coxswain_api::{ApiError, Quantity};
use coxswain_store::{Op, Precondition};
use serde_json::{Map, Value};

use super::{Write, limit_ranger};
use crate::call::draft;

const QUOTAS: &str = "resourcequotas";
/// Resources for which pods must state requests or limits when a quota bounds them.
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// Checks a new object against the quotas of its namespace and returns the charges.
///
/// # Errors
/// 403 when a quota would be exceeded.
pub(super) fn charge(write: &Write<'_>, object: &Value) -> Result<Vec<Op>, ApiError> {
    let call = write.call;
    if !call.row.namespaced || &*call.row.plural == QUOTAS {
        return Ok(Vec::new());
    }
    let Some(row) = call.registry.resource("", "v1", QUOTAS) else {
        return Ok(Vec::new());
    };
    let usage = usage(write, object);
    let mut ops = Vec::new();
    for stored in write.snapshot.list(QUOTAS, Some(call.namespace()), None) {
        let quota = stored.value();
        let hard = access::at(&quota, "/status/hard");
        let used = access::at(&quota, "/status/used");
        if !in_scope(&quota, write, object) {
            continue;
        }
        let relevant: BTreeMap<&String, &Quantity> = usage
            .iter()
            .filter(|(name, _)| hard.get(name.as_str()).is_some())
            .collect();
        require(write, &quota, hard, object)?;
        if relevant.is_empty() {
            continue;
        }
        let mut exceeded = Vec::new();
        let mut fresh = used.as_object().cloned().unwrap_or_default();
        for (name, amount) in relevant {
            let (Some(limit), Some(before)) = (parse(hard.get(name.as_str())), parse(used.get(name.as_str()))) else {
                continue;
            };
            let after = before.add(amount);
            if after.cmp(&limit) == Ordering::Greater && !amount.is_zero() {
                exceeded.push((name.clone(), amount.canonical(), before.canonical(), limit.canonical()));
            }
            fresh.insert(name.clone(), after.canonical().into());
        }
        if !exceeded.is_empty() {
            let join = |part: fn(&(String, String, String, String)) -> &String| {
                exceeded
                    .iter()
                    .map(|item| format!("{}={}", item.0, part(item)))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            let why = format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                access::name(&quota),
                join(|item| &item.1),
                join(|item| &item.2),
                join(|item| &item.3)
            );
            return Err(call.forbidden(access::name(object), why));
        }
        if Value::Object(fresh.clone()) != *used {
            let mut charged = (*quota).clone();
            access::set(access::child(&mut charged, "status"), "used", fresh);
            ops.push(Op::Put {
                draft: draft(row, &charged),
                when: Precondition::Revision(stored.revision),
            });
        }
    }
    Ok(ops)
}

fn parse(value: Option<&Value>) -> Option<Quantity> {
    match value? {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => number.as_i64().map(Quantity::from_int),
        _ => None,
    }
}

/// What an object uses, by quota resource name.
fn usage(write: &Write<'_>, object: &Value) -> BTreeMap<String, Quantity> {
    let row = &write.call.row;
    let mut out = BTreeMap::new();
    let mut add = |name: String, amount: Quantity| {
        out.insert(name, amount);
    };
    add(format!("count/{}", row.qualified()), Quantity::from_int(1));
    let counted = [
        "pods",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
    ];
    if row.group.is_empty() && counted.contains(&&*row.plural) {
        add(row.plural.to_string(), Quantity::from_int(1));
    }
    if write.is("", "pods") {
        let resources = limit_ranger::pod_resources(object);
        for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
            for (name, value) in access::entries(&resources, field) {
                if let Some(amount) = parse(Some(value)) {
                    if prefix == "requests." && (name == "cpu" || name == "memory" || name == "ephemeral-storage") {
                        add(name.clone(), amount);
                    }
                    add(format!("{prefix}{name}"), amount);
                }
            }
        }
    }
    if write.is("", "services") {
        let kind = access::text(object, "/spec/type");
        let ports = i64::try_from(access::list_at(object, "/spec/ports").len()).unwrap_or(0);
        let balanced = kind == "LoadBalancer";
        add(
            "services.loadbalancers".to_owned(),
            Quantity::from_int(i64::from(balanced)),
        );
        let node_ports = if kind == "NodePort" || balanced { ports } else { 0 };
        add("services.nodeports".to_owned(), Quantity::from_int(node_ports));
    }
    if write.is("", "persistentvolumeclaims") {
        let size = parse(object.pointer("/spec/resources/requests/storage")).unwrap_or_else(|| Quantity::from_int(0));
        let class = access::text(object, "/spec/storageClassName");
        if !class.is_empty() {
            let prefix = format!("{class}.storageclass.storage.k8s.io");
            add(format!("{prefix}/requests.storage"), size);
            add(format!("{prefix}/persistentvolumeclaims"), Quantity::from_int(1));
        }
        add("requests.storage".to_owned(), size);
    }
    out
}

/// Pods must state what a compute quota bounds.
fn require(write: &Write<'_>, quota: &Value, hard: &Value, pod: &Value) -> Result<(), ApiError> {
    if !write.is("", "pods") {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in COMPUTE.iter().filter(|name| hard.get(**name).is_some()) {
        let (field, resource) = match name.split_once('.') {
            Some(("limits", resource)) => ("limits", resource),
            Some((_, resource)) => ("requests", resource),
            None => ("requests", *name),
        };
        for list in ["containers", "initContainers"] {
            for container in access::list(access::get(pod, "spec"), list) {
                let stated = access::get(access::get(container, "resources"), field);
                if !access::has(stated, resource) {
                    missing.entry(name).or_default().push(access::str_of(container, "name"));
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.join(",")))
        .collect();
    let why = format!(
        "failed quota: {}: must specify {}",
        access::name(quota),
        parts.join("; ")
    );
    Err(write.call.forbidden(access::name(pod), why))
}

/// Whether a quota's scopes choose the object.
fn in_scope(quota: &Value, write: &Write<'_>, object: &Value) -> bool {
    let spec = access::get(quota, "spec");
    let selector = access::list_at(quota, "/spec/scopeSelector/matchExpressions");
    if access::list(spec, "scopes").is_empty() && selector.is_empty() {
        return true;
    }
    if !write.is("", "pods") {
        return false;
    }
    let terminating = access::int(object, "/spec/activeDeadlineSeconds").is_some();
    let best_effort = limit_ranger::pod_resources(object)
        .as_object()
        .is_none_or(Map::is_empty);
    let class = access::text(object, "/spec/priorityClassName");
    let matches = |scope: &str, operator: &str, values: &[Value]| match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let listed = values.iter().any(|value| value.as_str() == Some(class));
            match operator {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    };
    access::list(spec, "scopes")
        .iter()
        .filter_map(Value::as_str)
        .all(|scope| matches(scope, "Exists", &[]))
        && selector.iter().all(|expression| {
            let (scope, operator) = (
                access::str_of(expression, "scopeName"),
                access::str_of(expression, "operator"),
            );
            matches(scope, operator, access::list(expression, "values"))
        })
}
