//! Sets of field paths, as trees, and their `FieldsV1` form.
//!
//! A path is a list of [`Element`]s. `FieldsV1` writes a tree as nested objects: `f:name` for a field,
//! `k:{...}` for an item of a keyed list, `v:...` for an item of a set, `i:N` for a position; an empty object
//! is a member, and a member that also has children holds `"."`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
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

/// A set of paths, as a tree: a node for each element that is a member, leads to members, or both. Sorted by element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Branch>);

/// An element at the beginning of paths. It is a member, or there is something below it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    element: Element,
    /// Whether the path of this element alone is in the set.
    member: bool,
    below: Set,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the path of one element.
    pub fn insert(&mut self, element: Element) {
        self.put(element, true, Self::default());
    }

    /// Puts all of `child` below `element`; an empty child changes nothing.
    pub fn attach(&mut self, element: Element, child: Self) {
        if !child.is_empty() {
            self.put(element, false, child);
        }
    }

    /// Both: the path of one element, when `member`, and all of `below` under it. Quick when elements come in order.
    pub fn put(&mut self, element: Element, member: bool, below: Self) {
        let branch = Branch { element, member, below };
        if self.0.last().is_none_or(|last| last.element < branch.element) {
            self.0.push(branch);
            return;
        }
        match self.find(&branch.element) {
            Ok(at) => self.0[at].join(branch),
            Err(at) => self.0.insert(at, branch),
        }
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.0.binary_search_by(|branch| branch.element.cmp(element))
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
        self.find(element).is_ok_and(|at| self.0[at].member)
    }

    /// What lies below `element`.
    pub fn child(&self, element: &Element) -> Option<&Self> {
        let found = self.find(element).ok().map(|at| &self.0[at].below);
        found.filter(|below| !below.is_empty())
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
        if other.is_empty() {
            return self;
        }
        let mut mine = std::mem::take(&mut self.0).into_iter().peekable();
        for theirs in other.0 {
            while let Some(earlier) = mine.next_if(|branch| branch.element < theirs.element) {
                self.0.push(earlier);
            }
            match mine.next_if(|branch| branch.element == theirs.element) {
                Some(mut both) => {
                    both.join(theirs);
                    self.0.push(both);
                }
                None => self.0.push(theirs),
            }
        }
        self.0.extend(mine);
        self
    }

    /// All of these sets together. Joined in pairs, so that many small ones do not each cost what the sum has become.
    #[must_use]
    pub fn union_all(mut sets: Vec<Self>) -> Self {
        while sets.len() > 1 {
            let mut joined = Vec::with_capacity(sets.len().div_ceil(2));
            let mut rest = sets.into_iter();
            while let Some(first) = rest.next() {
                joined.push(match rest.next() {
                    Some(second) => first.union(second),
                    None => first,
                });
            }
            sets = joined;
        }
        sets.pop().unwrap_or_default()
    }

    /// Costs what the smaller one has, not what both have: a write is compared with every manager's fields, of which there
    /// may be thousands with one field each.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (small, mut rest) = if self.0.len() <= other.0.len() {
            (self, &other.0[..])
        } else {
            (other, &self.0[..])
        };
        let mut found = Vec::new();
        for one in &small.0 {
            rest = from(rest, &one.element);
            let Some(other) = rest.first().filter(|other| other.element == one.element) else {
                continue;
            };
            let common = Branch {
                element: one.element.clone(),
                member: one.member && other.member,
                below: one.below.intersection(&other.below),
            };
            if common.counts() {
                found.push(common);
            }
        }
        Self(found)
    }

    /// The paths of `self` that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }

    /// Takes out the paths that are in `other`.
    pub fn subtract(&mut self, other: &Self) {
        let mut emptied = false;
        let mut lose = |mine: &mut Branch, theirs: &Branch| {
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            emptied |= !mine.counts();
        };
        // The smaller one is walked, the larger one searched.
        if self.0.len() <= other.0.len() {
            let mut rest = &other.0[..];
            for mine in &mut self.0 {
                rest = from(rest, &mine.element);
                if let Some(theirs) = rest.first().filter(|theirs| theirs.element == mine.element) {
                    lose(mine, theirs);
                }
            }
        } else {
            let mut at = 0;
            for theirs in &other.0 {
                let rest = self.0.get(at..).unwrap_or_default();
                at += rest.len() - from(rest, &theirs.element).len();
                if let Some(mine) = self.0.get_mut(at).filter(|mine| mine.element == theirs.element) {
                    lose(mine, theirs);
                }
            }
        }
        if emptied {
            self.0.retain(Branch::counts);
        }
    }

    /// Takes out what these paths of fields cover: they and what is below them. `*` stands for any element.
    pub fn without(&mut self, paths: &[&[&str]]) {
        self.0.retain_mut(|branch| {
            let (covered, below) = branch.follow(paths);
            if !below.is_empty() {
                branch.below.without(&below);
            }
            !covered && branch.counts()
        });
    }

    /// Takes out everything but what these paths cover or lead through.
    pub fn only(&mut self, paths: &[&[&str]]) {
        self.0.retain_mut(|branch| {
            let (covered, below) = branch.follow(paths);
            if !covered {
                branch.below.only(&below);
            }
            covered || !below.is_empty() && branch.counts()
        });
    }

    /// Adds every declared field on the way to a member as a member itself.
    #[must_use]
    pub fn with_named_fields(&self, node: Option<Node<'_>>) -> Self {
        let named = |branch: &Branch| {
            let Branch { element, member, below } = branch;
            let (declared, inner) = match element {
                Element::Field(name) => (
                    !below.is_empty() && node.is_some_and(|node| is_declared(node, name)),
                    node.and_then(|node| node.field(name)),
                ),
                Element::Key(_) => (false, node.and_then(|node| node.element())),
                Element::Value(_) | Element::Index(_) => (false, None),
            };
            Branch {
                element: element.clone(),
                member: *member || declared,
                below: below.with_named_fields(inner),
            }
        };
        Self(self.0.iter().map(named).collect())
    }

    /// Every path as Kubernetes prints it, members of a level before what lies deeper.
    pub fn paths(&self) -> Vec<String> {
        let mut left = usize::MAX;
        self.paths_within(&mut left)
    }

    /// The paths that `left` bytes are enough for; what they take is taken off.
    pub fn paths_within(&self, left: &mut usize) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths(&mut String::new(), left, &mut found);
        found
    }

    fn collect_paths(&self, prefix: &mut String, left: &mut usize, found: &mut Vec<String>) {
        for branch in self.0.iter().filter(|branch| branch.member) {
            if *left == 0 {
                return;
            }
            let path = format!("{prefix}{}", branch.element);
            *left = left.saturating_sub(path.len());
            found.push(path);
        }
        for branch in self.0.iter().filter(|branch| !branch.below.is_empty()) {
            if *left == 0 {
                return;
            }
            let length = prefix.len();
            // Writing to a String cannot fail.
            let _ = write!(prefix, "{}", branch.element);
            branch.below.collect_paths(prefix, left, found);
            prefix.truncate(length);
        }
    }

    /// How many paths there are.
    pub fn count(&self) -> usize {
        let branches = self.0.iter();
        branches
            .map(|branch| usize::from(branch.member) + branch.below.count())
            .sum()
    }

    /// The `FieldsV1` form.
    pub fn encode(&self) -> Value {
        self.encode_under(false)
    }

    /// The form of what lies below an element that is a `member` as well, or not.
    fn encode_under(&self, member: bool) -> Value {
        let itself = (member && !self.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
        let branches = self.0.iter();
        let branches = branches.map(|branch| (branch.element.encode(), branch.below.encode_under(branch.member)));
        // All at once: a map that is built from a list has no half-empty nodes.
        Value::Object(itself.into_iter().chain(branches).collect())
    }

    /// Reads the `FieldsV1` form; `None` when it is not one.
    pub fn decode(fields: &Value) -> Option<Self> {
        let mut branches = Vec::new();
        for (text, below) in fields.as_object()? {
            if text == "." {
                continue;
            }
            let element = Element::decode(text)?;
            let object = below.as_object()?;
            let member = object.is_empty() || object.contains_key(".");
            let below = Self::decode(below)?;
            if member || !below.is_empty() {
                branches.push(Branch { element, member, below });
            }
        }
        // Keys and values are not in the order of their texts, and one element may have several texts.
        branches.sort_by(|left, right| left.element.cmp(&right.element));
        branches.dedup_by(|later, earlier| {
            let same = later.element == earlier.element;
            if same {
                earlier.member |= later.member;
                earlier.below = std::mem::take(&mut earlier.below).union(std::mem::take(&mut later.below));
            }
            same
        });
        Some(Self(branches))
    }
}

/// What of sorted branches does not come before `element`, found by steps that double: quick when it is near, and never
/// slower than a search in the whole.
fn from<'b>(branches: &'b [Branch], element: &Element) -> &'b [Branch] {
    let before = |at: usize| {
        branches
            .get(at)
            .is_some_and(|branch| branch.element.cmp(element) == Ordering::Less)
    };
    let (mut known, mut step) = (0, 1);
    while before(known + step - 1) {
        known += step;
        step *= 2;
    }
    let end = (known + step).min(branches.len());
    let near = branches.get(known..end).unwrap_or_default();
    let skipped = known + near.partition_point(|branch| branch.element < *element);
    branches.get(skipped..).unwrap_or_default()
}

impl Branch {
    /// Whether there is still something in it.
    fn counts(&self) -> bool {
        self.member || !self.below.is_empty()
    }

    /// Whether one of the paths ends here, and what is left of those that go on.
    fn follow<'p>(&self, paths: &[&'p [&'p str]]) -> (bool, Vec<&'p [&'p str]>) {
        let leads = |first: &str| first == "*" || matches!(&self.element, Element::Field(name) if **name == *first);
        let rests = paths.iter().filter_map(|path| path.split_first());
        let rests = rests.filter(|(first, _)| leads(first)).map(|(_, rest)| rest);
        let (ends, goes_on): (Vec<_>, Vec<_>) = rests.partition(|rest| rest.is_empty());
        (!ends.is_empty(), goes_on)
    }

    /// Adds what begins with the same element.
    fn join(&mut self, other: Self) {
        self.member |= other.member;
        self.below = std::mem::take(&mut self.below).union(other.below);
    }
}

/// Whether `name` is a declared field here (and not a free key of a map).
pub(super) fn is_declared(node: Node<'_>, name: &str) -> bool {
    node.kind() == NodeKind::Object && !matches!(node.field(name), None | Some(Node::Untyped))
}
