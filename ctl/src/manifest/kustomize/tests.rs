use serde_json::json;

use super::*;

/// Writes files to a new directory and builds the layer in `at`.
fn built(name: &str, files: &[(&str, &str)], at: &str) -> Result<Vec<Value>> {
    let root = std::env::temp_dir().join(format!("ctl-kustomize-{}-{name}", std::process::id()));
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    let built = build(&root.join(at));
    std::fs::remove_dir_all(&root).expect("removed");
    Ok(built?.into_iter().map(|manifest| manifest.object).collect())
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - {name: c, image: \"nginx:1\", envFrom: [{configMapRef: {name: settings}}]}\n";

#[test]
fn layers_change_names_images_labels_and_references() {
    let files = [
        (
            "base/kustomization.yaml",
            "resources: [web.yaml]\nconfigMapGenerator:\n- name: settings\n  literals: [A=1]\n",
        ),
        ("base/web.yaml", DEPLOYMENT),
        (
            "over/kustomization.yaml",
            "resources: [../base]\nnamespace: prod\nnamePrefix: p-\ncommonLabels: {env: prod}\n\
             images: [{name: nginx, newName: registry:5000/nginx, newTag: \"2\"}]\nreplicas: [{name: web, count: 3}]\n\
             configMapGenerator:\n- {name: settings, behavior: merge, literals: [B=2]}\n\
             patches:\n- target: {kind: Deployment, name: w.*}\n  patch: |-\n    - {op: add, path: /spec/paused, value: true}\n\
             - patch: |-\n    apiVersion: apps/v1\n    kind: Deployment\n    metadata: {name: web}\n    spec: {template: {spec: {containers: [{name: c, tty: true}]}}}\n",
        ),
    ];
    let objects = built("layers", &files, "over").expect("builds");
    let [web, settings] = objects.as_slice() else {
        panic!("{objects:?}")
    };
    let name = settings["metadata"]["name"].as_str().expect("a name");
    assert!(
        name.starts_with("p-settings-") && name.len() == "p-settings-".len() + 10,
        "{name}"
    );
    assert_eq!(settings["data"], json!({"A": "1", "B": "2"}));
    assert_eq!(
        web["metadata"],
        json!({"name": "p-web", "namespace": "prod", "labels": {"env": "prod"}})
    );
    let labels = json!({"app": "web", "env": "prod"});
    assert_eq!(web["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(web["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(
        (&web["spec"]["replicas"], &web["spec"]["paused"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(
        web["spec"]["template"]["spec"]["containers"],
        json!([{"name": "c", "image": "registry:5000/nginx:2", "tty": true, "envFrom": [{"configMapRef": {"name": name}}]}])
    );
}

#[test]
fn what_is_not_understood_is_said() {
    for (name, text, expected) in [
        (
            "unknown",
            "resources: []\nreplacements: []\n",
            "kustomization.yaml:2:1: replacements is not supported here",
        ),
        ("remote", "resources: [\"https://x/y.yaml\"]\n", "not from the network"),
        (
            "patch",
            "patches:\n- target: {kind: Pod}\n  patch: \"[]\"\n",
            "the patch is for nothing in the resources",
        ),
        (
            "behavior",
            "configMapGenerator: [{name: x, behavior: merge}]\n",
            "there is no ConfigMap \"x\" to change",
        ),
    ] {
        let error = built(name, &[("kustomization.yaml", text)], "").expect_err(name);
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
    let outside = [
        ("over/kustomization.yaml", "resources: [../secret.yaml]\n"),
        ("secret.yaml", DEPLOYMENT),
    ];
    let error = built("outside", &outside, "over").expect_err("outside");
    assert!(format!("{error:#}").contains("is not in or below"), "{error:#}");
    assert!(built("none", &[("x", "")], "").is_err());
}
