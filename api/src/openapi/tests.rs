use super::*;

fn at<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    document.pointer(pointer).unwrap_or(&Value::Null)
}

/// Every reference leads somewhere.
fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                assert!(
                    document.pointer(reference.trim_start_matches('#')).is_some(),
                    "{reference}"
                );
            }
            map.values().for_each(|inner| check_references(document, inner));
        }
        Value::Array(items) => items.iter().for_each(|inner| check_references(document, inner)),
        _ => {}
    }
}

#[test]
fn second_generation() {
    let document = v2(&Registry::builtin(), "v1.36.0");
    check_references(&document, &document);
    let spec = at(&document, "/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    assert_eq!(spec["required"], json!(["selector", "template"]));
    assert_eq!(spec["properties"]["replicas"]["format"], "int32");
    assert_eq!(
        spec["properties"]["template"]["$ref"],
        "#/definitions/io.k8s.api.core.v1.PodTemplateSpec"
    );
    let patch = at(
        &document,
        "/paths/~1apis~1apps~1v1~1namespaces~1{namespace}~1deployments~1{name}/patch",
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    assert_eq!(patch["consumes"][3], "application/apply-patch+yaml");
}

#[test]
fn third_generation() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    for key in index["paths"].as_object().unwrap().keys() {
        let document = v3(&registry, key, "v1.36.0").unwrap_or_else(|| panic!("no document for {key}"));
        check_references(&document, &document);
    }
    assert_eq!(v3(&registry, "apis/apps/v9", "v1.36.0"), None);
    assert_eq!(v3(&registry, "api/v2", "v1.36.0"), None);
    assert_eq!(v3(&registry, "x", "v1.36.0"), None);
    let document = v3(&registry, "api/v1", "v1.36.0").unwrap();
    let spec = at(&document, "/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert_eq!(spec["required"], json!(["containers"]));
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["properties"]["nodeSelector"]["x-kubernetes-map-type"], "atomic");
    let post = at(&document, "/paths/~1api~1v1~1namespaces~1{namespace}~1pods/post");
    assert_eq!(post["operationId"], "createCoreV1NamespacedPod");
    let patch = at(
        &document,
        "/paths/~1api~1v1~1namespaces~1{namespace}~1pods~1{name}/patch/parameters",
    );
    assert!(
        patch
            .as_array()
            .unwrap()
            .iter()
            .any(|parameter| parameter["name"] == "fieldValidation")
    );
}

#[test]
fn operations_have_kubernetes_names() {
    let document = v2(&Registry::builtin(), "v1.36.0");
    let pods = "/api/v1/namespaces/{namespace}/pods";
    for (path, method, id, action, text) in [
        (
            format!("{pods}/{{name}}/exec"),
            "post",
            "connectCoreV1PostNamespacedPodExec",
            "connect",
            "connect POST requests to exec of Pod",
        ),
        (
            "/api/v1/nodes/{name}/proxy/{path}".to_owned(),
            "head",
            "connectCoreV1HeadNodeProxyWithPath",
            "connect",
            "connect HEAD requests to proxy of Node",
        ),
        (
            format!("{pods}/{{name}}/log"),
            "get",
            "readCoreV1NamespacedPodLog",
            "get",
            "read log of the specified Pod",
        ),
        (
            format!("{pods}/{{name}}/eviction"),
            "post",
            "createCoreV1NamespacedPodEviction",
            "post",
            "create eviction of a Pod",
        ),
        (
            format!("{pods}/{{name}}/status"),
            "patch",
            "patchCoreV1NamespacedPodStatus",
            "patch",
            "partially update status of the specified Pod",
        ),
        (
            "/api/v1/namespaces/{namespace}/endpoints".to_owned(),
            "post",
            "createCoreV1NamespacedEndpoints",
            "post",
            "create Endpoints",
        ),
        (
            "/apis/networking.k8s.io/v1/watch/ingresses".to_owned(),
            "get",
            "watchNetworkingV1IngressListForAllNamespaces",
            "watchlist",
            "watch individual changes to a list of Ingress. deprecated: use the 'watch' parameter with a list operation instead.",
        ),
        (
            "/apis/apps/v1/".to_owned(),
            "get",
            "getAppsV1APIResources",
            "",
            "get available resources",
        ),
        (
            "/version/".to_owned(),
            "get",
            "getCodeVersion",
            "",
            "get the version information for this server",
        ),
    ] {
        let operation = &document["paths"][&path][method];
        assert_eq!(operation["operationId"], id, "{path}");
        assert_eq!(operation["description"], text, "{path}");
        assert_eq!(
            operation["x-kubernetes-action"].as_str().unwrap_or_default(),
            action,
            "{path}"
        );
    }
}

#[test]
fn declared_defaults_are_told() {
    let document = v3(&Registry::builtin(), "api/v1", "v1.36.0").unwrap();
    for (field, default) in [
        ("Pod/properties/metadata", json!({})),
        ("PodSpec/properties/nodeSelector/additionalProperties", Value::Null),
        ("ContainerPort/properties/containerPort", Value::Null),
        ("ContainerPort/properties/protocol", json!("TCP")),
        ("Container/properties/livenessProbe", Value::Null),
        ("LocalObjectReference/properties/name", json!("")),
    ] {
        let found = at(
            &document,
            &format!("/components/schemas/io.k8s.api.core.v1.{field}/default"),
        );
        assert_eq!(*found, default, "{field}");
    }
}
