//! Writing Events: what happened to an object, for people who look at it later.
//!
//! Repeats of one event raise `count` and `lastTimestamp` of the same Event, so that `kubectl
//! describe` shows "(x5 over 2m)". From the tenth different message with one reason on, within ten
//! minutes, they become one Event that is repeated with the newest message. Each object may cause 25 events
//! at once and then one every five minutes.
//! Recording never blocks and never fails the caller: what does not fit is dropped and counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coxswain_supervise::catch;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::error::{Failure, failure};
use crate::transport::Client;

const WAITING_MAX: usize = 1_000;
const REMEMBERED_MAX: usize = 4_096;
const BURST: f64 = 25.0;
const REFILL_PER_S: f64 = 1.0 / 300.0;
const SIMILAR_MAX: u32 = 10;
const SIMILAR_WINDOW_S: i64 = 600;

/// The type of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something that is expected.
    Normal,
    /// Something that may need attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Records Events of one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    component: Arc<str>,
    host: Arc<str>,
    sender: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

struct Record {
    component: Arc<str>,
    host: Arc<str>,
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    /// Whether the event stands for many with different messages.
    combined: bool,
    at: Timestamp,
}

/// The reference to an object that its Events carry.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource,
    K::DynamicType: Default,
{
    let dynamic = K::DynamicType::default();
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&dynamic).into_owned()),
        kind: Some(K::kind(&dynamic).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// Starts a recorder; `host` is the node's name for node components and empty otherwise. It
    /// stops when its last clone is gone.
    pub fn new(client: &Client, component: &str, host: &str) -> Recorder {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write_all(client.clone(), receiver));
        Recorder {
            component: component.into(),
            host: host.into(),
            sender,
            dropped: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The same recorder under another component's name.
    pub fn named(&self, component: &str) -> Recorder {
        Recorder {
            component: component.into(),
            ..self.clone()
        }
    }

    /// Records one event.
    pub fn record(&self, about: ObjectReference, kind: EventType, reason: &str, message: &str) {
        let record = Record {
            component: self.component.clone(),
            host: self.host.clone(),
            about,
            kind,
            reason: reason.to_string(),
            message: truncate(message, 1024),
            combined: false,
            at: Timestamp::now(),
        };
        if self.sender.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records a Normal event about an object.
    pub fn normal<K>(&self, object: &K, reason: &str, message: &str)
    where
        K: Resource,
        K::DynamicType: Default,
    {
        self.record(reference(object), EventType::Normal, reason, message);
    }

    /// Records a Warning event about an object.
    pub fn warning<K>(&self, object: &K, reason: &str, message: &str)
    where
        K: Resource,
        K::DynamicType: Default,
    {
        self.record(reference(object), EventType::Warning, reason, message);
    }

    /// How many events were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn truncate(message: &str, bytes_max: usize) -> String {
    let mut end = message.len().min(bytes_max);
    while !message.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    message.get(..end).unwrap_or_default().to_string()
}

/// What makes two records repeats of one Event; without a message: of one that combines many.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    subject: String,
    field_path: Option<String>,
    kind: EventType,
    reason: String,
    component: Arc<str>,
    message: Option<String>,
}

/// What the writer remembers to fold repeats.
#[derive(Default)]
struct Memory {
    events: HashMap<Identity, Known>,
    buckets: HashMap<String, (f64, Timestamp)>,
    similar: HashMap<Identity, (u32, Timestamp)>,
}

struct Known {
    name: String,
    namespace: String,
    count: i32,
    last: Timestamp,
}

/// What to do with one record.
#[derive(Debug, PartialEq)]
enum Step {
    Drop,
    Repeat {
        namespace: String,
        name: String,
        count: i32,
    },
    Create,
}

impl Memory {
    fn plan(&mut self, record: &mut Record) -> Step {
        let subject = subject(&record.about);
        if !self.take_token(&subject, record.at) {
            return Step::Drop;
        }
        self.forget_old();
        self.fold_similar(record);
        let identity = identity(record);
        match self.events.get_mut(&identity) {
            Some(known) => {
                known.count = known.count.saturating_add(1);
                known.last = record.at;
                Step::Repeat {
                    namespace: known.namespace.clone(),
                    name: known.name.clone(),
                    count: known.count,
                }
            }
            None => Step::Create,
        }
    }

    fn take_token(&mut self, subject: &str, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(subject.to_string()).or_insert((BURST, now));
        let passed = now.duration_since(bucket.1).as_secs_f64().max(0.0);
        bucket.0 = (bucket.0 + passed * REFILL_PER_S).min(BURST);
        bucket.1 = now;
        if bucket.0 < 1.0 {
            return false;
        }
        bucket.0 -= 1.0;
        true
    }

    /// Turns a record into one that stands for many, when many like it have been.
    fn fold_similar(&mut self, record: &mut Record) {
        if self.events.contains_key(&identity(record)) {
            return;
        }
        let group = Identity {
            message: None,
            ..identity(record)
        };
        let seen = self.similar.entry(group).or_insert((0, record.at));
        if record.at.duration_since(seen.1) > SignedDuration::from_secs(SIMILAR_WINDOW_S) {
            seen.0 = 0;
        }
        *seen = (seen.0.saturating_add(1), record.at);
        if seen.0 >= SIMILAR_MAX {
            record.message = format!("(combined from similar events): {}", record.message);
            record.combined = true;
        }
    }

    fn forget_old(&mut self) {
        if self.events.len() >= REMEMBERED_MAX {
            let mut times: Vec<Timestamp> = self.events.values().map(|k| k.last).collect();
            times.sort_unstable();
            if let Some(middle) = times.get(times.len() / 2).copied() {
                self.events.retain(|_, known| known.last > middle);
            }
        }
        if self.buckets.len() >= REMEMBERED_MAX {
            self.buckets.clear();
        }
        if self.similar.len() >= REMEMBERED_MAX {
            self.similar.clear();
        }
    }
}

fn subject(about: &ObjectReference) -> String {
    match &about.uid {
        Some(uid) => uid.clone(),
        None => format!(
            "{}/{}/{}",
            about.kind.as_deref().unwrap_or_default(),
            about.namespace.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default()
        ),
    }
}

fn identity(record: &Record) -> Identity {
    Identity {
        subject: subject(&record.about),
        field_path: record.about.field_path.clone(),
        kind: record.kind,
        reason: record.reason.clone(),
        component: record.component.clone(),
        message: (!record.combined).then(|| record.message.clone()),
    }
}

async fn write_all(client: Client, mut receiver: mpsc::Receiver<Record>) {
    let mut memory = Memory::default();
    while let Some(mut record) = receiver.recv().await {
        let about = subject(&record.about);
        // What has panicked is counted and logged there; one event is lost, those after it are written.
        let _ = catch("client/events", &about, write(&client, &mut memory, &mut record)).await;
    }
}

async fn write(client: &Client, memory: &mut Memory, record: &mut Record) {
    match memory.plan(record) {
        Step::Drop => {}
        Step::Create => create(client, memory, record).await,
        Step::Repeat { namespace, name, count } => {
            let patch = json!({"count": count, "lastTimestamp": Time(record.at), "message": record.message});
            let result = client
                .namespaced::<Event>(&namespace)
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            match result {
                Ok(_) => {}
                Err(error) if failure(&error) == Failure::NotFound => {
                    memory.events.remove(&identity(record));
                    create(client, memory, record).await;
                }
                Err(error) => tracing::debug!("event not updated: {error}"),
            }
        }
    }
}

async fn create(client: &Client, memory: &mut Memory, record: &Record) {
    let event = event(record);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let result = client
        .namespaced::<Event>(&namespace)
        .create(&PostParams::default(), &event)
        .await;
    match result {
        Ok(_) => {
            let known = Known {
                name,
                namespace,
                count: 1,
                last: record.at,
            };
            memory.events.insert(identity(record), known);
        }
        Err(error) => tracing::debug!(reason = record.reason, "event not written: {error}"),
    }
}

fn event(record: &Record) -> Event {
    let about = &record.about;
    let namespace = about.namespace.clone().filter(|n| !n.is_empty());
    let nanos = record.at.as_nanosecond();
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{nanos:x}")),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_string())),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        type_: Some(record.kind.as_str().to_string()),
        count: Some(1),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        source: Some(EventSource {
            component: Some(record.component.to_string()),
            host: (!record.host.is_empty()).then(|| record.host.to_string()),
        }),
        reporting_component: Some(record.component.to_string()),
        reporting_instance: (!record.host.is_empty()).then(|| record.host.to_string()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, at_s: i64) -> Record {
        Record {
            component: "test".into(),
            host: "".into(),
            about: ObjectReference {
                uid: Some("u".into()),
                name: Some("n".into()),
                ..Default::default()
            },
            kind: EventType::Normal,
            reason: "Tested".into(),
            message: message.into(),
            combined: false,
            at: Timestamp::from_second(at_s).expect("a time"),
        }
    }

    /// Plans a record and remembers it as written, under a name made of its time.
    fn write(memory: &mut Memory, message: &str, at_s: i64) -> (Step, String) {
        let mut record = record(message, at_s);
        let step = memory.plan(&mut record);
        if step == Step::Create {
            let known = Known {
                name: format!("n.{at_s}"),
                namespace: "default".into(),
                count: 1,
                last: record.at,
            };
            memory.events.insert(identity(&record), known);
        }
        (step, record.message)
    }

    #[test]
    fn repeats_are_counted_and_similar_ones_combined() {
        let mut memory = Memory::default();
        let repeat = |name: &str, count| Step::Repeat {
            namespace: "default".into(),
            name: name.into(),
            count,
        };
        let combined = |message: &str| format!("(combined from similar events): {message}");
        for index in 0..9 {
            assert_eq!(write(&mut memory, &format!("m{index}"), index).0, Step::Create);
        }
        let cases = [
            ("m3", 20, repeat("n.3", 2), "m3".to_owned()),
            ("tenth", 21, Step::Create, combined("tenth")),
            ("eleventh", 22, repeat("n.21", 2), combined("eleventh")),
            ("m3", 23, repeat("n.3", 3), "m3".to_owned()),
            ("twelfth", 24, repeat("n.21", 3), combined("twelfth")),
            // After the window messages stand for themselves again.
            ("much later", 9_000, Step::Create, "much later".to_owned()),
        ];
        for (message, at_s, step, text) in cases {
            assert_eq!(write(&mut memory, message, at_s), (step, text), "{message} at {at_s}");
        }
    }

    #[test]
    fn one_object_cannot_flood() {
        let mut memory = Memory::default();
        let written = (0..100)
            .filter(|_| memory.plan(&mut record("m", 0)) != Step::Drop)
            .count();
        assert_eq!(written, 25);
        assert_ne!(memory.plan(&mut record("m", 301)), Step::Drop);
    }
}
