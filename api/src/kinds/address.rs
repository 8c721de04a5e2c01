//! Addresses: what is given out and the ranges it comes from.

use super::access::{self, at, child, same, set, str_of};
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
        }
        if ranges.len() > 2 {
            errors.push(invalid(
                &path,
                at(obj, "/spec/cidrs").clone(),
                "may only hold up to 2 values",
            ));
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
        if !same(new.pointer("/spec/cidrs"), old.pointer("/spec/cidrs")) {
            let path = Path::new("spec").child("cidrs");
            check::immutable(
                &mut errors,
                &path,
                new.pointer("/spec/cidrs"),
                old.pointer("/spec/cidrs"),
            );
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

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}
