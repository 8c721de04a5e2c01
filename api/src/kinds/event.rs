//! Events, in the old (core) and the new (events.k8s.io) form of the same stored object.
//!
//! What is stored is the old form; [`NewEvent`] renames members on the way in and out.

use super::access::{self, child, get, has, int_of, remove, same, set, set_default, str_of, text};
use super::check;
use super::go;
use super::print::{self, NAME, shown, wide};
use super::{Column, Rules, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of core Events.
pub struct Event;

impl Rules for Event {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        child(obj, "involvedObject");
        child(obj, "source");
        tidy::drop_zero(obj, &["reason", "message", "count", "type", "action"]);
        for key in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            set_default(obj, key, Value::Null);
        }
        for key in ["reportingComponent", "reportingInstance"] {
            set_default(obj, key, "");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        legacy(obj, "reportingComponent")
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            shown("Last Seen", "string", "Time since it was seen last."),
            shown("Type", "string", "Normal or Warning."),
            shown("Reason", "string", "Short reason."),
            shown("Object", "string", "What the event is about."),
            wide("Subobject", "string", "Part of the object."),
            wide("Source", "string", "Who reported the event."),
            shown("Message", "string", "Explanation."),
            wide("First Seen", "string", "Time since it was seen first."),
            wide("Count", "string", "How often it was seen."),
            Column { priority: 1, ..NAME },
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let event_time = str_of(obj, "eventTime");
        let or_event_time = |t: &str| print::since(if t.is_empty() { event_time } else { t }, now);
        let mut last = or_event_time(str_of(obj, "lastTimestamp"));
        let mut count = int_of(obj, "count").unwrap_or(0);
        let series = get(obj, "series");
        if series.is_object() {
            last = print::since(str_of(series, "lastObservedTime"), now);
            count = int_of(series, "count").unwrap_or(0);
        } else if count == 0 {
            count = 1;
        }
        let about = get(obj, "involvedObject");
        let target = match str_of(about, "name") {
            "" => str_of(about, "kind").to_lowercase(),
            name => format!("{}/{name}", str_of(about, "kind").to_lowercase()),
        };
        vec![
            json!(last),
            json!(str_of(obj, "type")),
            json!(str_of(obj, "reason")),
            json!(target),
            json!(str_of(about, "fieldPath")),
            json!(source(obj)),
            json!(str_of(obj, "message").trim()),
            json!(or_event_time(str_of(obj, "firstTimestamp"))),
            json!(count),
            json!(access::name(obj)),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        FIELDS
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        all_selectable(obj)
    }
}

const FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const NEW_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("reportingController", "reportingComponent"),
];

/// Both forms' names, so that one stored event is found through either.
fn all_selectable(old_form: &Value) -> Vec<(&'static str, String)> {
    let mut out: Vec<_> = FIELDS
        .iter()
        .map(|field| (*field, selectable(old_form, field)))
        .collect();
    out.extend(NEW_FIELDS.iter().map(|(new, old)| (*new, selectable(old_form, old))));
    out
}

fn selectable(obj: &Value, field: &str) -> String {
    match field {
        "source" => match text(obj, "/source/component") {
            "" => str_of(obj, "reportingComponent").to_owned(),
            component => component.to_owned(),
        },
        _ => text(obj, &format!("/{}", field.replace('.', "/"))).to_owned(),
    }
}

fn source(obj: &Value) -> String {
    let parts = match (text(obj, "/source/component"), text(obj, "/source/host")) {
        ("", "") => [str_of(obj, "reportingComponent"), str_of(obj, "reportingInstance")],
        (component, host) => [component, host],
    };
    parts
        .into_iter()
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// What holds for events of both forms.
fn legacy(obj: &Value, controller_name: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (namespace, about) = (access::namespace(obj), text(obj, "/involvedObject/namespace"));
    let dated = has(obj, "eventTime");
    let fits = match about {
        "" if dated => ["default", "kube-system"].contains(&namespace),
        "" => ["", "default"].contains(&namespace),
        _ => dated || about == namespace,
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(invalid(&path, about, "does not match event.namespace"));
    }
    if !dated {
        return errors;
    }
    let controller = str_of(obj, "reportingComponent");
    let at_controller = Path::new(controller_name);
    if controller.is_empty() {
        errors.push(required(&at_controller, ""));
    }
    check::qualified(&mut errors, &at_controller, controller);
    limited(&mut errors, obj, "reportingInstance", 128, true);
    limited(&mut errors, obj, "action", 128, true);
    limited(&mut errors, obj, "reason", 128, true);
    limited(&mut errors, obj, "message", 1024, false);
    errors
}

fn series(errors: &mut ErrorList, obj: &Value) {
    let series = get(obj, "series");
    if !series.is_object() {
        return;
    }
    if int_of(series, "count").unwrap_or(0) < 2 {
        errors.push(invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if !has(series, "lastObservedTime") {
        errors.push(required(&Path::new("series.lastObservedTime"), ""));
    }
}

/// A struct without names for the wire: members begin with a capital, and what is not set is empty.
fn capitalised(value: &Value, members: &[&str]) -> String {
    let fields: Vec<(String, String)> = members
        .iter()
        .map(|key| {
            let name = match *key {
                "uid" => "UID".to_owned(),
                "apiVersion" => "APIVersion".to_owned(),
                key => key[..1].to_uppercase() + &key[1..],
            };
            (name, go::json_text(&Value::from(str_of(value, key))))
        })
        .collect();
    let fields: Vec<(&str, String)> = fields.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    go::structure(&fields)
}

fn limited(errors: &mut ErrorList, obj: &Value, key: &str, characters_max: usize, needed: bool) {
    let value = str_of(obj, key);
    if needed && value.is_empty() {
        errors.push(required(&Path::new(key), ""));
    }
    if value.len() > characters_max {
        errors.push(invalid(
            &Path::new(key),
            "",
            format!("can have at most {characters_max} characters"),
        ));
    }
}

/// The rules of events.k8s.io Events.
pub struct NewEvent;

/// Member names: new form, old form.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn rename(obj: &mut Value, from: &str, to: &str) {
    if let Some(value) = remove(obj, from) {
        set(obj, to, value);
    }
}

fn is_old_form(obj: &Value) -> bool {
    str_of(obj, "apiVersion") == "v1"
}

impl Rules for NewEvent {
    fn fill(&self, obj: &mut Value) {
        if is_old_form(obj) {
            Event.fill(obj);
            return;
        }
        tidy::metadata(obj);
        set_default(obj, "eventTime", Value::Null);
        new_form_zeros(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = legacy(obj, "reportingController");
        series(&mut errors, obj);
        if !has(obj, "eventTime") {
            errors.push(required(&Path::new("eventTime"), ""));
        }
        let kind = str_of(obj, "type");
        if kind != "Normal" && kind != "Warning" {
            errors.push(invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        for key in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if has(obj, key) && !access::is_empty(get(obj, key)) {
                errors.push(invalid(&Path::new(key), "", "needs to be unset"));
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        const REFERENCE: &[&str] = &[
            "kind",
            "namespace",
            "name",
            "uid",
            "apiVersion",
            "resourceVersion",
            "fieldPath",
        ];
        let mut errors = legacy(new, "reportingController");
        if !same(new.get("series"), old.get("series")) {
            series(&mut errors, new);
        }
        for (key, shown, members) in [
            ("involvedObject", "involvedObject", REFERENCE),
            ("reason", "reason", &[]),
            ("message", "message", &[]),
            ("source", "source", &["component", "host"]),
            ("firstTimestamp", "firstTimestamp", &[]),
            ("lastTimestamp", "lastTimestamp", &[]),
            ("count", "count", &[]),
            ("reason", "reason", &[]),
            ("type", "type", &[]),
            ("eventTime", "eventTime", &[]),
            ("action", "action", &[]),
            ("related", "related", REFERENCE),
            ("reportingComponent", "reportingController", &[]),
            ("reportingInstance", "reportingInstance", &[]),
        ] {
            let (after, before) = (new.get(key), old.get(key));
            let path = Path::new(shown);
            match after {
                Some(value) if value.is_object() && !same(after, before) => {
                    errors.push(go::invalid_shown(&path, &capitalised(value, members), check::IMMUTABLE));
                }
                _ => check::immutable(&mut errors, &path, after, before),
            }
        }
        errors
    }

    fn to_storage(&self, obj: &mut Value, _version: &str) {
        if is_old_form(obj) {
            return;
        }
        for (new, old) in RENAMED {
            rename(obj, new, old);
        }
        set(obj, "apiVersion", "v1");
        Event.fill(obj);
    }

    fn from_storage(&self, obj: &mut Value, _version: &str) {
        if !is_old_form(obj) {
            return;
        }
        for (new, old) in RENAMED {
            rename(obj, old, new);
        }
        set(obj, "apiVersion", "events.k8s.io/v1");
        new_form_zeros(obj);
    }

    fn columns(&self) -> &'static [Column] {
        Event.columns()
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut old_form = obj.clone();
        self.to_storage(&mut old_form, "v1");
        Event.row(&old_form, now)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "reason",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "reportingController",
            "type",
        ]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut old_form = obj.clone();
        self.to_storage(&mut old_form, "v1");
        all_selectable(&old_form)
    }
}

fn new_form_zeros(obj: &mut Value) {
    tidy::drop_zero(
        obj,
        &[
            "reportingController",
            "reportingInstance",
            "action",
            "reason",
            "note",
            "type",
            "deprecatedCount",
            "regarding",
        ],
    );
    for key in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        if get(obj, key).is_null() {
            remove(obj, key);
        }
    }
    if access::is_empty(get(obj, "deprecatedSource")) {
        remove(obj, "deprecatedSource");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The new form is strict, in the names of the old one.
    #[test]
    fn strict_form() {
        let stored = json!({"apiVersion": "v1", "metadata": {"namespace": "n"}, "involvedObject": {"namespace": "n", "kind": "Pod"},
            "reason": "R", "action": "a", "type": "Normal", "eventTime": "2024-01-01T00:00:00.000000Z",
            "reportingComponent": "c.io/x", "reportingInstance": "i"});
        let changed = |changes: Value| {
            let mut new = stored.clone();
            crate::patch::merge_patch(&mut new, &changes).expect("a patch");
            new
        };
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let created: [(Value, &[&str]); 3] = [
            (json!({}), &[]),
            (
                json!({"eventTime": null, "type": null, "count": 3}),
                &[
                    "eventTime: Required value",
                    "type: Invalid value: \"\": has invalid value: ",
                    "count: Invalid value: \"\": needs to be unset",
                ],
            ),
            (
                json!({"involvedObject": {"namespace": null}, "reportingComponent": "a b"}),
                &[
                    "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
                    "reportingController: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
        ];
        for (changes, expected) in created {
            assert_eq!(texts(NewEvent.check(&changed(changes.clone()))), expected, "{changes}");
        }
        let updated: [(Value, &[&str]); 2] = [
            (
                json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}}),
                &[],
            ),
            (
                json!({"message": "m", "series": {"count": 1}, "involvedObject": {"kind": "Node"}}),
                &[
                    "series.count: Invalid value: \"\": should be at least 2",
                    "series.lastObservedTime: Required value",
                    "involvedObject: Invalid value: {\"Kind\":\"Node\",\"Namespace\":\"n\",\"Name\":\"\",\"UID\":\"\",\"APIVersion\":\"\",\"ResourceVersion\":\"\",\"FieldPath\":\"\"}: field is immutable",
                    "message: Invalid value: \"m\": field is immutable",
                ],
            ),
        ];
        for (changes, expected) in updated {
            let new = changed(changes.clone());
            assert_eq!(texts(NewEvent.check_update(&new, &stored, None)), expected, "{changes}");
        }
    }
}
