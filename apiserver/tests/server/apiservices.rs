//! APIServices: what is built in has them from the start, and the others say why they cannot answer.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Running, start};

const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Waits until the `Available` condition has this status and reason, and returns its message.
async fn condition(running: &Running, name: &str, wanted: (&str, &str)) -> String {
    let reached = async {
        loop {
            let (_, found) = running.send(Method::GET, &format!("{PATH}/{name}"), Value::Null).await;
            let condition = &found["status"]["conditions"][0];
            if condition["status"] == wanted.0 && condition["reason"] == wanted.1 {
                return condition["message"].as_str().unwrap_or_default().to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.unwrap_or_else(|_| panic!("{name} never is {wanted:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_tell_what_is_stored() {
    let running = start().await;
    for name in ["v1.", "v1.apps", "v2.autoscaling"] {
        let message = condition(&running, name, ("True", "Local")).await;
        assert_eq!(message, "Local APIServices are always available");
    }
    let remote = json!({
        "metadata": {"name": "v1.example.com"},
        "spec": {
            "group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "s"},
        },
    });
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "a", "port": 443}, {"name": "b", "port": 444}]},
    });
    let slice = |ready: bool| {
        json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"name": "a", "port": 1}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
        })
    };
    let port = |number: u16| json!({"spec": {"service": {"port": number}}});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let name = format!("{PATH}/v1.example.com");
    let steps = [
        (
            Method::POST,
            PATH,
            remote,
            "ServiceNotFound",
            r#"service/s in "default" is not present"#,
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/services",
            service,
            "EndpointsNotFound",
            r#"cannot find endpointslices for service/s in "default""#,
        ),
        (
            Method::PATCH,
            &name,
            port(445),
            "ServicePortError",
            r#"service/s in "default" is not listening on port 445"#,
        ),
        (
            Method::POST,
            slices,
            slice(true),
            "ServicePortError",
            r#"service/s in "default" is not listening on port 445"#,
        ),
        (
            Method::PATCH,
            &name,
            port(444),
            "MissingEndpoints",
            r#"endpointslices for service/s in "default" have no addresses with port name "b""#,
        ),
    ];
    for (method, path, body, reason, wanted) in steps {
        let (code, answer) = running.send(method, path, body).await;
        assert!(code < 300, "{answer}");
        assert_eq!(condition(&running, "v1.example.com", ("False", reason)).await, wanted);
    }
    running.stop().await;
}
