//! Sets of field paths, as trees, and their `FieldsV1` form.
//!
//! A path is a list of [`Element`]s. `FieldsV1` writes a tree as nested objects: `f:name` for a field,
//! `k:{...}` for an item of a keyed list, `v:...` for an item of a set, `i:N` for a position; an empty object
//! is a member, and a member that also has children holds `"."`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::schema::{Node, NodeKind};

/// One step of a path. The order is the order in which Kubernetes lists conflicts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of an object or a key of a map.
    Field(Arc<str>),
    /// An item of a keyed list: its key fields, sorted by name.
    Key(Vec<(Arc<str>, Scalar)>),
    /// An item of a set.
    Value(Scalar),
    /// A position in a list.
    Index(u32),
}

/// A scalar with a total order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    Int(i64),
    /// Any other number, in its JSON text.
    Number(String),
    Text(Arc<str>),
    Bool(bool),
    Null,
}

impl Scalar {
    /// The scalar of a JSON value; `None` for lists and objects.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Number(number.to_string()),
            },
            Value::String(text) => Self::Text(text.as_str().into()),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Int(whole) => (*whole).into(),
            Self::Number(text) => serde_json::from_str::<Number>(text).map_or(Value::Null, Value::Number),
            Self::Text(text) => Value::from(&**text),
            Self::Bool(flag) => (*flag).into(),
            Self::Null => Value::Null,
        }
    }
}

impl Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_value())
    }
}

impl Element {
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// The text of this element in `FieldsV1`.
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(position) => format!("i:{position}"),
            Self::Key(keys) => {
                let mut text = String::from("k:");
                for (position, (name, value)) in keys.iter().enumerate() {
                    text.push(if position == 0 { '{' } else { ',' });
                    text.push_str(&Value::from(&**name).to_string());
                    text.push(':');
                    text.push_str(&value.to_value().to_string());
                }
                text.push('}');
                text
            }
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::field(rest)),
            "v" => Scalar::of(&serde_json::from_str(rest).ok()?).map(Self::Value),
            "i" => rest.parse().ok().map(Self::Index),
            "k" => {
                let object: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                let keys: Option<Vec<_>> = object
                    .iter()
                    .map(|(name, value)| Some((name.as_str().into(), Scalar::of(value)?)))
                    .collect();
                keys.filter(|keys| !keys.is_empty()).map(Self::Key)
            }
            _ => None,
        }
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(position) => write!(f, "[{position}]"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (position, (name, value)) in keys.iter().enumerate() {
                    let comma = if position == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A set of paths. `members` are the paths of length one, `children` hold the rest; no child is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// These elements, each with what lies below it.
    pub fn of(found: Vec<(Element, Self)>) -> Self {
        let members = found.iter().map(|(element, _)| element.clone()).collect();
        let children = found.into_iter().filter(|(_, below)| !below.is_empty()).collect();
        Self { members, children }
    }

    /// Adds the path of one element.
    pub fn insert(&mut self, element: Element) {
        self.members.insert(element);
    }

    /// Puts all of `child` below `element`; an empty child changes nothing.
    pub fn attach(&mut self, element: Element, child: Self) {
        if child.is_empty() {
            return;
        }
        match self.children.get_mut(&element) {
            Some(existing) => *existing = std::mem::take(existing).union(child),
            None => {
                self.children.insert(element, child);
            }
        }
    }

    /// Adds the path made of these fields.
    pub fn insert_fields(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => self.insert(Element::field(last)),
            [first, rest @ ..] => {
                let mut child = Self::default();
                child.insert_fields(rest);
                self.attach(Element::field(first), child);
            }
        }
    }

    pub fn has(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    /// What lies below `element`.
    pub fn child(&self, element: &Element) -> Option<&Self> {
        self.children.get(element)
    }

    /// Whether the path made of these fields is a member.
    pub fn has_fields(&self, path: &[&str]) -> bool {
        match path {
            [] => false,
            [last] => self.has(&Element::field(last)),
            [first, rest @ ..] => self
                .child(&Element::field(first))
                .is_some_and(|child| child.has_fields(rest)),
        }
    }

    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        self.members.extend(other.members);
        for (element, child) in other.children {
            self.attach(element, child);
        }
        self
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        let mut children = BTreeMap::new();
        for (element, child) in &self.children {
            let common = other
                .children
                .get(element)
                .map(|theirs| child.intersection(theirs))
                .unwrap_or_default();
            if !common.is_empty() {
                children.insert(element.clone(), common);
            }
        }
        Self { members, children }
    }

    /// The paths of `self` that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let mut children = BTreeMap::new();
        for (element, child) in &self.children {
            let rest = match other.children.get(element) {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            };
            if !rest.is_empty() {
                children.insert(element.clone(), rest);
            }
        }
        Self { members, children }
    }

    /// Takes out the paths that are in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for element in &other.members {
            self.members.remove(element);
        }
        self.below(other, Self::subtract);
    }

    /// Takes out the paths that are in `other` or below a path of it.
    pub fn subtract_trees(&mut self, other: &Self) {
        for element in &other.members {
            self.members.remove(element);
            self.children.remove(element);
        }
        self.below(other, Self::subtract_trees);
    }

    fn below(&mut self, other: &Self, subtract: fn(&mut Self, &Self)) {
        for (element, theirs) in &other.children {
            if let Some(child) = self.children.get_mut(element) {
                subtract(child, theirs);
                if child.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// Adds every declared field on the way to a member as a member itself.
    #[must_use]
    pub fn with_named_fields(&self, node: Option<Node<'_>>) -> Self {
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (element, child) in &self.children {
            let below = match element {
                Element::Field(name) => {
                    if node.is_some_and(|node| is_declared(node, name)) {
                        members.insert(element.clone());
                    }
                    node.and_then(|node| node.field(name))
                }
                Element::Key(_) => node.and_then(|node| node.element()),
                Element::Value(_) | Element::Index(_) => None,
            };
            children.insert(element.clone(), child.with_named_fields(below));
        }
        Self { members, children }
    }

    /// Every path as Kubernetes prints it, members of a level before what lies deeper.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths(&mut String::new(), &mut found);
        found
    }

    fn collect_paths(&self, prefix: &mut String, found: &mut Vec<String>) {
        for element in &self.members {
            found.push(format!("{prefix}{element}"));
        }
        for (element, child) in &self.children {
            let length = prefix.len();
            // Writing to a String cannot fail.
            let _ = write!(prefix, "{element}");
            child.collect_paths(prefix, found);
            prefix.truncate(length);
        }
    }

    /// The `FieldsV1` form.
    pub fn encode(&self) -> Value {
        let leaf = || Value::Object(Map::new());
        let members = self.members.iter();
        let leaves = members.filter(|element| !self.children.contains_key(element));
        let leaves = leaves.map(|element| (element.encode(), leaf()));
        let parents = self.children.iter().map(|(element, child)| {
            let mut below = child.encode();
            if let (true, Some(map)) = (self.members.contains(element), below.as_object_mut()) {
                map.insert(".".into(), leaf());
            }
            (element.encode(), below)
        });
        // All at once: a map that is built from a list has no half-empty nodes.
        Value::Object(leaves.chain(parents).collect())
    }

    /// Reads the `FieldsV1` form; `None` when it is not one.
    pub fn decode(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (text, below) in fields.as_object()? {
            if text == "." {
                continue;
            }
            let element = Element::decode(text)?;
            let object = below.as_object()?;
            if object.is_empty() || object.contains_key(".") {
                set.insert(element.clone());
            }
            set.attach(element, Self::decode(below)?);
        }
        Some(set)
    }
}

/// Whether `name` is a declared field here (and not a free key of a map).
pub(super) fn is_declared(node: Node<'_>, name: &str) -> bool {
    node.kind() == NodeKind::Object && !matches!(node.field(name), None | Some(Node::Untyped))
}
