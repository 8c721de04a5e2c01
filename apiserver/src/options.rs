//! Options of requests: what the query (and for deletes the body) may say, checked as Kubernetes
//! checks it. Pure; every refusal is an [`ApiError`] in Kubernetes' words.

use coxswain_api::ApiError;
use coxswain_api::codec::{Validation, check_fields};
use coxswain_api::field::{self, ErrorList, FieldError, Path};
use coxswain_api::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

use crate::call::Call;

/// Most conditions of the label and field selectors of one request together.
const SELECTOR_TERMS_MAX: usize = 1000;
/// Longest field manager name in bytes.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Options of create, update and patch.
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    /// Who owns the fields that this write sets.
    pub manager: String,
    /// The client named a manager itself.
    pub manager_given: bool,
    pub validation: Validation,
    pub force: bool,
}

impl WriteOptions {
    /// Reads the options of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn from_call(call: &Call, kind: &str) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let dry_run = dry_run(call.query.all("dryRun"), &mut errors);
        let given = call.query.text("fieldManager");
        errors.extend(check_manager(given));
        let validation = match call.query.text("fieldValidation") {
            "Strict" => Validation::Strict,
            "" | "Warn" => Validation::Warn,
            "Ignore" => Validation::Ignore,
            other => {
                errors.push(FieldError::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                Validation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", kind, "", errors));
        }
        let manager = if given.is_empty() {
            default_manager(&call.user_agent)
        } else {
            given.to_owned()
        };
        Ok(Self {
            dry_run,
            manager,
            manager_given: !given.is_empty(),
            validation,
            force: call.query.flag("force").unwrap_or(false),
        })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), json!(values), &["All"]));
    }
    !values.is_empty()
}

fn check_manager(manager: &str) -> ErrorList {
    let path = Path::new("fieldManager");
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, FIELD_MANAGER_BYTES_MAX));
    }
    if let Some((at, bad)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", bad as u32);
        errors.push(FieldError::invalid(&path, manager, detail));
    }
    errors
}

/// The manager name of a client that gives none: its user agent up to the first slash.
fn default_manager(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > FIELD_MANAGER_BYTES_MAX {
        name.pop();
    }
    name
}

/// Options of list, watch and deletecollection.
pub(crate) struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub limit: usize,
    pub continue_token: String,
    pub version: String,
    pub version_match: String,
    pub timeout_s: Option<u64>,
    pub bookmarks: bool,
    pub initial_events: Option<bool>,
    pub watch: bool,
}

impl ListOptions {
    /// Reads and checks the options of a list or watch.
    pub fn from_call(call: &Call) -> Result<Self, ApiError> {
        let query = &call.query;
        let limit = query.integer("limit")?.unwrap_or(0);
        let timeout = query.integer("timeoutSeconds")?;
        let labels = LabelSelector::parse(query.text("labelSelector")).map_err(selector_error)?;
        let fields = FieldSelector::parse(query.text("fieldSelector")).map_err(selector_error)?;
        let terms = labels.requirements.len() + fields.requirements().len();
        if terms > SELECTOR_TERMS_MAX {
            return Err(ApiError::bad_request(format!(
                "the selectors have {terms} conditions, and every object is compared with each: at most \
                 {SELECTOR_TERMS_MAX} are allowed"
            )));
        }
        let options = Self {
            labels,
            fields,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            version: query.text("resourceVersion").to_owned(),
            version_match: query.text("resourceVersionMatch").to_owned(),
            // A negative time is over at once.
            timeout_s: timeout
                .filter(|seconds| *seconds != 0)
                .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            initial_events: query.flag("sendInitialEvents"),
            watch: call.path.watch || query.flag("watch").unwrap_or(false),
        };
        let errors = if options.watch {
            options.check_watch()
        } else {
            options.check_list()
        };
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", errors))
        }
    }

    fn check_list(&self) -> ErrorList {
        let path = Path::new("resourceVersionMatch");
        let mut errors = ErrorList::new();
        let wanted = self.version_match.as_str();
        if !wanted.is_empty() {
            if self.version.is_empty() {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(&path, detail));
            }
            if !self.continue_token.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for continue",
                ));
            }
            if wanted != "Exact" && wanted != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, wanted, &["Exact", "NotOlderThan", ""]));
            }
            if wanted == "Exact" && self.version == "0" {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        if self.initial_events.is_some() {
            let detail = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden(&Path::new("sendInitialEvents"), detail));
        }
        errors
    }

    fn check_watch(&self) -> ErrorList {
        let path = Path::new("resourceVersionMatch");
        let mut errors = ErrorList::new();
        let wanted = self.version_match.as_str();
        if self.initial_events.is_some() && wanted != "NotOlderThan" {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&path, detail));
        }
        if !wanted.is_empty() {
            if self.initial_events.is_none() {
                let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(&path, detail));
            }
            if wanted != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, wanted, &["NotOlderThan"]));
            }
            if !self.continue_token.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for continue",
                ));
            }
        }
        errors
    }

    /// The resourceVersion asked for, `None` when absent.
    pub fn revision(&self) -> Result<Option<u64>, ApiError> {
        parse_version(&self.version)
    }
}

/// A `resourceVersion` parameter as a revision.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let error = || ApiError::bad_request(format!("invalid resource version: {}", version_error(text)));
    text.parse::<u64>().map(Some).map_err(|_| error())
}

/// Kubernetes' words for a resourceVersion that is not a number.
pub(crate) fn version_error(text: &str) -> String {
    let shown = field::quote(text);
    let why = crate::query::number_error(text.as_bytes());
    format!("resourceVersion: Invalid value: {shown}: strconv.ParseUint: parsing {shown}: {why}")
}

fn selector_error(message: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(message.to_string())
}

/// How dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub dry_run: bool,
    pub grace_s: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub version: Option<String>,
}

impl DeleteOptions {
    /// Reads the options from the body, or from the query when there is none.
    pub fn from_call(call: &Call) -> Result<Self, ApiError> {
        let mut body = json!({});
        if call.body.is_empty() {
            if let Some(seconds) = call.query.integer("gracePeriodSeconds")? {
                body["gracePeriodSeconds"] = json!(seconds);
            }
            if let Some(policy) = call.query.get("propagationPolicy").filter(|policy| !policy.is_empty()) {
                body["propagationPolicy"] = json!(policy);
            }
            if let Some(orphan) = call.query.flag("orphanDependents") {
                body["orphanDependents"] = json!(orphan);
            }
            let dry: Vec<&str> = call.query.all("dryRun").collect();
            body["dryRun"] = json!(dry);
        } else {
            body = crate::body::decode_value(call)?;
            let kind = body.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" || !body.is_object() {
                let gv = body.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
                return Err(ApiError::bad_request(format!(
                    "couldn't get version/kind; the object provided is unrecognized (must be of type DeleteOptions): {kind} in version {gv:?} cannot be handled as DeleteOptions"
                )));
            }
            check_fields(&mut body, DELETE_OPTIONS, Validation::Ignore)?;
        }
        Self::from_value(&body)
    }

    /// Reads the options from a DeleteOptions object.
    pub fn from_value(body: &Value) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let policy = body.get("propagationPolicy").and_then(Value::as_str);
        if let (Some(policy), Some(_)) = (policy, orphan) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&Path::new("propagationPolicy"), policy, detail));
        }
        let propagation = match (policy, orphan) {
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), _) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported(
                    &Path::new("propagationPolicy"),
                    other,
                    &known,
                ));
                None
            }
        };
        let dry = body
            .get("dryRun")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let dry_run = dry_run(dry.iter().filter_map(Value::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        let precondition = |name: &str| {
            body.pointer("/preconditions")
                .and_then(|p| p.get(name))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        Ok(Self {
            dry_run,
            grace_s: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation,
            uid: precondition("uid"),
            version: precondition("resourceVersion"),
        })
    }
}
