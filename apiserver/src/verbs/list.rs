//! `GET` of a collection: selectors, pages, consistent snapshots.
//!
//! Plain JSON is written by putting the stored bytes one behind the other; filtering looks at the
//! stored heads only. A continue token is Kubernetes' own: base64 of the revision and the key to
//! start after, so that every page shows the same moment.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_api::table;
use coxswain_store::{Snapshot, Stored};
use serde_json::{Map, Value, json};

use crate::answer::{self, Reply};
use crate::call::Call;
use crate::costly;
use crate::negotiate::{Encoding, View};
use crate::options::ListOptions;
use crate::select::Selector;
use crate::verbs::get::wait_for;

mod stream;

/// Runs the verb.
pub(crate) async fn list(call: &Arc<Call>) -> Result<Reply, ApiError> {
    let options = ListOptions::from_call(call)?;
    let selector = Selector::new(call, &options)?;
    let start = Start::of(call, &options)?;
    let snapshot = match snapshot_for(call, &options, &start).await {
        Ok(snapshot) => snapshot,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::Expired { token }) => return Ok(expired(call, &token)),
    };
    let page = Page::collect(call, &selector, &options, &start, &snapshot);
    let metadata = page.metadata(&snapshot);
    if page.next.is_some() {
        call.server.store.retain(&snapshot);
    }
    whole(call, page.items, metadata).await
}

/// A list of these objects in the form the call asked for.
pub(crate) async fn whole(call: &Arc<Call>, items: Vec<Arc<Stored>>, metadata: Value) -> Result<Reply, ApiError> {
    match (call.form.view, call.form.encoding, call.form.pretty) {
        (View::Partial, ..) => Err(answer::wrong_view(call)),
        (_, Encoding::Json, false) | (_, Encoding::Protobuf, _) => stream::reply(call.clone(), items, &metadata).await,
        _ => {
            let bytes: usize = items.iter().map(|stored| stored.bytes.len()).sum();
            let own = call.clone();
            let made = move || {
                let list = viewed(&own, &items, metadata)?;
                Ok(answer::document(200, &list, own.form.encoding, own.form.pretty))
            };
            match costly::of_list(bytes) {
                Some(kib) => call.aside(kib, made).await,
                None => made(),
            }
        }
    }
}

/// Where a list begins.
struct Start {
    /// Exact revision, from a continue token.
    revision: Option<u64>,
    /// Begin after this namespace and name.
    after: Option<(String, String)>,
}

impl Start {
    fn of(call: &Call, options: &ListOptions) -> Result<Self, ApiError> {
        if options.continue_token.is_empty() {
            return Ok(Self {
                revision: None,
                after: None,
            });
        }
        let invalid =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let token = decode_token(&options.continue_token).map_err(invalid)?;
        if !matches!(options.version.as_str(), "" | "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let after = match (call.row.namespaced, token.start.split_once('/')) {
            (true, Some((namespace, name))) if call.namespace().is_empty() => (namespace.to_owned(), name.to_owned()),
            (true, _) => (call.namespace().to_owned(), token.start.clone()),
            (false, _) => (String::new(), token.start.clone()),
        };
        Ok(Self {
            revision: token.revision,
            after: Some(after),
        })
    }
}

struct Token {
    /// `None` goes on at the newest revision.
    revision: Option<u64>,
    start: String,
}

fn decode_token(text: &str) -> Result<Token, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) => format!("illegal base64 data at input byte {at}"),
        _ => format!("illegal base64 data at input byte {}", text.len()),
    })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| {
        let first = bytes.iter().copied().find(|b| !b.is_ascii_whitespace()).unwrap_or(b' ');
        format!("invalid character '{}' looking for beginning of value", first as char)
    })?;
    let version = access::str_of(&value, "v");
    if version != "meta.k8s.io/v1" {
        return Err(format!("server does not recognize this encoded version {version:?}"));
    }
    let revision = value.get("rv").and_then(Value::as_i64).unwrap_or(0);
    if revision == 0 {
        return Err("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned());
    }
    let given = access::str_of(&value, "start");
    if given.is_empty() {
        return Err("encoded start key empty (version meta.k8s.io/v1)".to_owned());
    }
    // No way up and out of the collection.
    let start = given.strip_prefix('/').unwrap_or(given).trim_end_matches('\0');
    if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(given.to_owned());
    }
    Ok(Token {
        revision: u64::try_from(revision).ok(),
        start: start.to_owned(),
    })
}

/// A token; a revision of -1 goes on at the newest.
fn encode_token(revision: i64, start: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{start}\0")}).to_string())
}

/// Why there is no snapshot to list.
enum Refusal {
    Error(ApiError),
    /// The moment of a continue token is gone; `token` goes on from the same place.
    Expired {
        token: String,
    },
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

async fn snapshot_for(call: &Call, options: &ListOptions, start: &Start) -> Result<Snapshot, Refusal> {
    if let Some(revision) = start.revision {
        return call.server.store.snapshot_of(&call.row.storage, revision).map_err(|_| {
            let (namespace, name) = start.after.clone().unwrap_or_default();
            let all = call.row.namespaced && call.namespace().is_empty();
            let key = if all { format!("{namespace}/{name}") } else { name };
            Refusal::Expired {
                token: encode_token(-1, &key),
            }
        });
    }
    let Some(revision) = options.revision()? else {
        return Ok(call.snapshot());
    };
    if revision == 0 || start.after.is_some() {
        return Ok(call.snapshot());
    }
    wait_for(call, revision).await?;
    // Without a word about the match, a page of a revision is a page of that very revision.
    let exact = match options.version_match.as_str() {
        "" => options.limit > 0,
        other => other == "Exact",
    };
    if exact {
        let gone = || ApiError::expired("The resourceVersion for the provided list is too old.");
        return call
            .server
            .store
            .snapshot_of(&call.row.storage, revision)
            .map_err(|_| gone().into());
    }
    Ok(call.snapshot())
}

/// 410 for a continue token whose moment is gone, with a token that goes on inconsistently.
fn expired(call: &Call, token: &str) -> Reply {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.to_status();
    access::set(&mut status, "metadata", json!({"continue": token}));
    answer::plain(call, 410, &status)
}

/// One page of a list.
struct Page {
    items: Vec<Arc<Stored>>,
    next: Option<(String, String)>,
    remaining: Option<usize>,
    all_namespaces: bool,
}

impl Page {
    fn collect(call: &Call, selector: &Selector, options: &ListOptions, start: &Start, snapshot: &Snapshot) -> Self {
        let after = start
            .after
            .as_ref()
            .map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let most = if options.limit > 0 { options.limit } else { usize::MAX };
        let chosen = selector.choose(call, snapshot, after);
        let items: Vec<Arc<Stored>> = chosen.take(most).cloned().collect();
        let mut page = Self {
            items,
            next: None,
            remaining: None,
            all_namespaces: call.row.namespaced && call.namespace().is_empty(),
        };
        // One object that is named is all of the list.
        let full = page.items.len() == most && !selector.names_one(call);
        if let Some(last) = page.items.last().filter(|_| full) {
            // A full page ends at whatever comes next, chosen or not: looking further may take long.
            let namespace = (!call.namespace().is_empty()).then(|| call.namespace());
            let end = (&*last.key.namespace, &*last.key.name);
            let mut rest = snapshot.list(&call.row.storage, namespace, Some(end));
            if rest.next().is_some() {
                page.remaining = selector.is_empty().then(|| 1 + rest.count());
                page.next = Some((end.0.to_owned(), end.1.to_owned()));
            }
        }
        page
    }

    fn metadata(&self, snapshot: &Snapshot) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), snapshot.revision().to_string().into());
        if let Some((namespace, name)) = &self.next {
            let key = if self.all_namespaces {
                format!("{namespace}/{name}")
            } else {
                name.clone()
            };
            metadata.insert(
                "continue".into(),
                encode_token(i64::try_from(snapshot.revision()).unwrap_or(i64::MAX), &key).into(),
            );
            if let Some(remaining) = self.remaining {
                metadata.insert("remainingItemCount".into(), remaining.into());
            }
        }
        Value::Object(metadata)
    }
}

/// The list as one document: YAML, indented, Table or PartialObjectMetadataList.
fn viewed(call: &Call, items: &[Arc<Stored>], metadata: Value) -> Result<Value, ApiError> {
    match call.form.view {
        View::Table => {
            let mut objects: Vec<Value> = items.iter().map(|stored| call.internal(stored)).collect();
            call.row.rules.order_rows(&mut objects);
            let include = answer::include_object(call)?;
            let mut table = table::table(&*call.row.rules, metadata, &objects, include, true, answer::now());
            answer::set_versions(call, &mut table);
            Ok(table)
        }
        View::PartialList => {
            let items: Vec<Value> = items
                .iter()
                .map(|stored| answer::partial(&call.present(stored), call.form))
                .collect();
            Ok(partial_list(call, metadata, items))
        }
        View::Whole | View::Partial => {
            let items: Vec<Value> = items.iter().map(|stored| item(call, stored)).collect();
            Ok(list_object(call, metadata, items))
        }
    }
}

/// Objects that are not stored, in the form the call asked for.
pub(crate) fn of_values(call: &Call, objects: Vec<Value>, metadata: Value) -> Result<Reply, ApiError> {
    let value = match call.form.view {
        View::Partial => return Err(answer::wrong_view(call)),
        View::Table => {
            let include = answer::include_object(call)?;
            table::table(&*call.row.rules, metadata, &objects, include, true, answer::now())
        }
        View::PartialList => {
            let items = objects.iter().map(|object| answer::partial(object, call.form));
            partial_list(call, metadata, items.collect())
        }
        View::Whole => list_object(call, metadata, objects),
    };
    Ok(answer::plain(call, 200, &value))
}

fn partial_list(call: &Call, metadata: Value, items: Vec<Value>) -> Value {
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": call.form.view_version(),
        "metadata": metadata, "items": items,
    })
}

fn item(call: &Call, stored: &Stored) -> Value {
    let mut value = call.present(stored);
    if call.row.type_name.is_some() {
        access::remove(&mut value, "apiVersion");
        access::remove(&mut value, "kind");
    }
    value
}

/// A list object of the call's resource.
pub(crate) fn list_object(call: &Call, metadata: Value, items: Vec<Value>) -> Value {
    json!({"kind": &*call.row.list_kind, "apiVersion": call.group_version(), "metadata": metadata, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = decode_token(&encode_token(42, "ns/name")).expect("own token");
        assert_eq!((token.revision, token.start.as_str()), (Some(42), "ns/name"));
        let token = decode_token(&encode_token(-1, "name")).expect("own token");
        assert_eq!((token.revision, token.start.as_str()), (None, "name"));
        for start in ["../other/name", "ns/../x", "a//b", "."] {
            let refused = decode_token(&encode_token(7, start)).err();
            assert_eq!(refused, Some(format!("{start}\0")));
        }
        let cases = [
            ("abc", "invalid character 'i' looking for beginning of value"),
            ("{}", "illegal base64 data at input byte 0"),
            (
                "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0",
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (
                "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJzdGFydCI6ImEifQ",
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
        ];
        for (token, expected) in cases {
            assert_eq!(decode_token(token).err().as_deref(), Some(expected), "{token}");
        }
    }

    /// Tokens of any text are read or refused, never lead out of the collection, and ours come back as they went.
    #[test]
    fn fuzz_continue_tokens() {
        let seeds = ["ns/name", "name", "../x", "a//b", "/a/b"];
        let seeds = seeds.iter().map(|start| encode_token(7, start).into_bytes()).collect();
        coxswain_fuzz::fuzz("continue", seeds, &["eyJ", "Li4v", "=", "_"], |bytes: &Vec<u8>| {
            let token = decode_token(&String::from_utf8_lossy(bytes))?;
            let parts: Vec<&str> = token.start.split('/').collect();
            assert!(
                !parts.iter().any(|part| matches!(*part, "" | "." | "..")),
                "{}",
                token.start
            );
            let again = decode_token(&encode_token(1, &token.start)).expect("our own");
            assert_eq!(again.start, token.start);
            Ok(())
        });
    }
}
