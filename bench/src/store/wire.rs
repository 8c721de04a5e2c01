//! The part of etcd's gRPC protocol that is measured, by field number.

use prost::bytes::Bytes;

/// Field numbers of `TxnRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Txn {
    /// All must hold.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Done when they do.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<Op>,
}

/// `Compare`: equality of a key's modification revision, 0 for a key that is not there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compare {
    /// 0 for equal.
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// 2 for the modification revision.
    #[prost(int32, tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// What it is to be; an alternative of a `oneof`, so that 0 is sent too.
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

/// `RequestOp` with a put.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// The put.
    #[prost(message, optional, tag = "2")]
    pub put: Option<Put>,
}

/// `PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `TxnResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnAnswer {
    /// Whether the comparisons held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}

/// `WatchRequest` that creates a watch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Watch {
    /// The watch.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreate>,
}

/// `WatchCreateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchCreate {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The key behind the last.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
}

/// `WatchResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchAnswer {
    /// Whether this tells that the watch was created.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// What happened.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// `Event`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// The key's new state.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// Path of the call that writes.
pub const TXN: &str = "/etcdserverpb.KV/Txn";
/// Path of the call that watches.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A write of a key that is not there yet.
#[must_use]
pub fn create(key: Bytes, value: Bytes) -> Txn {
    Txn {
        compare: vec![Compare {
            result: 0,
            target: 2,
            key: key.clone(),
            mod_revision: Some(0),
        }],
        success: vec![Op {
            put: Some(Put { key, value }),
        }],
    }
}
