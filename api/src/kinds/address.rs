//! Addresses: what is given out and the ranges it comes from.

use super::access::{self, at, child, list, set, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, meta, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of IPAddresses.
pub struct IpAddress;

impl Rules for IpAddress {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, parent) = (Path::new("spec").child("parentRef"), at(obj, "/spec/parentRef"));
        if !parent.is_object() {
            errors.push(required(&path, ""));
            return errors;
        }
        let group = str_of(parent, "group");
        if !group.is_empty() {
            check::dns_subdomain(&mut errors, &path.child("group"), group);
        }
        for key in ["resource", "name", "namespace"] {
            match str_of(parent, key) {
                "" if key != "namespace" => errors.push(required(&path.child(key), "")),
                value => check::each(&mut errors, &path.child(key), value, names::path_segment(value)),
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("parentRef");
        check::immutable(
            &mut errors,
            &path,
            new.pointer("/spec/parentRef"),
            old.pointer("/spec/parentRef"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("ParentRef", "string", "Object that uses the address."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let p = at(obj, "/spec/parentRef");
        let parts: Vec<&str> = ["resource", "group", "namespace", "name"]
            .iter()
            .map(|k| str_of(p, k))
            .collect();
        let resource = if parts[1].is_empty() {
            parts[0].to_owned()
        } else {
            format!("{}.{}", parts[0], parts[1])
        };
        let owner: Vec<&str> = [resource.as_str(), parts[2], parts[3]]
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect();
        vec![json!(access::name(obj)), json!(owner.join("/")), print::age(obj, now)]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Address
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// The rules of ServiceCIDRs.
pub struct ServiceCidr;

impl Rules for ServiceCidr {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, ranges) = (Path::new("spec").child("cidrs"), strings(at(obj, "/spec"), "cidrs"));
        if ranges.is_empty() {
            errors.push(required(&path, "at least one CIDR required"));
            return errors;
        }
        let families: Vec<Option<bool>> = ranges
            .iter()
            .map(|range| check::parse_cidr(range).map(|(ip, _)| ip.is_ipv4()))
            .collect();
        let wrong = match families.as_slice() {
            [_] => None,
            [Some(first), Some(second)] if first != second => None,
            [_, _] => Some("may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"),
            _ => Some("may only hold up to 2 values"),
        };
        if let Some(detail) = wrong {
            errors.push(invalid(&path, json!({"CIDRs": at(obj, "/spec/cidrs")}), detail));
            return errors;
        }
        for (i, range) in ranges.iter().enumerate() {
            check::canonical_cidr(&mut errors, &path.index(i), range);
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub.is_some() {
            return ErrorList::new();
        }
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let ranges = |obj| list(at(obj, "/spec"), "cidrs");
        let (after, before) = (ranges(new), ranges(old));
        // A range of the other family may be added to the first.
        let grows = before.len() == 1 && after.len() == 2;
        if !grows && before.len() != after.len() {
            let after = new.pointer("/spec/cidrs");
            check::immutable(&mut errors, &path, after, old.pointer("/spec/cidrs"));
            return errors;
        }
        for (i, (after, before)) in after.iter().zip(before).enumerate() {
            check::immutable(&mut errors, &path.index(i), Some(after), Some(before));
        }
        if grows {
            errors.extend(self.check(new));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("CIDRs", "string", "Ranges that addresses come from."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(strings(at(obj, "/spec"), "cidrs").join(",")),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}
