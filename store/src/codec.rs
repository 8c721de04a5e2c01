//! The binary form of transactions (in the log) and of objects (in checkpoints).
//!
//! Numbers are LEB128, strings and bytes carry their length first. Every length is checked against
//! what is left of the input, so a damaged or hostile input gives an error, never a panic or a
//! large allocation. A leading version byte lets a later version refuse what it doesn't know.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Draft, Head, Key, Op, Precondition, Stored, Txn};

/// Version of the transaction encoding that this build writes.
pub const TXN_VERSION: u8 = 1;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer build wrote this.
    #[error("it was written by a newer version (encoding {0}, known is {TXN_VERSION})")]
    Version(u8),
    /// The input ends too early or says something impossible.
    #[error("it is not a valid record")]
    Malformed,
}

/// Appends the encoding of a transaction.
pub fn encode_txn(txn: &Txn, out: &mut Vec<u8>) {
    out.push(TXN_VERSION);
    put_number(out, txn.ops.len() as u64);
    for op in &txn.ops {
        match op {
            Op::Put { draft, when } => {
                out.push(1);
                put_key(out, &draft.key);
                put_when(out, *when);
                put_number(out, draft.rv_at as u64);
                put_head(out, &draft.head);
                put_bytes(out, &draft.body);
            }
            Op::Delete { key, when } => {
                out.push(2);
                put_key(out, key);
                put_when(out, *when);
            }
        }
    }
}

/// Upper bound of the encoded size of a transaction, in bytes, for reserving.
pub fn txn_size_hint(txn: &Txn) -> usize {
    let op_size = |op: &Op| match op {
        Op::Put { draft, .. } => {
            let pairs = |list: &[(String, String)]| -> usize { list.iter().map(|(k, v)| 6 + k.len() + v.len()).sum() };
            let owners: usize = draft.head.owners.iter().map(|uid| 3 + uid.len()).sum();
            draft.body.len()
                + pairs(&draft.head.labels)
                + pairs(&draft.head.fields)
                + owners
                + draft.head.uid.len()
                + 64
        }
        Op::Delete { .. } => 32,
    };
    let size: usize = txn
        .ops
        .iter()
        .map(|op| {
            let key = op.key();
            op_size(op) + key.resource.len() + key.namespace.len() + key.name.len()
        })
        .sum();
    size + 16
}

/// Decodes one transaction, which must fill the input.
pub fn decode_txn(input: &[u8]) -> Result<Txn, DecodeError> {
    let mut reader = Reader { rest: input };
    let version = reader.byte()?;
    if version != TXN_VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = reader.length()?;
    let mut ops = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        ops.push(reader.op()?);
    }
    if !reader.rest.is_empty() {
        return Err(DecodeError::Malformed);
    }
    Ok(Txn { ops })
}

/// Appends the encoding of a stored object.
pub fn encode_object(object: &Stored, out: &mut Vec<u8>) {
    put_key(out, &object.key);
    put_number(out, object.revision);
    put_number(out, u64::from(object.rv_at()));
    put_head(out, &object.head);
    let (before, after) = object.split();
    put_number(out, (before.len() + after.len()) as u64);
    out.extend_from_slice(before);
    out.extend_from_slice(after);
}

/// Decodes the objects that fill `input`, in order.
pub fn decode_objects(input: &[u8], mut each: impl FnMut(Stored)) -> Result<(), DecodeError> {
    let mut reader = Reader { rest: input };
    while !reader.rest.is_empty() {
        let key = reader.key()?;
        let revision = reader.number()?;
        let rv_at = reader.number()? as usize;
        let head = reader.head()?;
        let body = reader.bytes()?;
        if rv_at > body.len() {
            return Err(DecodeError::Malformed);
        }
        let draft = Draft {
            key,
            body: Bytes::copy_from_slice(body),
            rv_at,
            head,
        };
        each(Stored::from_draft(draft, revision));
    }
    Ok(())
}

/// Appends a number in LEB128.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number in LEB128 from the front of `input`.
pub fn take_number(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_key(out: &mut Vec<u8>, key: &Key) {
    put_bytes(out, key.resource.as_bytes());
    put_bytes(out, key.namespace.as_bytes());
    put_bytes(out, key.name.as_bytes());
}

fn put_when(out: &mut Vec<u8>, when: Precondition) {
    match when {
        Precondition::None => out.push(0),
        Precondition::Absent => out.push(1),
        Precondition::Exists => out.push(2),
        Precondition::Revision(revision) => {
            out.push(3);
            put_number(out, revision);
        }
    }
}

fn put_head(out: &mut Vec<u8>, head: &Head) {
    put_bytes(out, head.uid.as_bytes());
    for list in [&head.labels, &head.fields] {
        put_number(out, list.len() as u64);
        for (name, value) in list {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
    put_number(out, head.owners.len() as u64);
    for owner in &head.owners {
        put_bytes(out, owner.as_bytes());
    }
    put_number(out, u64::from(head.finalizers));
    out.push(u8::from(head.deleting));
    // Zigzag, so that small negative numbers stay small.
    put_number(out, ((head.generation << 1) ^ (head.generation >> 63)) as u64);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Malformed)?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        take_number(&mut self.rest).ok_or(DecodeError::Malformed)
    }

    /// A count or size, which can't be more than the bytes that are left.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let number = self.number()?;
        match usize::try_from(number) {
            Ok(length) if length <= self.rest.len() => Ok(length),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Malformed)
    }

    fn key(&mut self) -> Result<Key, DecodeError> {
        let resource: Arc<str> = self.text()?.into();
        let namespace: Arc<str> = self.text()?.into();
        let name: Arc<str> = self.text()?.into();
        Ok(Key {
            resource,
            namespace,
            name,
        })
    }

    fn when(&mut self) -> Result<Precondition, DecodeError> {
        match self.byte()? {
            0 => Ok(Precondition::None),
            1 => Ok(Precondition::Absent),
            2 => Ok(Precondition::Exists),
            3 => Ok(Precondition::Revision(self.number()?)),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn pairs(&mut self) -> Result<Vec<(String, String)>, DecodeError> {
        let count = self.length()?;
        let mut pairs = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            pairs.push((self.text()?.to_owned(), self.text()?.to_owned()));
        }
        Ok(pairs)
    }

    fn head(&mut self) -> Result<Head, DecodeError> {
        let uid = self.text()?.to_owned();
        let labels = self.pairs()?;
        let fields = self.pairs()?;
        let count = self.length()?;
        let mut owners = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            owners.push(self.text()?.to_owned());
        }
        let finalizers = u32::try_from(self.number()?).map_err(|_| DecodeError::Malformed)?;
        let deleting = self.byte()? != 0;
        let zigzag = self.number()?;
        let generation = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        Ok(Head {
            uid,
            labels,
            fields,
            owners,
            finalizers,
            deleting,
            generation,
        })
    }

    fn op(&mut self) -> Result<Op, DecodeError> {
        match self.byte()? {
            1 => {
                let key = self.key()?;
                let when = self.when()?;
                let rv_at = self.number()? as usize;
                let head = self.head()?;
                let body = Bytes::copy_from_slice(self.bytes()?);
                if rv_at > body.len() {
                    return Err(DecodeError::Malformed);
                }
                let draft = Draft { key, body, rv_at, head };
                Ok(Op::Put { draft, when })
            }
            2 => {
                let key = self.key()?;
                let when = self.when()?;
                Ok(Op::Delete { key, when })
            }
            _ => Err(DecodeError::Malformed),
        }
    }
}
