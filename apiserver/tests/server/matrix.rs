//! A generated matrix of rights: whoever asks, for whatever path, by whatever method, gets what the published rules say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use coxswain_apiserver::User;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{Running, start, user};
use crate::published::{ALL, Cell, End, KINDS, Policy, judge};

/// Cells that are asked; `COXSWAIN_MATRIX=all` asks all.
const CELLS: usize = 24_000;
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Users, and the groups they are in beside that of everybody.
const SUBJECTS: &[(&str, &[&str])] = &[
    ("root", &["system:masters", "system:authenticated"]),
    ("nobody", &["system:authenticated"]),
    ("system:anonymous", &["system:unauthenticated"]),
    ("all-of-foo", &["system:authenticated"]),
    ("reads-foo", &["system:authenticated"]),
    ("reads-all", &["system:authenticated"]),
    ("of-group", &["staff", "system:authenticated"]),
    (
        "system:serviceaccount:foo:robot",
        &[
            "system:serviceaccounts",
            "system:serviceaccounts:foo",
            "system:authenticated",
        ],
    ),
    ("knows-one", &["system:authenticated"]),
    ("gets-streams", &["system:authenticated"]),
    ("creates-streams", &["system:authenticated"]),
    ("any-status", &["system:authenticated"]),
    ("odd-values", &["system:authenticated"]),
    ("creates", &["system:authenticated"]),
    ("pages", &["system:authenticated"]),
    ("actor", &["system:authenticated"]),
];

/// Users, the namespace of their binding (empty for the cluster), and their rules.
fn grants() -> Vec<(&'static str, &'static str, Value)> {
    let streams = [
        "pods/exec",
        "pods/attach",
        "pods/portforward",
        "pods/proxy",
        "services/proxy",
        "nodes/proxy",
    ];
    let all = |verbs: &[&str]| json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": verbs}]);
    vec![
        ("all-of-foo", "foo", all(&["*"])),
        ("reads-foo", "foo", all(&["get", "list", "watch"])),
        ("reads-all", "", all(&["get", "list", "watch"])),
        (
            "staff",
            "foo",
            json!([{"apiGroups": [""], "resources": ["*"], "verbs": ALL}]),
        ),
        (
            "robot",
            "foo",
            json!([{"apiGroups": ["apps", ""], "resources": ["deployments", "deployments/scale", "pods"], "verbs": ["*"]}]),
        ),
        (
            "knows-one",
            "",
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ALL, "resourceNames": ["one"]}]),
        ),
        (
            "gets-streams",
            "",
            json!([{"apiGroups": [""], "resources": streams, "verbs": ["get"]}]),
        ),
        (
            "creates-streams",
            "foo",
            json!([{"apiGroups": [""], "resources": streams, "verbs": ["get", "create"]}]),
        ),
        (
            "any-status",
            "",
            json!([{"apiGroups": ["*"], "resources": ["*/status", "*/scale"], "verbs": ["get", "update", "patch"]}]),
        ),
        (
            "odd-values",
            "",
            json!([
            {"apiGroups": [""], "resources": ["pods/*", "nodes/", "*/*", ""], "verbs": ["*"]},
            {"apiGroups": ["*"], "resources": ["configmaps"], "verbs": ["*"], "resourceNames": [""]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["", "GET", "read"]}]),
        ),
        (
            "creates",
            "",
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["create", "update"]}]),
        ),
        (
            "pages",
            "",
            json!([{"nonResourceURLs": ["/metrics", "/apis/*", "/healthz/*"], "verbs": ["get", "post"]}]),
        ),
        (
            "actor",
            "",
            json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["reads-foo", "all-of-foo"]}]),
        ),
    ]
}

async fn make(running: &Running, path: &str, body: Value) {
    let (code, answer) = running.send(Method::POST, path, body).await;
    assert_eq!(code, 201, "{path}: {answer}");
}

/// Makes the roles and bindings, and reads all that there are.
async fn policy(running: &Running) -> Policy {
    make(running, "/api/v1/namespaces", json!({"metadata": {"name": "foo"}})).await;
    for (name, namespace, rules) in grants() {
        let place = match namespace {
            "" => (
                format!("{RBAC}/clusterroles"),
                format!("{RBAC}/clusterrolebindings"),
                "ClusterRole",
            ),
            namespace => {
                let home = format!("{RBAC}/namespaces/{namespace}");
                (format!("{home}/roles"), format!("{home}/rolebindings"), "Role")
            }
        };
        make(running, &place.0, json!({"metadata": {"name": name}, "rules": rules})).await;
        let subject = match name {
            "staff" => json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": name}),
            "robot" => json!({"kind": "ServiceAccount", "namespace": "foo", "name": name}),
            name => json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}),
        };
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": place.2, "name": name});
        make(
            running,
            &place.1,
            json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}),
        )
        .await;
    }
    let mut policy = Policy {
        roles: BTreeMap::new(),
        bindings: Vec::new(),
    };
    for (plural, binding) in [
        ("roles", false),
        ("clusterroles", false),
        ("rolebindings", true),
        ("clusterrolebindings", true),
    ] {
        let (_, list) = running
            .send(Method::GET, &format!("{RBAC}/{plural}"), Value::Null)
            .await;
        for item in list["items"].as_array().expect("items") {
            let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
            if binding {
                policy.bindings.push((text("namespace"), item.clone()));
            } else {
                let rules = item["rules"].as_array().cloned().unwrap_or_default();
                policy.roles.insert((text("namespace"), text("name")), rules);
            }
        }
    }
    policy
}

/// Every form of path that is tried for every resource: `R` stands for the root, `K` for the resource, `E` for the
/// resource in percent-encoding.
const FORMS: &[&str] = &[
    "R/K",
    "R/K/",
    "R/K/one",
    "R/K/one/",
    "R/K/other",
    "R/namespaces/foo/K",
    "R/namespaces/foo/K/",
    "R/namespaces/foo/K/one",
    "R/namespaces/foo/K/other/",
    "R/namespaces/bar/K",
    "R/namespaces/bar/K/one",
    "R/namespaces/namespaces/K/one",
    "R/namespaces/foo/K/one/unknown",
    "R/namespaces/foo/K/one/status/deeper",
    "R/K/one/status",
    "R/watch/K",
    "R/watch/K/one",
    "R/watch/namespaces/foo/K",
    "R/watch/namespaces/foo/K/one",
    "R/watch/namespaces/foo/K/one/status",
    "R/E",
    "R/namespaces/foo/E/one",
    "R/namespaces/foo%2FK",
    "R/namespaces/foo%2fK%2Fone",
    "R%2Fnamespaces%2Ffoo%2FK/other",
    "R//K",
    "R/K//one",
    "R/namespaces//K",
    "R/namespaces//K/one",
    "R/namespaces/foo//K",
    "R/namespaces/foo/K//one",
    "R/namespaces/foo/K//",
    "/R/K",
    "R/namespaces/foo/../bar/K",
    "R/namespaces/foo/K/..",
    "R/namespaces/foo/K/%2e",
    "R/namespaces/foo/K/%2e%2e%2fone",
    "R/namespaces/../K",
    "R/namespaces/%2e%2e/K/one",
    "R/namespaces/foo/K/one%25",
    "R/namespaces/foo/K/on%zz",
    "R/namespaces/foo/K/%ff",
    "R/namespaces/foo/K/ONE",
    "R/NAMESPACES/foo/K",
    "R/Namespaces/foo/K/one",
    "R/proxy/namespaces/foo/K/one",
];

/// Paths that are about namespaces themselves or no resource at all.
const OTHERS: &[&str] = &[
    "/api/v1/namespaces/foo",
    "/api/v1/namespaces/foo/status",
    "/api/v1/namespaces/foo/finalize",
    "/api/v1/namespaces/foo/status/x",
    "/api/v1/namespaces/foo/namespaces/foo",
    "/api/v1/namespaces/foo/namespaces/foo/status",
    "/api/v1/namespaces/foo/namespaces/kube-system/finalize",
    "/api/v1/watch/namespaces/foo",
    "/api/v1/watch/namespaces/foo/status",
    "/apis/apps/v1/namespaces/foo",
    "/apis/apps/v1/namespaces",
    "/api/v2/pods",
    "/api/V1/pods",
    "/api/v1/Pods",
    "/API/v1/pods",
    "/apis//v1/pods",
    "/api//v1/pods",
    "/version",
    "/version/",
    "/healthz",
    "/healthz/",
    "//healthz",
    "/%68ealthz",
    "/..%2Fmetrics",
    "/metrics",
    "/metrics/",
    "/%6detrics",
    "/api",
    "/api/",
    "/apis",
    "/apis/apps",
    "/apis/apps/v1",
    "/unknown",
];

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get"];
const QUERIES: &[&str] = &[
    "watch=1",
    "watch=false",
    "watch",
    "watch=0&watch=1",
    "watch=yes",
    "fieldSelector=metadata.name%3Done",
    "fieldSelector=metadata.name!%3Done",
    "watch=1&fieldSelector=metadata.name%3Done",
    "verb=get&method=GET&namespace=foo",
];

fn encoded(word: &str) -> String {
    word.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02x}");
        out
    })
}

/// Path, query, and whether the connection is to be upgraded.
fn paths() -> Vec<(String, &'static str, bool)> {
    let mut all: Vec<(String, &'static str, bool)> =
        OTHERS.iter().map(|path| ((*path).to_owned(), "", false)).collect();
    for kind in KINDS {
        let put = |form: &str| {
            form.replace('K', kind.plural)
                .replace('E', &encoded(kind.plural))
                .replacen('R', kind.root, 1)
        };
        // Names in capitals stand for themselves.
        let form = |form: &&str| {
            if form.contains("NAMESPACES") || form.contains("ONE") {
                (
                    form.replace("/K", &format!("/{}", kind.plural))
                        .replacen('R', kind.root, 1),
                    "",
                    false,
                )
            } else {
                (put(form), "", false)
            }
        };
        all.extend(FORMS.iter().map(form));
        for query in QUERIES {
            all.push((put("R/K"), query, false));
            all.push((put("R/namespaces/foo/K"), query, false));
            all.push((put("R/namespaces/foo/K/one"), query, false));
        }
        for (sub, _) in kind.subresources {
            for upgrade in [false, true] {
                all.push((put(&format!("R/namespaces/foo/K/one/{sub}")), "", upgrade));
                all.push((put(&format!("R/K/one/{sub}")), "", upgrade));
            }
            all.push((put(&format!("R/namespaces/foo/K/other/{sub}/")), "", false));
            all.push((put(&format!("R/namespaces/foo/K/one/{sub}//x")), "", false));
        }
    }
    all
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (path, query, upgrade) in paths() {
        for method in METHODS {
            for (user, groups) in SUBJECTS {
                let others: &[Option<&'static str>] = match *user {
                    "actor" => &[None, Some("reads-foo"), Some("all-of-foo"), Some("reads-all")],
                    "reads-all" => &[None, Some("root")],
                    _ => &[None],
                };
                cells.extend(others.iter().map(|acts_as| Cell {
                    user,
                    groups,
                    acts_as: *acts_as,
                    method,
                    path: path.clone(),
                    query,
                    upgrade,
                }));
            }
        }
    }
    cells
}

/// What the server does with a cell.
async fn ask(running: &Running, cell: &Cell) -> (End, u16, String) {
    // Nothing is deleted: the roles have to stay.
    let mut uri = format!("{}?dryRun=All", cell.path);
    if !cell.query.is_empty() {
        let _ = write!(uri, "&{}", cell.query);
    }
    let mut request = Request::builder()
        .method(cell.method)
        .uri(&uri)
        .header("content-type", "application/json");
    if let Some(other) = cell.acts_as {
        request = request.header("impersonate-user", other);
    }
    if cell.upgrade {
        request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    }
    let request = request.body(Body::empty()).expect("a request");
    let user: User = user(cell.user, cell.groups);
    let reply = running.server.in_process(user).call(request).await.expect("an answer");
    let code = reply.status().as_u16();
    // A stream that began goes on.
    let text = match code {
        200 => String::new(),
        _ => {
            let bytes = axum::body::to_bytes(reply.into_body(), 1 << 20).await.expect("a body");
            let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            status["message"]
                .as_str()
                .map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), str::to_owned)
        }
    };
    let no_path = text == "the server could not find the requested resource" || text.starts_with("404 page not found");
    let unreadable = text.contains("parameter invalid") || text.contains("is not valid percent-encoding");
    let end = match code {
        400 if unreadable => End::Unreadable,
        403 => End::Forbidden,
        404 if no_path => End::NoPath,
        405 => End::NoMethod,
        _ => End::Reached,
    };
    (end, code, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_of_the_matrix_is_what_the_published_rules_say() {
    let running = Arc::new(start().await);
    let policy = Arc::new(policy(&running).await);
    let all = cells();
    let total = all.len();
    let wanted = if std::env::var("COXSWAIN_MATRIX").is_ok_and(|count| count == "all") {
        total
    } else {
        CELLS
    };
    // A fixed choice that is spread over everything: the step has no factor in common with the lengths of the axes.
    let step = 7919;
    let chosen: Vec<Cell> = (0..wanted).map(|at| all[at * step % total].clone()).collect();
    assert!(
        wanted > 20_000 && total >= wanted && !total.is_multiple_of(step),
        "{total}"
    );
    let mut tasks = Vec::new();
    for part in chosen.chunks(wanted.div_ceil(4)) {
        let (running, policy, part) = (running.clone(), policy.clone(), part.to_vec());
        tasks.push(tokio::spawn(async move {
            let (mut ends, mut wrong) = (BTreeMap::new(), Vec::new());
            for cell in part {
                let expected = judge(&policy, &cell);
                let (end, code, text) = ask(&running, &cell).await;
                *ends.entry(expected).or_insert(0_usize) += 1;
                if end != expected {
                    wrong.push(format!("{cell:?}: {expected:?} expected, {end:?}: {code} {text}"));
                }
            }
            (ends, wrong)
        }));
    }
    let (mut ends, mut wrong) = (BTreeMap::new(), Vec::new());
    for task in tasks {
        let (some, more) = task.await.expect("a task");
        for (end, count) in some {
            *ends.entry(end).or_insert(0) += count;
        }
        wrong.extend(more);
    }
    let shown = wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {wanted} cells (of {total}), {ends:?}:\n{shown}",
        wrong.len()
    );
    // Every way to end is there, each often.
    assert!(ends.len() == 5 && ends.values().all(|count| *count > 100), "{ends:?}");
}
