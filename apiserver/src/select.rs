//! Which stored objects a list or watch is about, decided from their heads alone.

use coxswain_api::ApiError;
use coxswain_api::selector::{FieldSelector, LabelSelector};
use coxswain_store::Stored;

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
        let supported = call.row.rules.selectable_fields();
        for requirement in options.fields.requirements() {
            let field = requirement.field.as_str();
            let known = field == "metadata.name" || field == "metadata.namespace" || supported.contains(&field);
            if known {
                continue;
            }
            let message = if supported.is_empty() {
                format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            } else {
                format!("field label not supported: {field}")
            };
            return Err(ApiError::bad_request(message));
        }
        Ok(Self {
            namespace: call.namespace().to_owned(),
            name: call.path.name.clone(),
            labels: options.labels.clone(),
            fields: options.fields.clone(),
        })
    }

    /// Whether only the namespace restricts the objects.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.labels.is_everything() && self.fields.is_everything()
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
}
