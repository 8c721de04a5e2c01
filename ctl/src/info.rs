//! Commands about the server itself: `api-resources`, `api-versions`, `version`, `cluster-info`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::context::Ctx;
use crate::print::table::{Text, render};
use crate::resources::Resources;

#[derive(Args)]
pub struct ApiResources {
    /// Only this group; an empty one is the core group
    #[arg(long)]
    pub api_group: Option<String>,
    /// Only namespaced resources, or only those that are not
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub namespaced: Option<bool>,
    /// Only resources with all of these verbs
    #[arg(long, value_delimiter = ',')]
    pub verbs: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub categories: Vec<String>,
    /// wide or name
    #[arg(long, short = 'o')]
    pub output: Option<String>,
    #[arg(long)]
    pub no_headers: bool,
    /// name or kind
    #[arg(long, value_parser = ["name", "kind"])]
    pub sort_by: Option<String>,
}

/// Runs `api-resources`.
///
/// # Errors
/// When the server cannot be reached.
pub async fn api_resources(ctx: &Ctx, args: &ApiResources) -> Result<ExitCode> {
    let mut all = Resources::discover(ctx).await?.0;
    let mut seen = std::collections::HashSet::new();
    // Preferred versions come first; later versions of the same resource are not listed again.
    all.retain(|r| {
        seen.insert((r.group.clone(), r.plural.clone()))
            && args.api_group.as_ref().is_none_or(|g| *g == r.group)
            && args.namespaced.is_none_or(|n| n == r.namespaced)
            && args.verbs.iter().all(|v| r.verbs.contains(v))
            && args.categories.iter().all(|c| r.categories.contains(c))
    });
    match args.sort_by.as_deref() {
        Some("name") => all.sort_by(|a, b| a.plural.cmp(&b.plural)),
        Some("kind") => all.sort_by(|a, b| a.kind.cmp(&b.kind)),
        _ => all.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural))),
    }
    if args.output.as_deref() == Some("name") {
        for r in &all {
            println!("{}", r.qualified());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wide = args.output.as_deref() == Some("wide");
    let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    if wide {
        header.extend(["VERBS", "CATEGORIES"]);
    }
    let rows = all
        .iter()
        .map(|r| {
            let mut row = vec![
                r.plural.clone(),
                r.short_names.join(","),
                r.api_version(),
                r.namespaced.to_string(),
                r.kind.clone(),
            ];
            if wide {
                row.extend([r.verbs.join(","), r.categories.join(",")]);
            }
            row
        })
        .collect();
    print!(
        "{}",
        render(
            &Text {
                header: header.into_iter().map(str::to_owned).collect(),
                rows
            },
            args.no_headers
        )
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs `api-versions`.
///
/// # Errors
/// When the server cannot be reached.
pub async fn api_versions(ctx: &Ctx) -> Result<ExitCode> {
    let groups = ctx.get("/apis").await?;
    let versions = groups["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|g| g["versions"].as_array().into_iter().flatten());
    let mut names: Vec<&str> = versions
        .filter_map(|v| v["groupVersion"].as_str())
        .chain(["v1"])
        .collect();
    names.sort_unstable();
    for name in names {
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct Version {
    /// Only this program's version
    #[arg(long)]
    pub client: bool,
    /// json or yaml
    #[arg(long, short = 'o')]
    pub output: Option<String>,
}

/// Runs `version`; `ctx` is none when only the client's version is asked for.
///
/// # Errors
/// When the server cannot be reached.
pub async fn version(ctx: Option<&Ctx>, args: &Version) -> Result<ExitCode> {
    let client = env!("CARGO_PKG_VERSION");
    let server = match ctx {
        Some(ctx) => Some(ctx.get("/version").await?),
        None => None,
    };
    match args.output.as_deref() {
        Some(form @ ("json" | "yaml")) => {
            let mut all = json!({"clientVersion": {"gitVersion": format!("v{client}")}});
            if let Some(server) = server {
                all["serverVersion"] = server;
            }
            print!("{}", crate::print::document(&all, form == "yaml", true));
        }
        _ => {
            println!("Client Version: v{client}");
            if let Some(server) = server {
                println!("Server Version: {}", server["gitVersion"].as_str().unwrap_or("unknown"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `cluster-info`.
///
/// # Errors
/// When the server cannot be reached.
pub async fn cluster_info(ctx: &Ctx) -> Result<ExitCode> {
    println!("Kubernetes control plane is running at {}", ctx.server);
    let services = ctx
        .get("/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io%2Fcluster-service%3Dtrue")
        .await?;
    for service in services["items"].as_array().into_iter().flatten() {
        let metadata = &service["metadata"];
        let name = metadata["labels"]["kubernetes.io/name"]
            .as_str()
            .or(metadata["name"].as_str())
            .unwrap_or_default();
        let port = &service["spec"]["ports"][0];
        let port = port["name"]
            .as_str()
            .map_or_else(String::new, |n: &str| format!(":{n}"));
        println!(
            "{name} is running at {}/api/v1/namespaces/kube-system/services/{}{port}/proxy",
            ctx.server,
            metadata["name"].as_str().unwrap_or_default()
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct Auth {
    #[command(subcommand)]
    pub what: AuthWhat,
}

#[derive(clap::Subcommand)]
pub enum AuthWhat {
    /// Whether an action is allowed
    CanI {
        /// VERB TYPE [NAME], VERB TYPE/NAME, or VERB /path
        #[arg(value_name = "VERB TYPE")]
        words: Vec<String>,
        #[arg(long)]
        subresource: Option<String>,
        #[arg(long, short = 'A')]
        all_namespaces: bool,
        /// Say it with the exit status only
        #[arg(long, short = 'q')]
        quiet: bool,
        /// List everything that is allowed
        #[arg(long)]
        list: bool,
    },
    /// Who the server takes this client for
    Whoami {
        /// json, yaml, ...
        #[arg(long, short = 'o')]
        output: Option<String>,
    },
}

/// Runs `auth`.
///
/// # Errors
/// The server's answer.
pub async fn auth(ctx: &Ctx, args: &Auth) -> Result<ExitCode> {
    let review = async |kind: &str, spec: Value| {
        let (group, plural) = if kind == "SelfSubjectReview" {
            ("authentication.k8s.io", "selfsubjectreviews")
        } else if kind == "SelfSubjectRulesReview" {
            ("authorization.k8s.io", "selfsubjectrulesreviews")
        } else {
            ("authorization.k8s.io", "selfsubjectaccessreviews")
        };
        let mut body = json!({"apiVersion": format!("{group}/v1"), "kind": kind});
        if !spec.is_null() {
            body["spec"] = spec;
        }
        ctx.call(
            http::Method::POST,
            &format!("/apis/{group}/v1/{plural}"),
            &[],
            Some(&body),
        )
        .await
    };
    match &args.what {
        AuthWhat::Whoami { output: Some(output) } => {
            let change = crate::change::Change {
                output: Some(output.clone()),
                ..crate::change::Change::default()
            };
            let whole = review("SelfSubjectReview", Value::Null).await?;
            change
                .printer()?
                .done("selfsubjectreview.authentication.k8s.io/", "", &whole)?;
            Ok(ExitCode::SUCCESS)
        }
        AuthWhat::Whoami { output: None } => {
            let info = review("SelfSubjectReview", Value::Null).await?["status"]["userInfo"].take();
            let list = |v: &Value| {
                format!(
                    "[{}]",
                    v.as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            };
            let mut rows = vec![vec![
                "Username".to_owned(),
                info["username"].as_str().unwrap_or_default().to_owned(),
            ]];
            if let Some(uid) = info["uid"].as_str().filter(|u| !u.is_empty()) {
                rows.push(vec!["UID".to_owned(), uid.to_owned()]);
            }
            rows.push(vec!["Groups".to_owned(), list(&info["groups"])]);
            for (key, value) in info["extra"].as_object().into_iter().flatten() {
                rows.push(vec![format!("Extra: {key}"), list(value)]);
            }
            print!(
                "{}",
                render(
                    &Text {
                        header: ["ATTRIBUTE", "VALUE"].map(str::to_owned).into(),
                        rows
                    },
                    false
                )
            );
            Ok(ExitCode::SUCCESS)
        }
        AuthWhat::CanI { list: true, .. } => {
            let answer = review("SelfSubjectRulesReview", json!({"namespace": ctx.namespace})).await?;
            print!("{}", rules_table(&answer["status"]));
            Ok(ExitCode::SUCCESS)
        }
        AuthWhat::CanI {
            words,
            subresource,
            all_namespaces,
            quiet,
            ..
        } => {
            let spec = can_i(ctx, words, subresource.as_deref(), *all_namespaces).await?;
            let status = review("SelfSubjectAccessReview", spec).await?["status"].take();
            let allowed = status["allowed"] == true;
            if !quiet {
                let reason = status["reason"]
                    .as_str()
                    .filter(|r| !allowed && !r.is_empty())
                    .map_or_else(String::new, |r| format!(" - {r}"));
                println!("{}{reason}", if allowed { "yes" } else { "no" });
            }
            Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn can_i(ctx: &Ctx, words: &[String], subresource: Option<&str>, all_namespaces: bool) -> Result<Value> {
    let [verb, what, rest @ ..] = words else {
        anyhow::bail!("you must specify two or three arguments: verb, resource, and optional resourceName");
    };
    if what.starts_with('/') {
        return Ok(json!({"nonResourceAttributes": {"verb": verb, "path": what}}));
    }
    let (kind, name) = what
        .split_once('/')
        .map_or((what.as_str(), rest.first().map(String::as_str)), |(k, n)| (k, Some(n)));
    let resources = Resources::discover(ctx).await?;
    let (group, plural) = match resources.find(kind) {
        Ok(r) => (r.group.clone(), r.plural.clone()),
        Err(_) if kind == "*" => ("*".to_owned(), "*".to_owned()),
        Err(_) => {
            eprintln!("Warning: the server doesn't have a resource type '{kind}'");
            (String::new(), kind.to_owned())
        }
    };
    let namespace = if all_namespaces { "" } else { ctx.namespace.as_str() };
    Ok(
        json!({"resourceAttributes": {"verb": verb, "group": group, "resource": plural, "subresource": subresource.unwrap_or_default(), "name": name.unwrap_or_default(), "namespace": namespace}}),
    )
}

fn rules_table(status: &Value) -> String {
    let rules: Vec<Value> = ["/resourceRules", "/nonResourceRules"]
        .iter()
        .flat_map(|pointer| crate::pods::list(status, pointer).iter().cloned())
        .collect();
    let rows = crate::describe::access::policy_rows(&rules);
    render(
        &Text {
            header: ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"]
                .map(str::to_owned)
                .into(),
            rows,
        },
        false,
    )
}
