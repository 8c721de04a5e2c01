//! Aggregated ClusterRoles: the rules of a role with an `aggregationRule` are those of the roles
//! its selectors match, in order of their names, each once.
//!
//! Watches and writes ClusterRoles. Does not: grant anything (bindings do).

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use coxswain_client::{Cache, Next, ObjectKey, Queue, revision_of};
use serde_json::json;

use crate::context::{CATCH_UP, Context};
use crate::error::ControllerError;
use crate::{labels, single, writes};

struct Aggregation {
    context: Context,
    roles: Cache<ClusterRole>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Aggregation {
        roles: context.caches.of(),
        context: context.clone(),
    });
    controller.roles.synced().await;
    let queue = Queue::new();
    let roles = controller.roles.clone();
    let wake = single::wake(&roles, &queue, |change| {
        let mut keys = vec![change.key.clone()];
        let all = roles.list();
        let aggregated = all.iter().filter(|role| {
            [&change.old, &change.new]
                .into_iter()
                .flatten()
                .any(|part| selects(role, part))
        });
        keys.extend(aggregated.map(|role| ObjectKey::of(&role.metadata)));
        keys
    });
    let work = single::reconcile("aggregation", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(wake, work);
}

fn selects(role: &ClusterRole, part: &ClusterRole) -> bool {
    let rule = role.aggregation_rule.as_ref();
    let selectors = rule.and_then(|r| r.cluster_role_selectors.as_ref());
    let selectors = selectors.into_iter().flatten();
    role.metadata.name != part.metadata.name
        && selectors
            .into_iter()
            .any(|s| labels::matches(s, part.metadata.labels.as_ref()))
}

/// The rules the role should have; `None` when it has them.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in all.iter().filter(|part| selects(role, part)) {
        for rule in part.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.clone().unwrap_or_default() != rules).then_some(rules)
}

impl Aggregation {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(role) = self.roles.by_key(key) else {
            return Ok(Next::Done);
        };
        let Some(rules) = plan(&role, &self.roles.list()) else {
            return Ok(Next::Done);
        };
        let api = self.context.client.api::<ClusterRole>();
        match writes::patch(&api, &role.metadata, json!({"rules": rules})).await? {
            Some(written) => {
                self.roles.caught_up(revision_of(&written.metadata), CATCH_UP).await;
                Ok(Next::Done)
            }
            None => Ok(Next::Again),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: Option<&str>, verbs: &[&str], aggregates: bool) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs.iter().map(|v| json!({"verbs": [v]})).collect();
        let rule = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]});
        let value = json!({
            "metadata": {"name": name, "labels": label.map(|l| json!({"to": l}))}, "rules": rules,
            "aggregationRule": aggregates.then_some(rule)});
        Arc::new(serde_json::from_value(value).expect("a role"))
    }

    #[test]
    fn collects_each_rule_once() {
        let sum = role("sum", Some("x"), &["old"], true);
        let parts = [
            role("a", Some("x"), &["get", "list"], false),
            role("b", Some("x"), &["list", "watch"], false),
            role("c", Some("y"), &["delete"], false),
            sum.clone(),
        ];
        let shown = |rules: Vec<PolicyRule>| rules.iter().flat_map(|r| r.verbs.clone()).collect::<Vec<_>>();
        let planned = plan(&sum, &parts).expect("a change");
        assert_eq!(shown(planned.clone()), ["get", "list", "watch"]);
        let written = ClusterRole {
            rules: Some(planned),
            ..(*sum).clone()
        };
        assert_eq!(plan(&written, &parts), None);
        assert_eq!(plan(&parts[0], &parts), None, "it aggregates nothing");
    }
}
