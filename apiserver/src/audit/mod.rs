//! The audit trail: who asked for what, when, and what they were told.
//!
//! A [`Trail`] accompanies each request and ends as one line of JSON (an `audit.k8s.io/v1` Event) in a file.
//! The [`policy`] decides what is written: without one of its own, the server writes the metadata of every
//! request except reads by the cluster's own components, health checks and heartbeats. Bodies are written only
//! when a policy asks for them, and never those of Secrets and tokens. Writing happens in a thread of its own
//! behind a bounded queue ([`log`]); what does not fit is dropped and counted, no request waits.
//!
//! What refusals and unknown clients write has a rate ([`limiter`]), and everybody's lines have a share of the files:
//! no client pushes the others' records out. Texts that a client chooses have a length.

mod limiter;
mod log;
mod policy;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::User;
use crate::answer::Reply;
use crate::authn::ANONYMOUS;
use crate::authz::Attributes;
use limiter::{Limiter, Source, Summary};
use log::Log;
use policy::{Level, Policy, Verdict};

/// Longest body in bytes that goes into the trail.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Longest texts in bytes that clients choose. Kubernetes cuts user agents, with this mark.
const URI_BYTES_MAX: usize = 4096;
const AGENT_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 512;
const CUT: &str = "...TRUNCATED";
/// Most groups and extra attributes of a user, and values of each.
const LISTED_MAX: usize = 64;
/// Owner of the lines of all refused requests and unknown clients.
const REFUSED: &str = "\0refused";

/// Where the trail goes, and what it contains.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The file; older parts are beside it with a number.
    pub path: PathBuf,
    /// Text of an `audit.k8s.io/v1` Policy (YAML or JSON); none: the built-in one.
    pub policy: Option<String>,
}

/// The auditor of a server.
pub(crate) struct Audit {
    policy: Policy,
    /// Failed authentications are written whatever the path is.
    is_built_in: bool,
    log: Log,
    limiter: Arc<Mutex<Limiter>>,
    began: Instant,
}

/// An authentication that failed.
pub(crate) struct Failed<'a> {
    pub id: &'a str,
    pub uri: &'a str,
    pub agent: &'a str,
    pub source: Option<IpAddr>,
    pub attributes: &'a Attributes,
    pub code: u16,
    pub reason: &'a str,
    /// What was tried, and why it failed; no part of a credential.
    pub why: &'a str,
}

impl Audit {
    /// Opens the log.
    ///
    /// # Errors
    /// When the policy is wrong or the file cannot be written.
    pub fn open(config: &AuditConfig) -> Result<Self, String> {
        let policy = match &config.policy {
            Some(text) => Policy::parse(text).map_err(|why| format!("the audit policy: {why}"))?,
            None => Policy::built_in(),
        };
        let limiter = Arc::new(Mutex::new(Limiter::default()));
        let began = Instant::now();
        let counted = limiter.clone();
        let counts = Box::new(move |all: bool| {
            let mut limiter = counted.lock().unwrap_or_else(PoisonError::into_inner);
            let due = limiter.summaries(millis(began), all);
            due.iter().map(summary).collect()
        });
        let log = Log::open(&config.path, counts).map_err(|error| format!("{}: {error}", config.path.display()))?;
        Ok(Self {
            policy,
            is_built_in: config.policy.is_none(),
            log,
            limiter,
            began,
        })
    }

    /// Writes a line of a user or, when the request was refused or the client is unknown, as far as the rates allow.
    fn write(&self, user: Option<&str>, source: Option<IpAddr>, refused: bool, line: Vec<u8>) {
        if let (Some(user), false) = (user, refused) {
            return self.log.write(user.to_owned(), line);
        }
        let from = user.map_or_else(|| Source::of_address(source), |user| Source::User(user.to_owned()));
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = limiter.admits(from, millis(self.began));
        drop(limiter);
        if admitted {
            self.log.write(REFUSED.to_owned(), line);
        }
    }

    /// Writes that somebody could not be identified. The user is unknown.
    pub fn failed(&self, failed: &Failed<'_>) {
        let nobody = User::default();
        let level = self.policy.verdict(&nobody, failed.attributes).level;
        if level == Level::None && !self.is_built_in {
            return;
        }
        let now = Timestamp::now();
        let mut line = Vec::with_capacity(1024);
        line.extend_from_slice(br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1""#);
        add(&mut line, "level", Level::Metadata.name());
        add(&mut line, "auditID", failed.id);
        add(&mut line, "stage", "ResponseStarted");
        add(
            &mut line,
            "requestURI",
            &*cut(&without_secrets(failed.uri), URI_BYTES_MAX),
        );
        add(&mut line, "verb", &*cut(&failed.attributes.verb, NAME_BYTES_MAX));
        add(&mut line, "user", &json!({}));
        add(&mut line, "sourceIPs", &failed.source.as_slice());
        add(&mut line, "userAgent", &*cut(failed.agent, AGENT_BYTES_MAX));
        let message = format!("Authentication failed, {}", cut(failed.why, NAME_BYTES_MAX));
        let status = json!({"metadata": {}, "status": "Failure", "message": message,
            "reason": failed.reason, "code": failed.code});
        add(&mut line, "responseStatus", &status);
        add(&mut line, "requestReceivedTimestamp", &micros(now));
        add(&mut line, "stageTimestamp", &micros(now));
        line.extend_from_slice(b"}\n");
        self.write(None, failed.source, true, line);
    }

    /// Waits until everything that was noted is in the file.
    pub fn flush(&self) {
        self.log.flush();
    }

    /// Events that were dropped because the disk is slower than the requests.
    pub fn dropped(&self) -> u64 {
        self.log.dropped()
    }
}

/// One request on its way.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    received: Timestamp,
    id: String,
    verdict: Verdict,
    /// The name of the user, when the client was identified.
    user: Option<String>,
    source: Option<IpAddr>,
    refused: AtomicBool,
    /// What is known of the event, as members of a JSON object, each behind a comma.
    members: Mutex<Vec<u8>>,
}

/// What a trail begins with.
pub(crate) struct Beginning<'a> {
    pub id: &'a str,
    pub uri: &'a str,
    pub agent: &'a str,
    pub source: Option<IpAddr>,
    pub user: &'a User,
    /// Whom the user acts as.
    pub impersonated: Option<&'a User>,
    pub attributes: &'a Attributes,
    pub version: &'a str,
}

impl Trail {
    /// Begins the trail of a request; `None` when the policy does not want it.
    pub fn begin(audit: &Arc<Audit>, beginning: &Beginning<'_>) -> Option<Arc<Self>> {
        let Beginning { user, attributes, .. } = *beginning;
        let verdict = audit.policy.verdict(user, attributes);
        if verdict.level == Level::None {
            return None;
        }
        let mut members = Vec::with_capacity(1024);
        add(
            &mut members,
            "requestURI",
            &*cut(&without_secrets(beginning.uri), URI_BYTES_MAX),
        );
        add(&mut members, "verb", &*cut(&attributes.verb, NAME_BYTES_MAX));
        add(&mut members, "user", &Person::of(user));
        if let Some(other) = beginning.impersonated {
            add(&mut members, "impersonatedUser", &Person::of(other));
        }
        add(&mut members, "sourceIPs", &beginning.source.as_slice());
        add(&mut members, "userAgent", &*cut(beginning.agent, AGENT_BYTES_MAX));
        if attributes.is_resource {
            add(&mut members, "objectRef", &Reference::of(attributes, beginning.version));
        }
        let trail = Self {
            audit: audit.clone(),
            received: Timestamp::now(),
            id: beginning.id.to_owned(),
            verdict,
            user: (user.name != ANONYMOUS).then(|| user.name.clone()),
            source: beginning.source,
            refused: AtomicBool::new(false),
            members: Mutex::new(members),
        };
        trail.write("RequestReceived", trail.received);
        Some(Arc::new(trail))
    }

    /// Notes what authorisation said.
    pub fn decided(&self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        let reason = &*cut(reason, NAME_BYTES_MAX);
        let annotations = Annotations { decision, reason };
        self.set("annotations", &annotations);
    }

    /// Notes the request's body, when the policy wants it.
    pub fn request(&self, body: &Bytes) {
        if self.verdict.level >= Level::Request
            && let Some(object) = self.object(body)
        {
            self.set("requestObject", &object);
        }
    }

    /// Notes the answer and writes the event: at once for an ordinary answer, at its end for a stream.
    pub async fn answered(self: Arc<Self>, reply: Reply, streams: bool) -> Reply {
        let code = reply.status().as_u16();
        self.refused.store(matches!(code, 401 | 403 | 429), Ordering::Relaxed);
        self.set("responseStatus", &json!({"metadata": {}, "code": code}));
        let (head, body) = reply.into_parts();
        if streams {
            self.write("ResponseStarted", Timestamp::now());
            let body = Body::new(Ending { body, trail: self });
            return Reply::from_parts(head, body);
        }
        let wanted = self.verdict.level == Level::RequestResponse;
        let small = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= BODY_BYTES_MAX as u64);
        if !(wanted && small) {
            self.write("ResponseComplete", Timestamp::now());
            return Reply::from_parts(head, body);
        }
        let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
        if let Some(object) = self.object(&bytes) {
            self.set("responseObject", &object);
        }
        self.write("ResponseComplete", Timestamp::now());
        Reply::from_parts(head, Body::from(bytes))
    }

    /// Notes that the request ended in a panic.
    pub fn panicked(&self) {
        self.set("responseStatus", &json!({"metadata": {}, "code": 500}));
        self.write("Panic", Timestamp::now());
    }

    fn object(&self, body: &Bytes) -> Option<Value> {
        if body.is_empty() || body.len() > BODY_BYTES_MAX {
            return None;
        }
        let mut object: Value = serde_json::from_slice(body).ok()?;
        if self.verdict.omit_managed_fields
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("managedFields");
        }
        Some(object)
    }

    fn set(&self, field: &str, value: &impl Serialize) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut members, field, value);
    }

    fn write(&self, stage: &'static str, at: Timestamp) {
        if self.verdict.omit_stages.iter().any(|omitted| omitted == stage) {
            return;
        }
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = Vec::with_capacity(members.len() + 320);
        line.extend_from_slice(br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1""#);
        add(&mut line, "level", self.verdict.level.name());
        add(&mut line, "auditID", &self.id);
        add(&mut line, "stage", stage);
        add(&mut line, "requestReceivedTimestamp", &micros(self.received));
        add(&mut line, "stageTimestamp", &micros(at));
        line.extend_from_slice(&members);
        drop(members);
        line.extend_from_slice(b"}\n");
        let refused = self.refused.load(Ordering::Relaxed);
        self.audit.write(self.user.as_deref(), self.source, refused, line);
    }
}

/// Adds a member to the text of a JSON object that has some already.
fn add(members: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    members.extend_from_slice(b",\"");
    members.extend_from_slice(name.as_bytes());
    members.extend_from_slice(b"\":");
    // Texts, numbers and maps by text are written to memory: nothing of that can fail.
    let written = serde_json::to_writer(&mut *members, value);
    debug_assert!(written.is_ok());
}

/// A text of at most so many bytes, and a mark when it was longer.
fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}{CUT}", text.get(..end).unwrap_or_default()))
}

/// The line that says how many refused requests of a source were not written.
fn summary(summary: &Summary) -> Vec<u8> {
    let now = micros(Timestamp::now());
    let (user, sources) = match &summary.source {
        Source::User(name) => (json!({"username": cut(name, NAME_BYTES_MAX)}), json!([])),
        Source::Address(address) => (json!({"username": ANONYMOUS}), json!([address])),
        Source::Others => (json!({"username": ANONYMOUS}), json!([])),
    };
    let message = format!(
        "{} refused requests within {} s were not written one by one",
        summary.count,
        summary.for_ms.div_ceil(1000)
    );
    let event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": Level::Metadata.name(),
        "auditID": crate::answer::new_uid(), "stage": "ResponseComplete", "requestURI": "", "verb": "",
        "user": user, "sourceIPs": sources,
        "responseStatus": {"metadata": {}, "status": "Failure", "message": message},
        "requestReceivedTimestamp": now, "stageTimestamp": now,
        "annotations": {"audit.coxswain.io/requests-not-written": summary.count.to_string()},
    });
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: &'a str,
    #[serde(rename = "authorization.k8s.io/reason")]
    reason: &'a str,
}

#[derive(Serialize)]
struct Person<'a> {
    username: Cow<'a, str>,
    groups: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>,
}

impl<'a> Person<'a> {
    fn of(user: &'a User) -> Self {
        let short = |text: &'a String| cut(text, NAME_BYTES_MAX);
        let list = |texts: &'a [String]| texts.iter().take(LISTED_MAX).map(short).collect();
        Self {
            username: short(&user.name),
            groups: list(&user.groups),
            uid: short(&user.uid),
            extra: user
                .extra
                .iter()
                .take(LISTED_MAX)
                .map(|(key, values)| (short(key), list(values)))
                .collect(),
        }
    }
}

/// What a request is about; parts that it does not name are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: Cow<'a, str>,
}

impl<'a> Reference<'a> {
    fn of(attributes: &'a Attributes, version: &'a str) -> Self {
        let short = |text: &'a str| cut(text, NAME_BYTES_MAX);
        Self {
            resource: short(&attributes.resource),
            namespace: short(&attributes.namespace),
            name: short(&attributes.name),
            api_group: short(&attributes.group),
            api_version: short(version),
            subresource: short(&attributes.subresource),
        }
    }
}

/// The request's address without the values of parameters in which tokens travel.
fn without_secrets(uri: &str) -> String {
    const SECRET: [&str; 3] = ["token=", "access_token=", "password="];
    let Some((path, query)) = uri.split_once('?') else {
        return uri.to_owned();
    };
    let parts: Vec<String> = query
        .split('&')
        .map(|part| match SECRET.iter().find(|name| part.starts_with(**name)) {
            Some(name) => format!("{name}..."),
            None => part.to_owned(),
        })
        .collect();
    format!("{path}?{}", parts.join("&"))
}

/// A streamed answer that completes its trail when it ends, however it ends.
struct Ending {
    body: Body,
    trail: Arc<Trail>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.trail.write("ResponseComplete", Timestamp::now());
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_addresses_are_not_written() {
        for (uri, want) in [
            ("/api/v1/pods", "/api/v1/pods"),
            ("/x?limit=1&token=abc&a=b", "/x?limit=1&token=...&a=b"),
            ("/x?access_token=abc", "/x?access_token=..."),
        ] {
            assert_eq!(without_secrets(uri), want);
        }
    }

    #[tokio::test]
    async fn an_event_tells_who_what_and_how_it_ended() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n  omitStages: [RequestReceived]\n";
        let config = AuditConfig {
            path: path.clone(),
            policy: Some(policy.to_owned()),
        };
        let audit = Arc::new(Audit::open(&config).expect("a log"));
        let user = User {
            name: "ann".to_owned(),
            groups: vec!["team".to_owned()],
            ..User::default()
        };
        for (resource, body_is_written) in [("configmaps", true), ("secrets", false)] {
            let attributes = Attributes {
                verb: "create".to_owned(),
                is_resource: true,
                resource: resource.to_owned(),
                namespace: "default".to_owned(),
                ..Attributes::default()
            };
            let beginning = Beginning {
                id: "1",
                uri: "/api/v1/namespaces/default/x",
                agent: "test",
                source: Some([192, 0, 2, 1].into()),
                user: &user,
                impersonated: None,
                attributes: &attributes,
                version: "v1",
            };
            let trail = Trail::begin(&audit, &beginning).expect("a trail");
            trail.decided(true, "because");
            trail.request(&Bytes::from_static(b"{\"data\":{\"k\":\"hidden\"}}"));
            let reply = crate::answer::raw(201, "application/json", Body::from("{\"data\":{\"k\":\"hidden\"}}"));
            let reply = trail.answered(reply, false).await;
            let body = axum::body::to_bytes(reply.into_body(), 1 << 10).await.expect("a body");
            assert_eq!(&body[..], b"{\"data\":{\"k\":\"hidden\"}}");
            audit.flush();
            let text = std::fs::read_to_string(&path).expect("the log");
            let last = text.lines().last().expect("a line");
            assert_eq!(
                last.matches("hidden").count(),
                if body_is_written { 2 } else { 0 },
                "{last}"
            );
            let event: Value = serde_json::from_str(last).expect("an event");
            for (pointer, want) in [
                ("/stage", json!("ResponseComplete")),
                (
                    "/level",
                    json!(if body_is_written { "RequestResponse" } else { "Metadata" }),
                ),
                ("/user/username", json!("ann")),
                ("/sourceIPs/0", json!("192.0.2.1")),
                ("/objectRef/resource", json!(resource)),
                ("/responseStatus/code", json!(201)),
                ("/annotations/authorization.k8s.io~1decision", json!("allow")),
            ] {
                assert_eq!(event.pointer(pointer), Some(&want), "{pointer} {last}");
            }
        }
    }
}
