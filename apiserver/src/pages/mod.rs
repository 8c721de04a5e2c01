//! Everything outside resources: discovery, OpenAPI, version, health, metrics, token keys.

pub(crate) mod cluster;
pub(crate) mod discovery;
pub(crate) mod health;
pub(crate) mod openapi;
mod zpages;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use coxswain_api::ApiError;
use http::header::{ACCEPT, HeaderName, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::Build;
use crate::answer::{self, Reply};
use crate::call::encode;
use crate::negotiate::{self, ACCEPTED};
use crate::pipeline::text_header;
use crate::query::Query;
use crate::route::Target;
use crate::shared::Shared;

/// The Kubernetes version this server is compatible with.
const KUBERNETES: &str = "v1.36.2";

/// Answers a request that is not about a resource.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Reply, ApiError> {
    let accept = text_header(headers, &ACCEPT);
    let agent = text_header(headers, &USER_AGENT);
    let page = Page {
        accept,
        pretty: negotiate::pretty(query.text("pretty"), agent),
        head: headers,
    };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let Target::Other(parts) = target else {
        if !reads {
            return Err(not_allowed());
        }
        return discovery::answer(shared, target, &page);
    };
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    // Pages are known by their whole path: what was authorised is what is shown.
    if words.contains(&"") {
        return Err(ApiError::page_not_found());
    }
    let known = matches!(
        words.first(),
        None | Some(
            &"version"
                | &"healthz"
                | &"livez"
                | &"readyz"
                | &"metrics"
                | &"openapi"
                | &"openid"
                | &".well-known"
                | &"flagz"
                | &"statusz"
        )
    );
    if known && !reads {
        return Err(not_allowed());
    }
    match words.as_slice() {
        [] => page.json(&json!({"paths": paths(shared)})),
        ["version"] => page.json(&version(&shared.config.build)),
        ["healthz" | "livez" | "readyz", rest @ ..] => {
            health::answer(shared, words.first().copied().unwrap_or(""), rest, query)
        }
        ["metrics"] | ["metrics", "slis"] => Ok(answer::raw(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics(shared),
        )),
        ["flagz"] => zpages::flagz(shared, &page),
        ["statusz"] => zpages::statusz(shared, &page),
        ["openapi", "v2"] => openapi::v2(shared, &page),
        ["openapi", "v3"] => {
            let index = coxswain_api::openapi::v3_index(&shared.registry());
            Ok(answer::raw(200, "text/plain; charset=utf-8", encode(&index)))
        }
        ["openapi", "v3", rest @ ..] => openapi::v3(shared, &page, &rest.join("/"), query),
        ["openid", "v1", "jwks"] => Ok(answer::raw(
            200,
            "application/jwk-set+json",
            shared.tokens.key_set().to_string(),
        )),
        [".well-known", "openid-configuration"] => page.json(&openid(shared)),
        _ => Err(ApiError::page_not_found()),
    }
}

/// The 405 of every path.
fn not_allowed() -> ApiError {
    ApiError::method_not_allowed("", "", "")
}

/// How the client wants its document.
pub(crate) struct Page<'a> {
    pub accept: &'a str,
    pub pretty: bool,
    pub head: &'a HeaderMap,
}

impl Page<'_> {
    /// The document as JSON or YAML.
    pub fn json(&self, value: &Value) -> Result<Reply, ApiError> {
        let encoding = negotiate::plain_form(self.accept).ok_or_else(|| ApiError::not_acceptable(ACCEPTED))?;
        Ok(answer::document(200, value, encoding, self.pretty))
    }

    /// A header of the request as text.
    pub fn header(&self, name: &HeaderName) -> &str {
        text_header(self.head, name)
    }

    /// Whether the client says that it has this version already.
    pub fn has(&self, etag: &str) -> bool {
        let known = self.header(&IF_NONE_MATCH);
        known
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == etag || tag == "*")
    }
}

/// Fields that nothing is known of have what Kubernetes has in builds without a release.
fn version(build: &Build) -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": KUBERNETES,
        "gitCommit": build.commit.unwrap_or("unknown"), "gitTreeState": build.tree.unwrap_or("dirty"),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "buildDate": build.date.unwrap_or("1970-01-01T00:00:00Z"), "goVersion": build.compiler.unwrap_or("rustc"),
        "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn openid(shared: &Shared) -> Value {
    let (address, port) = shared.config.advertise;
    json!({
        "issuer": shared.config.issuer,
        "jwks_uri": format!("https://{address}:{port}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn paths(shared: &Shared) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/flagz",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/statusz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for group in shared.registry().groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(
            group
                .versions
                .iter()
                .map(|version| format!("/apis/{}/{version}", group.name)),
        );
    }
    for which in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{which}"));
        paths.extend(health::checks(which).into_iter().map(|name| format!("/{which}/{name}")));
    }
    paths.sort();
    paths
}

/// What a stored object takes besides its bytes, about.
const OBJECT_BYTES: u64 = 1100;

fn metrics(shared: &Shared) -> String {
    let stats = shared.store.stats();
    let mut out = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: u64| {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    };
    add(
        "apiserver_request_total",
        "counter",
        "Requests answered or being answered.",
        shared.requests.load(Ordering::Relaxed),
    );
    add(
        "coxswain_store_revision",
        "gauge",
        "Revision of the last write.",
        stats.revision,
    );
    add(
        "coxswain_store_objects",
        "gauge",
        "Stored objects.",
        stats.objects as u64,
    );
    add(
        "coxswain_store_bytes",
        "gauge",
        "Bytes of all stored objects.",
        stats.stored_bytes,
    );
    add(
        "coxswain_store_proposals_total",
        "counter",
        "Writes answered.",
        stats.proposals,
    );
    add(
        "coxswain_store_log_records_total",
        "counter",
        "Log records written, one fdatasync each.",
        stats.records,
    );
    add(
        "coxswain_store_log_bytes_total",
        "counter",
        "Bytes of log written.",
        stats.log_bytes,
    );
    add(
        "coxswain_store_events_dropped_total",
        "counter",
        "Watch events dropped by the history's bounds.",
        stats.events_dropped,
    );
    add(
        "coxswain_protobuf_kept_bytes",
        "gauge",
        "Protobuf forms kept with stored objects.",
        shared.forms.used() as u64,
    );
    add(
        "coxswain_audit_events_dropped_total",
        "counter",
        "Audit events dropped because the disk was slower than the requests.",
        shared.audit.as_ref().map_or(0, |audit| audit.dropped()),
    );
    let (open, ended) = shared.connections.counts();
    add(
        "coxswain_connections",
        "gauge",
        "Open connections of clients.",
        open as u64,
    );
    add(
        "coxswain_connections_ended_total",
        "counter",
        "Connections ended because their client was too slow or had too many.",
        ended,
    );
    add(
        "coxswain_request_body_bytes",
        "gauge",
        "Bytes of request bodies that are being received or worked on.",
        shared.connections.bodies.total() as u64,
    );
    add(
        "coxswain_response_bytes",
        "gauge",
        "Bytes of responses that clients have not taken yet.",
        shared.connections.responses.total() as u64,
    );
    let holders = shared.holders.read().unwrap_or_else(PoisonError::into_inner);
    let own = [
        ("objects", stats.stored_bytes + stats.objects as u64 * OBJECT_BYTES),
        ("history", stats.event_bytes as u64),
        ("snapshots", stats.snapshot_bytes),
        ("forms", shared.forms.used() as u64),
    ];
    out.push_str(
        "# HELP coxswain_memory_bytes Memory by who holds it, by estimate.\n# TYPE coxswain_memory_bytes gauge\n",
    );
    let others = holders.iter().map(|(holder, bytes)| (*holder, bytes()));
    for (holder, bytes) in own.into_iter().chain(others) {
        out.push_str(&format!("coxswain_memory_bytes{{holder=\"{holder}\"}} {bytes}\n"));
    }
    let mut by_task = |name: &str, help: &str, values: Vec<(String, u64)>| {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n"));
        for (task, value) in values {
            out.push_str(&format!("{name}{{task=\"{task}\"}} {value}\n"));
        }
    };
    let panics = coxswain_supervise::panics().into_iter().collect();
    by_task("coxswain_task_panics_total", "Panics that were caught.", panics);
    let restarts = shared
        .supervisor
        .tasks()
        .into_iter()
        .map(|(name, task)| (name, task.restarts));
    by_task(
        "coxswain_task_restarts_total",
        "Restarts of tasks that had ended.",
        restarts.collect(),
    );
    for row in shared.registry().stored() {
        let count = shared.store.snapshot().count(&row.storage, None);
        out.push_str(&format!(
            "apiserver_storage_objects{{resource=\"{}\"}} {count}\n",
            row.qualified()
        ));
    }
    out
}
