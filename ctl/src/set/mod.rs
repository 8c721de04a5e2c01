//! `ctl set`: image, env, resources, serviceaccount, selector and subject of what is there.

mod env;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::change::{JSON, STRATEGIC};
use crate::context::{Ctx, error_text};
use crate::pods::{list, text};
use crate::resources::{Resource, Resources};
use crate::targets::Several;

#[derive(Args)]
pub struct Set {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// The images of containers
    Image(Image),
    /// The environment of containers
    Env(env::Env),
    /// Requests and limits of containers
    Resources(Amounts),
    /// The service account of a workload
    #[command(visible_alias = "sa")]
    Serviceaccount(Account),
    /// The selector of a Service
    Selector(Selector),
    /// Who a role is bound to
    Subject(Subject),
}

#[derive(Args)]
pub struct Image {
    /// TYPE/NAME CONTAINER=IMAGE ...
    #[arg(value_name = "TYPE/NAME CONTAINER=IMAGE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub several: Several,
}

#[derive(Args)]
pub struct Amounts {
    /// TYPE/NAME
    #[arg(value_name = "TYPE/NAME")]
    pub words: Vec<String>,
    /// Containers: a name, or * for all
    #[arg(long, short = 'c', default_value = "*")]
    pub containers: String,
    /// cpu=200m,memory=512Mi
    #[arg(long, value_delimiter = ',')]
    pub limits: Vec<String>,
    /// cpu=100m,memory=256Mi
    #[arg(long, value_delimiter = ',')]
    pub requests: Vec<String>,
    #[command(flatten)]
    pub several: Several,
}

#[derive(Args)]
pub struct Account {
    /// TYPE/NAME ACCOUNT
    #[arg(required = true, value_name = "TYPE/NAME ACCOUNT")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub several: Several,
}

#[derive(Args)]
pub struct Selector {
    /// TYPE/NAME KEY=VALUE,...
    #[arg(required = true, value_name = "TYPE/NAME KEY=VALUE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub several: Several,
}

#[derive(Args)]
pub struct Subject {
    /// TYPE/NAME
    #[arg(value_name = "TYPE/NAME")]
    pub words: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub user: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub group: Vec<String>,
    /// NAMESPACE:NAME
    #[arg(long, value_delimiter = ',')]
    pub serviceaccount: Vec<String>,
    #[command(flatten)]
    pub several: Several,
}

/// Where the pod template of an object is.
///
/// # Errors
/// When the kind has none.
pub fn pod_spec_pointer(object_kind: &str) -> Result<&'static str> {
    Ok(match object_kind {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "/spec/template/spec"
        }
        other => bail!("the object is not a pod or does not have a pod template: {other}"),
    })
}

/// Wraps `inner` in the objects that a pointer names.
#[must_use]
pub fn nest(pointer: &str, inner: Value) -> Value {
    pointer
        .rsplit('/')
        .filter(|p| !p.is_empty())
        .fold(inner, |value, key| json!({key: value}))
}

/// What one kind of `set` does to an object: the patch's media type and the patch.
type Patch = (&'static str, Value);

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Set) -> Result<ExitCode> {
    let template = |patch: Value, kind: &str| Ok((STRATEGIC, nest(pod_spec_pointer(kind)?, patch)));
    match &args.what {
        What::Env(args) => env::run(ctx, args).await,
        What::Image(args) => {
            let (words, assignments) = split(&args.words, |word| word.contains('='));
            if assignments.is_empty() {
                bail!("one or more image updates are required");
            }
            let change = |object: &Value, spec: &Value| template(images(spec, assignments)?, text(object, "/kind"));
            change_all(ctx, (&args.several, words), "image", change).await
        }
        What::Resources(args) => {
            let (limits, requests) = (amounts(&args.limits)?, amounts(&args.requests)?);
            if limits.is_empty() && requests.is_empty() {
                bail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
            }
            let mut resources = json!({});
            for (key, map) in [("limits", limits), ("requests", requests)] {
                if !map.is_empty() {
                    resources[key] = Value::Object(map);
                }
            }
            let change = |object: &Value, spec: &Value| {
                let patch = on_containers(spec, &args.containers, |_| json!({"resources": resources}))?;
                template(patch, text(object, "/kind"))
            };
            change_all(ctx, (&args.several, &args.words), "resource requirements", change).await
        }
        What::Serviceaccount(args) => {
            let Some((account, words)) = args
                .words
                .split_last()
                .filter(|(_, words)| !words.is_empty() || args.several.which.files.given())
            else {
                bail!("serviceaccount is required");
            };
            let change =
                |object: &Value, _: &Value| template(json!({"serviceAccountName": account}), text(object, "/kind"));
            change_all(ctx, (&args.several, words), "serviceaccount", change).await
        }
        What::Selector(args) => {
            let (words, pairs) = split(&args.words, |word| word.contains('='));
            let mut selector = Map::new();
            for pair in pairs.iter().flat_map(|word| word.split(',')) {
                let (key, value) = pair
                    .split_once('=')
                    .ok_or_else(|| anyhow!("{pair:?} is not KEY=VALUE"))?;
                selector.insert(key.to_owned(), value.into());
            }
            if selector.is_empty() {
                bail!("a selector is required, such as app=web");
            }
            let change = |object: &Value, _: &Value| -> Result<Patch> {
                if object["kind"] != "Service" {
                    bail!("setting a selector is only supported for Services");
                }
                Ok((
                    JSON,
                    json!([{"op": "add", "path": "/spec/selector", "value": selector}]),
                ))
            };
            change_all(ctx, (&args.several, words), "selector", change).await
        }
        What::Subject(args) => {
            let added = crate::create::objects::subjects(&args.user, &args.group, &args.serviceaccount)?;
            if added.is_empty() {
                bail!("you must specify at least one value of user, group or serviceaccount");
            }
            let change = |object: &Value, _: &Value| -> Result<Patch> {
                if !matches!(text(object, "/kind"), "RoleBinding" | "ClusterRoleBinding") {
                    bail!("setting subjects is only supported for RoleBinding/ClusterRoleBinding");
                }
                let mut all = list(object, "/subjects").to_vec();
                all.extend(
                    added
                        .iter()
                        .filter(|one| !list(object, "/subjects").contains(one))
                        .cloned(),
                );
                Ok((JSON, json!([{"op": "add", "path": "/subjects", "value": all}])))
            };
            change_all(ctx, (&args.several, &args.words), "subjects", change).await
        }
    }
}

/// Words that name objects, and the words from the first assignment on.
fn split(words: &[String], is_assignment: impl Fn(&String) -> bool) -> (&[String], &[String]) {
    words.split_at(words.iter().position(is_assignment).unwrap_or(words.len()))
}

/// Patches every object that is named; what stays as it is is not mentioned.
async fn change_all(
    ctx: &Ctx,
    (several, words): (&Several, &[String]),
    noun: &str,
    change: impl Fn(&Value, &Value) -> Result<Patch>,
) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let printer = several.change.printer()?;
    let found = several.objects(ctx, &resources, words).await?;
    let mut failed = found.failed;
    for (resource, object) in &found.objects {
        let outcome = async {
            let spec = pod_spec(object, resource);
            let (media_type, patch) = change(object, spec)?;
            let manager = format!("ctl-set-{}", noun.split(' ').next().unwrap_or(noun));
            several
                .patch(ctx, (resource, object), (media_type, &patch), &manager)
                .await
        };
        match outcome.await {
            Ok(after) if !printer.says_words() || changed(object, &after) => {
                printer.changed(resource, &format!("{noun} updated"), &after)?;
            }
            Ok(_) => {}
            Err(error) if found.objects.len() == 1 => return Err(error),
            Err(error) => {
                let name = text(object, "/metadata/name");
                eprintln!("{}/{name}: {}", resource.object_prefix(), error_text(&error));
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn pod_spec<'a>(object: &'a Value, resource: &Resource) -> &'a Value {
    pod_spec_pointer(&resource.kind)
        .ok()
        .and_then(|pointer| object.pointer(pointer))
        .unwrap_or(&Value::Null)
}

/// Whether anything but the record of changes differs. A dry run keeps the resourceVersion, so the contents count.
fn changed(before: &Value, after: &Value) -> bool {
    before["spec"] != after["spec"] || before["subjects"] != after["subjects"]
}

/// A patch with a row for each container that a pattern means; init containers count too.
fn on_containers(spec: &Value, pattern: &str, row: impl Fn(&Value) -> Value) -> Result<Value> {
    let mut patch = json!({});
    for key in ["containers", "initContainers"] {
        let mut rows = Vec::new();
        for container in list(spec, &format!("/{key}")) {
            if matches(pattern, text(container, "/name")) {
                let mut row = row(container);
                row["name"] = container["name"].clone();
                rows.push(row);
            }
        }
        if !rows.is_empty() {
            patch[key] = Value::Array(rows);
        }
    }
    if patch.as_object().is_none_or(Map::is_empty) {
        bail!("unable to find container named \"{pattern}\"");
    }
    Ok(patch)
}

/// Whether a name fits a pattern in which `*` stands for anything.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|cut| rest.get(cut..).is_some_and(|tail| matches(after, tail)))),
    }
}

fn images(spec: &Value, assignments: &[String]) -> Result<Value> {
    let mut wanted = Vec::new();
    for assignment in assignments {
        let Some((container, image)) = assignment.split_once('=') else {
            bail!("{assignment:?} is not CONTAINER=IMAGE")
        };
        on_containers(spec, container, |_| json!({}))?;
        wanted.push((container, image));
    }
    let mut patch = on_containers(spec, "*", |container| {
        let name = text(container, "/name");
        let found = wanted.iter().rev().find(|(pattern, _)| matches(pattern, name));
        found.map_or_else(|| json!({}), |(_, image)| json!({"image": image}))
    })?;
    for rows in patch.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(rows) = rows.as_array_mut() {
            rows.retain(|row| row["image"].is_string());
        }
    }
    Ok(patch)
}

fn amounts(words: &[String]) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for word in words {
        let (name, amount) = word
            .split_once('=')
            .ok_or_else(|| anyhow!("invalid argument syntax {word:?}, expected <resource>=<value>"))?;
        coxswain_api::quantity::Quantity::parse(amount).map_err(|e| anyhow!("{word}: {e}"))?;
        map.insert(name.to_owned(), amount.into());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn only_named_containers_change() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let check = |assignments: &[&str], expected: Result<Value, &str>| {
            let got = images(&spec, &words(assignments)).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{assignments:?}");
        };
        check(
            &["b=x:1"],
            Ok(json!({"containers": [{"name": "b", "image": "x:1"}], "initContainers": []})),
        );
        check(
            &["*=x:1", "a=y"],
            Ok(
                json!({"containers": [{"name": "a", "image": "y"}, {"name": "b", "image": "x:1"}],
                "initContainers": [{"name": "i", "image": "x:1"}]}),
            ),
        );
        check(&["z=x:1"], Err("unable to find container named \"z\""));
        check(&["a"], Err("\"a\" is not CONTAINER=IMAGE"));
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "ab", true),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*", "abcd", true),
            ("b*", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn amounts_of_resources() {
        assert_eq!(amounts(&words(&["cpu=1", "memory=2Gi"])).expect("amounts").len(), 2);
        assert!(amounts(&words(&["cpu"])).is_err());
        assert!(amounts(&words(&["cpu=much"])).is_err());
    }
}
