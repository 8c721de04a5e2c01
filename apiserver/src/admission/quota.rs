//! ResourceQuota: what a namespace may hold. The use is charged in the same transaction as the
//! object, under the revision of the quota: two creations can never both take the last place.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use coxswain_api::kinds::access;
use coxswain_api::quota::{in_scope, quantity, usage};
use coxswain_api::{ApiError, Quantity};
use coxswain_store::{Op, Precondition};
use serde_json::Value;

use super::{Operation, Write};
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

/// Checks a new or changed object against the quotas of its namespace and returns the charges.
///
/// # Errors
/// 403 when a quota would be exceeded, or does not say what is used.
pub(super) fn charge(write: &Write<'_>, object: &Value) -> Result<Vec<Op>, ApiError> {
    let call = write.call;
    if !call.row.namespaced {
        return Ok(Vec::new());
    }
    let Some(row) = call.registry.resource("", "v1", QUOTAS) else {
        return Ok(Vec::new());
    };
    if write.snapshot.count(QUOTAS, Some(call.namespace())) == 0 {
        return Ok(Vec::new());
    }
    let usage = added(write, object);
    let mut ops = Vec::new();
    for stored in write.snapshot.list(QUOTAS, Some(call.namespace()), None) {
        let quota = stored.value();
        let hard = access::at(&quota, "/status/hard");
        let used = access::at(&quota, "/status/used");
        if !in_scope(&quota, &call.row.group, &call.row.plural, object) {
            continue;
        }
        let relevant: BTreeMap<&String, &Quantity> = usage
            .iter()
            .filter(|(name, _)| hard.get(name.as_str()).is_some())
            .collect();
        if write.operation == Operation::Create {
            require(write, &quota, hard, object)?;
        }
        let wanted = access::at(&quota, "/spec/hard");
        let uncounted = usage
            .keys()
            .any(|name| wanted.get(name.as_str()).is_some() && hard.get(name.as_str()).is_none());
        if relevant.is_empty() && !uncounted {
            continue;
        }
        if relevant.keys().any(|name| used.get(name.as_str()).is_none()) {
            let names: Vec<&str> = relevant.keys().map(|name| name.as_str()).collect();
            let (quota, names) = (access::name(&quota), names.join(","));
            let why = format!("status unknown for quota: {quota}, resources: {names}");
            return Err(call.forbidden(access::name(object), why));
        }
        let mut exceeded = Vec::new();
        let mut fresh = used.as_object().cloned().unwrap_or_default();
        for (name, amount) in relevant {
            let (Some(limit), Some(before)) = (quantity(hard.get(name.as_str())), quantity(used.get(name.as_str())))
            else {
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
        // Who counts for the first time right now has not seen this object: the new revision makes him count again.
        if uncounted || Value::Object(fresh.clone()) != *used {
            let mut charged = (*quota).clone();
            if !fresh.is_empty() {
                access::set(access::child(&mut charged, "status"), "used", fresh);
            }
            ops.push(Op::Put {
                draft: draft(row, &charged),
                when: Precondition::Revision(stored.revision),
            });
        }
    }
    Ok(ops)
}

/// What the write adds to the use of the namespace. What an update gives back is counted later.
fn added(write: &Write<'_>, object: &Value) -> BTreeMap<String, Quantity> {
    let row = &write.call.row;
    let mut added = usage(&row.group, &row.plural, object);
    if let Some(old) = write.old {
        let before = usage(&row.group, &row.plural, old);
        for (name, amount) in &mut added {
            if let Some(before) = before.get(name) {
                *amount = amount.sub(before);
            }
        }
        added.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
    }
    added
}

/// Containers must state what a compute quota bounds, unless the pod states something as a whole.
fn require(write: &Write<'_>, quota: &Value, hard: &Value, pod: &Value) -> Result<(), ApiError> {
    let whole = access::at(pod, "/spec/resources");
    let states = |field| access::entries(whole, field).next().is_some();
    if !write.is("", "pods") || states("requests") || states("limits") {
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
