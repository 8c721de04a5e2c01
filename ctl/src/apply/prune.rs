//! `ctl apply --prune`: what was applied earlier and is in no manifest any more is deleted.

use anyhow::{Result, bail};
use http::Method;
use serde_json::{Value, json};

use super::{Apply, MANAGER};
use crate::context::{Ctx, with_query};
use crate::get::object_name;
use crate::pods::{list, text};
use crate::resources::{Resource, Resources};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The kinds that are pruned unless the user names others, namespaces last.
const KINDS: [&str; 17] = [
    "v1/ConfigMap",
    "v1/Endpoints",
    "v1/PersistentVolumeClaim",
    "v1/Pod",
    "v1/ReplicationController",
    "v1/Secret",
    "v1/Service",
    "batch/v1/Job",
    "batch/v1/CronJob",
    "networking.k8s.io/v1/Ingress",
    "apps/v1/DaemonSet",
    "apps/v1/Deployment",
    "apps/v1/ReplicaSet",
    "apps/v1/StatefulSet",
    "policy/v1/PodDisruptionBudget",
    "v1/PersistentVolume",
    "v1/Namespace",
];

/// Kind, namespace and name of an object.
pub(super) fn identity(object: &Value) -> (String, String, String) {
    let word = |pointer| text(object, pointer).to_owned();
    (word("/kind"), word("/metadata/namespace"), word("/metadata/name"))
}

pub(super) async fn prune(
    ctx: &Ctx,
    args: &Apply,
    resources: &Resources,
    applied: &[(String, String, String)],
) -> Result<()> {
    let printer = args.change.printer()?;
    let kinds: Vec<&str> = if args.prune_allowlist.is_empty() {
        KINDS.to_vec()
    } else {
        args.prune_allowlist.iter().map(String::as_str).collect()
    };
    let mut namespaces: Vec<&str> = applied.iter().map(|(_, namespace, _)| namespace.as_str()).collect();
    namespaces.retain(|namespace| !namespace.is_empty());
    namespaces.push(&ctx.namespace);
    namespaces.sort_unstable();
    namespaces.dedup();
    for kind in kinds {
        let resource = resource(resources, kind)?;
        let places: &[&str] = if resource.namespaced { &namespaces } else { &[""] };
        for namespace in places {
            let path = with_query(
                &resource.path(Some(namespace)),
                &[("labelSelector", args.selector.as_deref())],
            );
            let found = ctx.get(&path).await?;
            for object in list(&found, "/items") {
                let mut object = object.clone();
                object["apiVersion"] = resource.api_version().into();
                object["kind"] = resource.kind.clone().into();
                if !was_applied(&object, manager(args)) || applied.contains(&identity(&object)) {
                    continue;
                }
                if !args.change.client_only() {
                    let mut options = json!({"propagationPolicy": "Background"});
                    if args.change.dry_run == "server" {
                        options["dryRun"] = json!(["All"]);
                    }
                    let path = resource.object(namespace, text(&object, "/metadata/name"));
                    ctx.call(Method::DELETE, &path, &[], Some(&options)).await?;
                }
                printer.done(&object_name(&object), "pruned", &object)?;
            }
        }
    }
    Ok(())
}

fn manager(args: &Apply) -> &str {
    args.change.field_manager.as_deref().unwrap_or(MANAGER)
}

fn resource<'a>(resources: &'a Resources, word: &str) -> Result<&'a Resource> {
    let word = word.trim_start_matches("core/");
    match word.rsplit_once('/') {
        Some((version, kind)) => resources.of_kind(version, kind),
        None => bail!("invalid GroupVersionKind format: {word}, please follow <group/version/kind>"),
    }
}

/// Applied by this program, or by kubectl with its annotation; not deleted twice.
fn was_applied(object: &Value, manager: &str) -> bool {
    let annotated = object["metadata"]["annotations"][LAST_APPLIED].is_string();
    let managed = list(object, "/metadata/managedFields")
        .iter()
        .any(|entry| entry["operation"] == "Apply" && entry["manager"] == manager);
    (annotated || managed) && object["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_applied() {
        let managed = |manager: &str, operation: &str| json!({"metadata": {"managedFields": [{"manager": manager, "operation": operation}]}});
        let cases = [
            (managed("ctl", "Apply"), true),
            (managed("ctl", "Update"), false),
            (managed("other", "Apply"), false),
            (json!({"metadata": {"annotations": {LAST_APPLIED: "{}"}}}), true),
            (
                json!({"metadata": {"annotations": {LAST_APPLIED: "{}"}, "deletionTimestamp": "t"}}),
                false,
            ),
            (json!({"metadata": {}}), false),
        ];
        for (object, expected) in cases {
            assert_eq!(was_applied(&object, "ctl"), expected, "{object}");
        }
    }
}
