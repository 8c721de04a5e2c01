//! The entries of `metadata.managedFields`: who owns which fields, and since when.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde_json::{Map, Value, json};

use super::set::Set;

/// More entries of plain writers than this are merged, oldest first.
const UPDATE_MANAGERS_MAX: usize = 10;

/// The manager that the oldest entries are merged into.
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// Empty for appliers: they keep their entry when they change versions.
    pub api_version: String,
    pub subresource: String,
}

impl ManagerId {
    pub fn new(manager: &str, operation: &str, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation: operation.to_owned(),
            api_version: if operation == "Apply" { "" } else { api_version }.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

/// As it is named in a conflict.
impl Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == "Update" {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// What one manager owns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owned {
    pub api_version: String,
    /// RFC 3339; absent when the manager never changed the object.
    pub time: Option<String>,
    pub set: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed {
    pub entries: BTreeMap<ManagerId, Owned>,
}

impl Managed {
    /// Reads `metadata.managedFields`; an absent or null list is empty, `Err` names the broken entry.
    pub fn decode(list: Option<&Value>) -> Result<Self, String> {
        let mut managed = Self::default();
        let items = match list {
            None | Some(Value::Null) => return Ok(managed),
            Some(list) => list.as_array().ok_or("managedFields is not a list")?,
        };
        for item in items {
            let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
            let operation = text("operation");
            if !matches!(operation, "Apply" | "Update") {
                return Err(format!("invalid operation: {operation:?}"));
            }
            if text("fieldsType") != "FieldsV1" {
                return Err(format!("unexpected fieldsType: {:?}", text("fieldsType")));
            }
            let set = match item.get("fieldsV1") {
                None | Some(Value::Null) => Set::default(),
                Some(fields) => {
                    Set::decode(fields).ok_or_else(|| format!("unreadable fieldsV1 of {:?}", text("manager")))?
                }
            };
            let id = ManagerId::new(text("manager"), operation, text("apiVersion"), text("subresource"));
            let time = item.get("time").and_then(Value::as_str).map(str::to_owned);
            let owned = Owned {
                api_version: text("apiVersion").to_owned(),
                time,
                set,
            };
            managed.entries.insert(id, owned);
        }
        Ok(managed)
    }

    /// The list as it is stored: appliers first, then by time and name.
    pub fn encode(&self) -> Vec<Value> {
        let mut order: Vec<(&ManagerId, &Owned)> = self.entries.iter().collect();
        order.sort_by(|left, right| sort_key(*left).cmp(&sort_key(*right)));
        order.into_iter().map(|(id, owned)| entry(id, owned)).collect()
    }

    /// Takes the paths of `lost` from every manager but `except` and drops who is left with nothing.
    pub fn subtract(&mut self, lost: &[&Set], except: Option<&ManagerId>) {
        for (id, owned) in &mut self.entries {
            if Some(id) != except {
                for set in lost.iter().filter(|set| !set.is_empty()) {
                    owned.set.subtract(set);
                }
            }
        }
        self.entries.retain(|_, owned| !owned.set.is_empty());
    }

    /// Merges the oldest entries of plain writers until few enough are left.
    pub fn cap(&mut self) {
        if self.entries.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        let mut updaters: Vec<(Option<String>, ManagerId)> = self
            .entries
            .iter()
            .filter(|(id, _)| id.operation == "Update")
            .map(|(id, owned)| (owned.time.clone(), id.clone()))
            .collect();
        updaters.sort();
        let mut count = updaters.len();
        let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
        // The fields that go into each bucket, joined at the end: one by one, each would cost what the sum has become.
        let mut gathered: BTreeMap<ManagerId, Vec<Set>> = BTreeMap::new();
        for (time, id) in updaters {
            if count <= UPDATE_MANAGERS_MAX {
                break;
            }
            let Some(version) = self.entries.get(&id).map(|owned| owned.api_version.clone()) else {
                continue;
            };
            let Some(first) = first_of_version.get(&version) else {
                first_of_version.insert(version, id);
                continue;
            };
            let bucket = ManagerId::new(ANCIENT, "Update", &version, "");
            if !self.entries.contains_key(&bucket)
                && let Some(owned) = self.entries.remove(first)
            {
                self.entries.insert(bucket.clone(), owned);
            }
            if id == bucket {
                continue;
            }
            if let (Some(merged), Some(target)) = (self.entries.remove(&id), self.entries.get_mut(&bucket)) {
                gathered.entry(bucket).or_default().push(merged.set);
                target.time = time;
                count -= 1;
            }
        }
        for (bucket, mut sets) in gathered {
            if let Some(target) = self.entries.get_mut(&bucket) {
                sets.push(std::mem::take(&mut target.set));
                target.set = Set::union_all(sets);
            }
        }
    }
}

/// What entries are sorted by: operation, time, manager, version and subresource.
fn sort_key<'m>((id, owned): (&'m ManagerId, &'m Owned)) -> [&'m str; 5] {
    let time = owned.time.as_deref().unwrap_or_default();
    [&id.operation, time, &id.manager, &owned.api_version, &id.subresource]
}

fn entry(id: &ManagerId, owned: &Owned) -> Value {
    let mut entry = Map::new();
    entry.insert("manager".into(), id.manager.clone().into());
    entry.insert("operation".into(), id.operation.clone().into());
    entry.insert("apiVersion".into(), owned.api_version.clone().into());
    if let Some(time) = &owned.time {
        entry.insert("time".into(), time.clone().into());
    }
    entry.insert("fieldsType".into(), "FieldsV1".into());
    entry.insert("fieldsV1".into(), owned.set.encode());
    if !id.subresource.is_empty() {
        entry.insert("subresource".into(), id.subresource.clone().into());
    }
    Value::Object(entry)
}

/// The list of an object, if it has one.
pub(super) fn list_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// Replaces the list of an object; an empty one is left out.
pub(super) fn set_list(object: &mut Value, entries: Vec<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), Value::Array(entries));
        }
    }
}

pub(super) fn keep_times_when_unchanged(old: &Value, new: &mut Value) -> bool {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return false;
    };
    let rest_is_equal = before.len() == after.len()
        && before.iter().all(|(key, value)| match key.as_str() {
            "metadata" => metadata_is_equal(value, after.get(key)),
            _ => after.get(key) == Some(value),
        });
    if !rest_is_equal {
        return false;
    }
    let kept = list_of(old).cloned();
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else {
        return false;
    };
    match kept {
        Some(list) => metadata.insert("managedFields".into(), list),
        None => metadata.remove("managedFields"),
    };
    true
}

fn metadata_is_equal(old: &Value, new: Option<&Value>) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.and_then(Value::as_object)) else {
        return false;
    };
    let compared = |key: &String| key != "managedFields" && key != "resourceVersion";
    let same = |left: &Map<String, Value>, right: &Map<String, Value>| {
        left.iter()
            .filter(|(key, _)| compared(key))
            .all(|(key, value)| right.get(key) == Some(value))
    };
    same(old, new) && same(new, old) && timeless(old.get("managedFields")) == timeless(new.get("managedFields"))
}

/// The entries without their times, in an order that does not depend on them.
fn timeless(list: Option<&Value>) -> Vec<String> {
    let mut entries: Vec<String> = list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut entry = entry.clone();
            if let Some(map) = entry.as_object_mut() {
                map.remove("time");
            }
            entry.to_string()
        })
        .collect();
    entries.sort();
    entries
}
