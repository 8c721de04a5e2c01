//! The whole rule set and the way from one to the next: pure.
//!
//! Owners (Services, pods with host ports) each bring a [`Fragment`]. Two owners may claim the same
//! element (an external address, a port): the first in order has it, the other one gets it when
//! the first lets go. A change touches only the elements and chains of the owners that changed.
//!
//! The text it gives out is for `nft -f`, which makes one atomic transaction of it.

use super::super::addresses::Addresses;
use super::plan::{Element, Fragment, Table, UdpPath};
use coxswain_client::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The nftables table, always of the `ip` family until IPv6 comes.
pub const TABLE: &str = "ip coxswain";
/// Elements of one `add element` command.
const ELEMENTS_PER_COMMAND: usize = 256;

/// Who asked for rules. Services win over host ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Service(ObjectKey),
    Pod(ObjectKey),
}

/// Everything that should be in the kernel.
#[derive(Debug, Default)]
pub struct Ruleset {
    fragments: BTreeMap<Owner, Fragment>,
    claims: BTreeMap<Element, BTreeMap<Owner, String>>,
}

/// The way from one rule set to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Commands for `nft -f -`; empty when nothing changes.
    pub script: String,
    /// UDP paths that are gone.
    pub gone: Vec<UdpPath>,
}

impl Ruleset {
    /// Replaces what these owners want, and says how to bring the kernel along.
    pub fn replace(&mut self, changes: BTreeMap<Owner, Fragment>) -> Transaction {
        let mut before: BTreeMap<Element, Option<String>> = BTreeMap::new();
        let mut steps = Steps::default();
        let mut gone: BTreeSet<UdpPath> = BTreeSet::new();
        for (owner, new) in changes {
            let old = self.fragments.remove(&owner).unwrap_or_default();
            if old == new {
                self.keep(owner, new);
                continue;
            }
            for element in old.elements.keys().chain(new.elements.keys()) {
                before.entry(element.clone()).or_insert_with(|| self.winner(element));
            }
            for element in old.elements.keys() {
                if let Some(claims) = self.claims.get_mut(element) {
                    claims.remove(&owner);
                    if claims.is_empty() {
                        self.claims.remove(element);
                    }
                }
            }
            for (element, verdict) in &new.elements {
                let claims = self.claims.entry(element.clone()).or_default();
                claims.insert(owner.clone(), verdict.clone());
            }
            steps.chains(&old, &new);
            gone.extend(old.udp.difference(&new.udp).cloned());
            self.keep(owner, new);
        }
        for (element, old) in before {
            steps.element(&element, old, self.winner(&element));
        }
        Transaction {
            script: steps.script(),
            gone: gone.into_iter().collect(),
        }
    }

    /// Commands that replace the whole table, whatever it held.
    pub fn full(&self, node: &Addresses) -> String {
        let mut steps = Steps::default();
        for fragment in self.fragments.values() {
            steps.chains(&Fragment::default(), fragment);
        }
        for element in self.claims.keys() {
            steps.element(element, None, self.winner(element));
        }
        base(node) + &steps.script()
    }

    /// How many owners have rules.
    pub fn len(&self) -> usize {
        self.fragments.len()
    }

    fn keep(&mut self, owner: Owner, fragment: Fragment) {
        if fragment != Fragment::default() {
            self.fragments.insert(owner, fragment);
        }
    }

    fn winner(&self, element: &Element) -> Option<String> {
        self.claims.get(element)?.values().next().cloned()
    }
}

/// What to do, by kind, so that the order of the commands is always a legal one.
#[derive(Default)]
struct Steps {
    sets_new: BTreeMap<String, String>,
    sets_gone: BTreeSet<String>,
    chains_new: BTreeSet<String>,
    chains_flushed: BTreeSet<String>,
    chains_gone: BTreeSet<String>,
    rules: BTreeMap<String, Vec<String>>,
    elements_gone: BTreeMap<Table, Vec<String>>,
    elements_new: BTreeMap<Table, Vec<String>>,
}

impl Steps {
    fn chains(&mut self, old: &Fragment, new: &Fragment) {
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(same) if same == rules => continue,
                Some(_) => self.chains_flushed.insert(name.clone()),
                None => self.chains_new.insert(name.clone()),
            };
            self.rules.insert(name.clone(), rules.clone());
        }
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            self.chains_flushed.insert(name.clone());
            self.chains_gone.insert(name.clone());
        }
        for (name, definition) in &new.sets {
            if !old.sets.contains_key(name) {
                self.sets_new.insert(name.clone(), definition.clone());
            }
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            self.sets_gone.insert(name.clone());
        }
    }

    fn element(&mut self, element: &Element, old: Option<String>, new: Option<String>) {
        if old == new {
            return;
        }
        let text = |verdict: &str| match verdict {
            "" => element.key.clone(),
            verdict => format!("{} : {verdict}", element.key),
        };
        if let Some(old) = old {
            self.elements_gone.entry(element.table).or_default().push(text(&old));
        }
        if let Some(new) = new {
            self.elements_new.entry(element.table).or_default().push(text(&new));
        }
    }

    fn script(&self) -> String {
        let mut out = String::new();
        for (name, definition) in &self.sets_new {
            let _ = writeln!(out, "add set {TABLE} {name} {{ {definition} }}");
        }
        for name in &self.chains_new {
            let _ = writeln!(out, "add chain {TABLE} {name}");
        }
        elements(&mut out, "delete", &self.elements_gone);
        for name in &self.chains_flushed {
            let _ = writeln!(out, "flush chain {TABLE} {name}");
        }
        for (name, rules) in &self.rules {
            for rule in rules {
                let _ = writeln!(out, "add rule {TABLE} {name} {rule}");
            }
        }
        elements(&mut out, "add", &self.elements_new);
        for name in &self.chains_gone {
            let _ = writeln!(out, "delete chain {TABLE} {name}");
        }
        for name in &self.sets_gone {
            let _ = writeln!(out, "delete set {TABLE} {name}");
        }
        out
    }
}

fn elements(out: &mut String, verb: &str, tables: &BTreeMap<Table, Vec<String>>) {
    for (table, elements) in tables {
        for part in elements.chunks(ELEMENTS_PER_COMMAND) {
            let _ = writeln!(
                out,
                "{verb} element {TABLE} {} {{ {} }}",
                name_of(*table),
                part.join(", ")
            );
        }
    }
}

fn name_of(table: Table) -> &'static str {
    match table {
        Table::Services => "services",
        Table::NodePorts => "node_ports",
        Table::Refused => "refused",
        Table::RefusedPorts => "refused_ports",
        Table::Hairpin => "hairpin",
    }
}

/// The part that does not depend on Services: hooks, shared maps, masquerading.
///
/// Node ports also work on the loopback addresses: those packets leave for a pod, so the kernel is
/// told to route them (`route_localnet`) and nothing from outside may use that.
fn base(node: &Addresses) -> String {
    let Addresses {
        pods,
        cluster,
        services,
        dns,
        ..
    } = node;
    let by_address = "{ type ipv4_addr . inet_proto . inet_service : verdict; }";
    let by_port = "{ type inet_proto . inet_service : verdict; }";
    let lines = [
        // `add` first: deleting what does not exist is an error.
        format!("add table {TABLE}"),
        format!("delete table {TABLE}"),
        format!("add table {TABLE}"),
        format!("add map {TABLE} services {by_address}"),
        format!("add map {TABLE} node_ports {by_port}"),
        format!("add map {TABLE} refused {by_address}"),
        format!("add map {TABLE} refused_ports {by_port}"),
        format!("add set {TABLE} hairpin {{ type ipv4_addr . ipv4_addr; }}"),
        format!("add chain {TABLE} to_masquerade"),
        format!("add rule {TABLE} to_masquerade meta mark set meta mark or 0x4000"),
        format!("add chain {TABLE} refuse"),
        format!("add rule {TABLE} refuse reject"),
        format!("add chain {TABLE} dispatch"),
        format!("add rule {TABLE} dispatch ip daddr . meta l4proto . th dport vmap @services"),
        format!("add rule {TABLE} dispatch fib daddr type local meta l4proto . th dport vmap @node_ports"),
        format!("add chain {TABLE} prerouting {{ type nat hook prerouting priority -100; }}"),
        format!("add rule {TABLE} prerouting jump dispatch"),
        format!("add chain {TABLE} output {{ type nat hook output priority -100; }}"),
        format!("add rule {TABLE} output jump dispatch"),
        format!("add chain {TABLE} postrouting {{ type nat hook postrouting priority 100; }}"),
        format!(
            "add rule {TABLE} postrouting meta mark and 0x4000 != 0 \
             meta mark set meta mark xor 0x4000 masquerade fully-random"
        ),
        format!("add rule {TABLE} postrouting ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random"),
        format!(
            "add rule {TABLE} postrouting ip saddr {pods} ip daddr != {cluster} \
             fib daddr type != local masquerade fully-random"
        ),
        format!("add chain {TABLE} check"),
        format!("add rule {TABLE} check ip daddr . meta l4proto . th dport vmap @refused"),
        format!("add rule {TABLE} check fib daddr type local meta l4proto . th dport vmap @refused_ports"),
        format!("add rule {TABLE} check ip daddr {services} ip daddr != {dns} goto refuse"),
        format!("add chain {TABLE} check_forward {{ type filter hook forward priority -1; }}"),
        format!("add rule {TABLE} check_forward ct state new jump check"),
        format!("add chain {TABLE} check_input {{ type filter hook input priority -1; }}"),
        format!("add rule {TABLE} check_input ct state new jump check"),
        format!("add chain {TABLE} check_output {{ type filter hook output priority -1; }}"),
        format!("add rule {TABLE} check_output ct state new jump check"),
        format!("add chain {TABLE} martians {{ type filter hook prerouting priority -300; }}"),
        format!("add rule {TABLE} martians iifname != \"lo\" ip daddr 127.0.0.0/8 drop"),
    ];
    let mut out = lines.join("\n");
    out.push('\n');
    out
}
