//! Which stored objects a list or watch is about, decided from their heads alone.
//!
//! Where many objects are there and few can be meant, the store's indexes name those to be looked at.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use coxswain_api::selector::{FieldSelector, LabelSelector, Operator};
use coxswain_api::{ApiError, Resource};
use coxswain_store::{Column, Indexes, Place, Snapshot, Stored, Wanted};

use crate::call::Call;
use crate::options::ListOptions;

/// Namespace, name, label and field conditions of one request.
#[derive(Clone)]
pub(crate) struct Selector {
    namespace: String,
    name: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selector {
    /// Checks the field selector against what the kind supports.
    ///
    /// # Errors
    /// 400 when a field cannot be selected by.
    pub fn new(call: &Call, options: &ListOptions) -> Result<Self, ApiError> {
        let mut fields = options.fields.clone();
        for requirement in &mut fields.requirements {
            // The name from before there were nodes.
            if (&*call.row.plural, &*requirement.field) == ("pods", "spec.host") && call.row.group.is_empty() {
                "spec.nodeName".clone_into(&mut requirement.field);
            }
            check_field(&call.row, &requirement.field).map_err(ApiError::bad_request)?;
        }
        Ok(Self {
            namespace: call.namespace().to_owned(),
            name: call.path.name.clone(),
            labels: options.labels.clone(),
            fields,
        })
    }

    /// Whether only the namespace restricts the objects.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the field selector requires one name where that names one object.
    pub fn names_one(&self, call: &Call) -> bool {
        let placed = !call.row.namespaced || !self.namespace.is_empty();
        placed && self.fields.exact("metadata.name").is_some()
    }

    /// Whether an object is in the request's namespace (or the request is about all).
    pub fn in_scope(&self, stored: &Stored) -> bool {
        (self.namespace.is_empty() || *stored.key.namespace == *self.namespace)
            && (self.name.is_empty() || *stored.key.name == *self.name)
    }

    /// Whether an object satisfies everything.
    pub fn matches(&self, stored: &Stored) -> bool {
        self.in_scope(stored)
            && (self.labels.is_everything() || self.labels.matches_pairs(&stored.head.labels))
            && (self.fields.is_everything()
                || self.fields.matches_with(|key| match key {
                    "metadata.name" => Some(&*stored.key.name),
                    "metadata.namespace" => Some(&*stored.key.namespace),
                    other => stored.head.field(other),
                }))
    }

    /// The chosen objects of a snapshot in the order of their names, beginning after the given one.
    pub fn choose<'a>(
        &'a self,
        call: &Call,
        snapshot: &'a Snapshot,
        after: Option<(&str, &str)>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Stored>> + Send + 'a> {
        let resource = call.row.storage.clone();
        let namespace = (!self.namespace.is_empty()).then_some(&*self.namespace);
        if self.is_empty() {
            return Box::new(snapshot.list(&resource, namespace, after));
        }
        let Some(places) = self.places(call, snapshot) else {
            let all = snapshot.list(&resource, namespace, after);
            return Box::new(all.filter(|stored| self.matches(stored)));
        };
        let after: Option<(Arc<str>, Arc<str>)> = after.map(|(namespace, name)| (namespace.into(), name.into()));
        let behind = places
            .into_iter()
            .filter(move |place| after.as_ref().is_none_or(|after| place > after));
        let found = behind.filter_map(move |(namespace, name)| snapshot.find(&resource, &namespace, &name));
        Box::new(found.filter(|stored| self.matches(stored)))
    }

    /// Where to look for chosen objects; `None` for everywhere.
    fn places(&self, call: &Call, snapshot: &Snapshot) -> Option<BTreeSet<Place>> {
        let name = Some(self.name.as_str()).filter(|name| !name.is_empty());
        if let Some(name) = name.or(self.fields.exact("metadata.name")) {
            let namespaces = snapshot.namespaces(&call.row.storage);
            let namespaces =
                namespaces.filter(|namespace| self.namespace.is_empty() || ***namespace == *self.namespace);
            return Some(namespaces.map(|namespace| (namespace.clone(), name.into())).collect());
        }
        let wanted = self.wanted();
        if wanted.is_empty() {
            return None;
        }
        let (server, resource) = (&call.server, &call.row.storage);
        let indexes = server.indexes.of(resource);
        let mut indexes = indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.places(snapshot, resource, &wanted, |after, upto| {
            server.store.changes(resource, after, upto)
        })
    }

    /// The conditions that an index can help with.
    fn wanted(&self) -> Vec<Wanted> {
        let labels = self.labels.requirements.iter().filter_map(|requirement| {
            let values = match requirement.operator {
                Operator::In | Operator::Equals => Some(requirement.values.clone()),
                Operator::Exists | Operator::GreaterThan | Operator::LessThan => None,
                Operator::NotIn | Operator::NotEquals | Operator::DoesNotExist => return None,
            };
            let column = Column::Label(requirement.key.clone());
            Some(Wanted { column, values })
        });
        let fields = self.fields.requirements().iter().filter_map(|requirement| {
            let usable = requirement.equals && !requirement.field.starts_with("metadata.");
            usable.then(|| Wanted {
                column: Column::Field(requirement.field.clone()),
                values: Some(BTreeSet::from([requirement.value.clone()])),
            })
        });
        labels.chain(fields).collect()
    }
}

/// Whether objects of this kind can be selected by the field. Kinds that name fields of their own know no namespace
/// when they have none, and refuse in words of their own.
fn check_field(row: &Resource, field: &str) -> Result<(), String> {
    let supported = row.rules.selectable_fields();
    let plain = supported.is_empty() && row.type_name.is_some();
    let known = match field {
        "metadata.name" => true,
        "metadata.namespace" => plain || row.namespaced,
        other => supported.contains(&other),
    };
    match (&*row.group, &*row.kind) {
        _ if known => Ok(()),
        _ if plain => Err(format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )),
        ("batch", "Job") => Err(format!("field label {field:?} not supported for Job")),
        ("resource.k8s.io", kind) => Err(format!(
            "field label not supported for {}/{}, Kind={kind}: {field}",
            row.group, row.version
        )),
        _ => Err(format!("field label not supported: {field}")),
    }
}

/// The indexes of all resources that somebody selected from.
#[derive(Default)]
pub(crate) struct AllIndexes(Mutex<HashMap<Arc<str>, Arc<Mutex<Indexes>>>>);

impl AllIndexes {
    fn of(&self, resource: &Arc<str>) -> Arc<Mutex<Indexes>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(resource.clone()).or_default().clone()
    }
}
