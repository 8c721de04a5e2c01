//! Watches: a cursor into the store's history, written out as lines of JSON or frames of protobuf.
//!
//! A watcher holds no queue, and frames are made once for all watchers that want the same form. It begins with the
//! existing objects (unless told a revision), then follows its cursor; objects that enter or leave the selection show as
//! ADDED and DELETED. When the history has moved past a slow watcher it gets an ERROR event with code 410 and the end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coxswain_api::codec::{self, protobuf};
use coxswain_api::kinds::access;
use coxswain_api::{ApiError, AsStored, table};
use coxswain_consensus::{Cursor, Expired};
use coxswain_store::{Event, EventKind, Stored};
use coxswain_supervise::deadline;
use futures::stream;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::answer::{self, Reply};
use crate::call::Call;
use crate::negotiate::{Encoding, STREAMS, View};
use crate::options::{ListOptions, version_error};
use crate::select::Selector;
use crate::verbs::get::wait_for;

/// Pause between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Watches without a timeout end after one to two times this, spread so that they do not all
/// come back together.
const DEFAULT_TIMEOUT_S: u64 = 1800;
/// Size at which collected frames are sent, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Runs the verb.
pub(crate) async fn watch(call: Arc<Call>) -> Result<Reply, ApiError> {
    let options = ListOptions::from_call(&call)?;
    let selector = Selector::new(&call, &options)?;
    if call.form.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(STREAMS));
    }
    if call.form.view == View::PartialList {
        return Err(answer::wrong_view(&call));
    }
    if call.form.view == View::Table {
        answer::include_object(&call)?;
    }
    let start = start(&call, &options, &selector).await?;
    let seconds = options
        .timeout_s
        .unwrap_or_else(|| DEFAULT_TIMEOUT_S + rand::rng().random_range(0..DEFAULT_TIMEOUT_S));
    let end = deadline(Duration::from_secs(seconds));
    let media_type = match call.form.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        other => other.media_type(),
    };
    let as_stored = is_as_stored(&call);
    let mut watcher = Watcher {
        pieces: as_stored.then(VecDeque::new),
        columns_sent: false,
        bookmarks: options.bookmarks,
        deadline: Box::pin(sleep_until(end)),
        next_bookmark: Box::pin(sleep_until(deadline(BOOKMARK_EVERY))),
        stopping: Box::pin(call.server.stopping.clone().cancelled_owned()),
        selector,
        initial: Vec::new().into_iter(),
        initial_end: None,
        cursor: None,
        events: Vec::new().into_iter(),
        form: form(&call),
        single: None,
        frames: BytesMut::new(),
        done: false,
        call,
    };
    match start {
        Start::Failed(error) => watcher.end_with(&error),
        Start::Expired { asked, oldest } => watcher.fail(asked, oldest),
        Start::At {
            objects,
            cursor,
            initial_end,
        } => {
            watcher.initial = objects.into_iter();
            watcher.initial_end = initial_end;
            watcher.cursor = Some(cursor);
        }
    }
    let body = Body::from_stream(stream::unfold(watcher, |mut watcher| async move {
        let frames = watcher.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frames), watcher))
    }));
    let mut reply = answer::raw(200, media_type, body);
    if as_stored {
        reply.extensions_mut().insert(AsStored);
    }
    Ok(reply)
}

/// Whether objects go out as the store's own bytes.
fn is_as_stored(call: &Call) -> bool {
    let plain = call.form.view == View::Whole && call.form.encoding == Encoding::Json;
    call.form.as_stored && plain && !call.converted()
}

enum Start {
    Failed(ApiError),
    At {
        objects: Vec<Arc<Stored>>,
        cursor: Cursor,
        initial_end: Option<u64>,
    },
    Expired {
        asked: u64,
        oldest: u64,
    },
}

/// Finds the revision to watch from and the objects to begin with.
async fn start(call: &Call, options: &ListOptions, selector: &Selector) -> Result<Start, ApiError> {
    let asked = match options.version.as_str() {
        "" => None,
        text => Some(
            text.parse::<u64>()
                .map_err(|_| ApiError::new(500, "", version_error(text)))?,
        ),
    };
    let wants_state = options.initial_events.unwrap_or(asked.unwrap_or(0) == 0);
    if let (true, Some(revision)) = (wants_state, asked) {
        // A state that does not come is told in the stream.
        if let Err(error) = wait_for(call, revision).await {
            return Ok(Start::Failed(error));
        }
    }
    if !wants_state {
        let from = match asked {
            Some(revision) if revision > 0 => revision,
            _ => call.snapshot().revision(),
        };
        if from < call.server.first_revision() {
            return Ok(Start::Expired {
                asked: from,
                oldest: call.server.first_revision(),
            });
        }
        return Ok(match call.server.store.watch(&call.row.storage, from) {
            Ok(cursor) => Start::At {
                objects: Vec::new(),
                cursor,
                initial_end: None,
            },
            Err(compacted) => Start::Expired {
                asked: from,
                oldest: compacted.oldest,
            },
        });
    }
    let snapshot = call.snapshot();
    let cursor = call
        .server
        .store
        .watch(&call.row.storage, snapshot.revision())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let objects = selector.choose(call, &snapshot, None).cloned().collect();
    let initial_end = (options.initial_events == Some(true) && options.bookmarks).then(|| snapshot.revision());
    Ok(Start::At {
        objects,
        cursor,
        initial_end,
    })
}

/// What one event means to a watcher.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Added,
    Modified,
    /// It left the selection or the store.
    Deleted,
}

struct Watcher {
    call: Arc<Call>,
    selector: Selector,
    bookmarks: bool,
    // Made once: a thousand watchers that set alarms anew for every event are in each other's way.
    deadline: Pin<Box<Sleep>>,
    next_bookmark: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    initial: std::vec::IntoIter<Arc<Stored>>,
    initial_end: Option<u64>,
    cursor: Option<Cursor>,
    /// Events that were taken from the cursor and not written yet.
    events: std::vec::IntoIter<Arc<Event>>,
    /// What tells this watcher's frames from others' of the same event.
    form: Arc<str>,
    /// The one frame to send, or several behind each other in `frames`.
    single: Option<Bytes>,
    frames: BytesMut,
    /// What is sent piece by piece, when objects go out as they are stored.
    pieces: Option<VecDeque<Bytes>>,
    columns_sent: bool,
    done: bool,
}

impl Watcher {
    /// The next frames to send, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(pieces) = &mut self.pieces {
            if pieces.is_empty()
                && let Some(stored) = self.initial.next()
            {
                give(pieces, &Seen::Added, &stored);
            }
            if let Some(piece) = pieces.pop_front() {
                return Some(piece);
            }
        }
        while let Some(stored) = self.initial.next() {
            let Some(frame) = self.frame("ADDED", stored).await else {
                self.initial_end = None;
                break;
            };
            // Not through `push`, which wants all of the watcher.
            self.frames.extend_from_slice(&frame);
            if self.frames.len() >= CHUNK_BYTES {
                return Some(self.frames.split().freeze());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            self.bookmark(revision, true);
        }
        loop {
            while self.frames.len() < CHUNK_BYTES
                && let Some(event) = self.events.next()
            {
                self.event(&event).await;
                if let Some(piece) = self.pieces.as_mut().and_then(VecDeque::pop_front) {
                    return Some(piece);
                }
            }
            if let Some(single) = self.single.take() {
                return Some(single);
            }
            if !self.frames.is_empty() {
                return Some(self.frames.split().freeze());
            }
            if self.done {
                return None;
            }
            self.advance().await;
        }
    }

    /// Waits for events, the next bookmark or the end.
    async fn advance(&mut self) {
        let Some(cursor) = self.cursor.as_mut() else {
            self.done = true;
            return;
        };
        let step = tokio::select! {
            () = self.stopping.as_mut() => Step::End,
            () = self.deadline.as_mut() => Step::End,
            () = self.next_bookmark.as_mut(), if self.bookmarks => Step::Bookmark,
            events = cursor.next() => match events {
                Ok(events) => Step::Events(events),
                Err(Expired::Stopped) => Step::End,
                Err(expired) => Step::Lost(expired.to_string()),
            },
        };
        let revision = cursor.revision();
        match step {
            Step::Events(events) => self.events = events.into_iter(),
            Step::Bookmark => {
                self.next_bookmark.as_mut().reset(deadline(BOOKMARK_EVERY));
                self.bookmark(revision, false);
            }
            Step::End => {
                if self.bookmarks {
                    self.bookmark(revision, false);
                }
                self.done = true;
            }
            Step::Lost(why) => {
                tracing::debug!(resource = %self.call.row.plural, why, "watcher fell behind the history");
                self.fail(revision, self.call.snapshot().revision());
            }
        }
    }

    /// A frame, made beside the workers when the object is large and has to be decoded for it. `None` when there is no place
    /// for that: the watch ends then.
    async fn frame(&mut self, kind: &'static str, stored: Arc<Stored>) -> Option<Bytes> {
        if !self.call.decodes(&stored) {
            return Some(frame(&self.call, kind, &stored, &mut self.columns_sent));
        }
        let (call, mut sent) = (self.call.clone(), self.columns_sent);
        let make = move || Ok((frame(&call, kind, &stored, &mut sent), sent));
        match self.call.aside(1024, make).await {
            Ok((frame, sent)) => {
                self.columns_sent = sent;
                Some(frame)
            }
            Err(error) => {
                self.end_with(&error);
                None
            }
        }
    }

    async fn event(&mut self, event: &Event) {
        let before = event
            .previous
            .as_ref()
            .filter(|previous| self.selector.matches(previous));
        let now = event.kind != EventKind::Deleted && self.selector.matches(&event.object);
        let seen = match (before, now) {
            (None, true) => Seen::Added,
            (Some(_), true) => Seen::Modified,
            (Some(_), false) => Seen::Deleted,
            (None, false) => return,
        };
        let kind = match seen {
            Seen::Added => "ADDED",
            Seen::Modified => "MODIFIED",
            Seen::Deleted => "DELETED",
        };
        let left = before.filter(|_| seen == Seen::Deleted && event.kind != EventKind::Deleted);
        if let Some(pieces) = &mut self.pieces {
            match left {
                Some(before) => give(pieces, &seen, &before.at_revision(event.revision)),
                None => give(pieces, &seen, &event.object),
            }
            return;
        }
        if self.call.decodes(&event.object) {
            let shown = match left {
                Some(before) => Arc::new(before.at_revision(event.revision)),
                None => event.object.clone(),
            };
            if let Some(frame) = self.frame(kind, shown).await {
                self.push(frame);
            }
            return;
        }
        let (call, columns_sent) = (&self.call, &mut self.columns_sent);
        let frame = match (left, call.form.view) {
            (Some(before), _) => frame(call, kind, &before.at_revision(event.revision), columns_sent),
            // Rows tell ages, and the first brings the columns.
            (None, View::Table) => frame(call, kind, &event.object, columns_sent),
            (None, _) => {
                let make = || frame(call, kind, &event.object, columns_sent);
                event.frames.get(kind, &self.form, make)
            }
        };
        self.push(frame);
    }

    fn push(&mut self, frame: Bytes) {
        if self.frames.is_empty() && self.single.is_none() {
            self.single = Some(frame);
            return;
        }
        if let Some(first) = self.single.take() {
            self.frames.extend_from_slice(&first);
        }
        self.frames.extend_from_slice(&frame);
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            access::set(
                &mut metadata,
                "annotations",
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let call = &self.call;
        let object = json!({"kind": &*call.row.kind, "apiVersion": call.group_version(), "metadata": metadata});
        let object = match call.form.view {
            View::Partial => answer::partial(&object, call.form),
            View::Table => json!({
                "kind": "Table", "apiVersion": call.form.view_version(), "columnDefinitions": null,
                "metadata": {"resourceVersion": revision.to_string()},
                "rows": [{"cells": [], "object": answer::partial(&object, call.form)}],
            }),
            View::Whole | View::PartialList => object,
        };
        let frame = made_frame(call, "BOOKMARK", &object);
        self.push(frame);
    }

    /// Ends the watch with a 410.
    fn fail(&mut self, asked: u64, oldest: u64) {
        self.end_with(&ApiError::expired(format!(
            "too old resource version: {asked} ({oldest})"
        )));
    }

    /// Ends the watch with an error.
    fn end_with(&mut self, error: &ApiError) {
        let frame = made_frame(&self.call, "ERROR", &error.to_status());
        self.push(frame);
        self.done = true;
        self.cursor = None;
    }
}

/// One event in pieces, of which the object is the store's.
fn give(pieces: &mut VecDeque<Bytes>, seen: &Seen, stored: &Stored) {
    let begin: &'static [u8] = match seen {
        Seen::Added => b"{\"type\":\"ADDED\",\"object\":",
        Seen::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
        Seen::Deleted => b"{\"type\":\"DELETED\",\"object\":",
    };
    let end = Bytes::from_static(b"}\n");
    pieces.extend([Bytes::from_static(begin), stored.bytes.clone(), end]);
}

/// Equal for watchers whose frames of one event are equal.
fn form(call: &Call) -> Arc<str> {
    let Call { form, row, .. } = call;
    format!(
        "{:?} {:?} {} {} {}",
        form.encoding,
        form.view,
        form.view_version(),
        call.group_version(),
        row.kind
    )
    .into()
}

enum Step {
    Events(Vec<Arc<Event>>),
    Bookmark,
    End,
    Lost(String),
}

/// One event about an object that was made for it.
fn made_frame(call: &Call, kind: &str, object: &Value) -> Bytes {
    let body = match call.form.encoding {
        Encoding::Protobuf => codec::encode_protobuf(object),
        Encoding::Json | Encoding::Yaml => None,
    };
    match body {
        Some(body) => protobuf::watch_frame(kind, &body).into(),
        None => answer::line(&json!({"type": kind, "object": object})),
    }
}

/// One event about a stored object: a line of JSON or a frame of protobuf.
fn frame(call: &Call, kind: &str, stored: &Stored, columns_sent: &mut bool) -> Bytes {
    let object: Value = match call.form.view {
        View::Whole | View::PartialList if call.form.encoding == Encoding::Protobuf => {
            let body = protobuf::enclose(&call.group_version(), &call.row.kind, &call.message(stored));
            return protobuf::watch_frame(kind, &body).into();
        }
        View::Whole | View::PartialList => {
            let mut out = BytesMut::with_capacity(stored.bytes.len() + 96);
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            for piece in call.object_bytes(stored) {
                out.extend_from_slice(&piece);
            }
            out.extend_from_slice(b"}\n");
            return out.freeze();
        }
        View::Partial if call.form.encoding == Encoding::Protobuf => {
            let version = call.form.view_version();
            let body = protobuf::enclose(version, "PartialObjectMetadata", &call.partial_message(stored));
            return protobuf::watch_frame(kind, &body).into();
        }
        View::Partial => {
            let begin = format!("{{\"type\":\"{kind}\",\"object\":");
            return [begin.as_bytes(), &call.partial_bytes(stored), b"}\n"].concat().into();
        }
        View::Table => {
            let metadata = json!({"resourceVersion": stored.revision.to_string()});
            let include = answer::include_object(call).unwrap_or(table::IncludeObject::Metadata);
            let internal = call.internal(stored);
            let with_columns = !std::mem::replace(columns_sent, true);
            let rules = &*call.row.rules;
            let mut table = table::table(rules, metadata, [&internal], include, with_columns, answer::now());
            answer::set_versions(call, &mut table);
            table
        }
    };
    made_frame(call, kind, &object)
}
