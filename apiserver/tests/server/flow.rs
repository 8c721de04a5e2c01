//! Flow control objects that there must be: nobody changes them, and they come back.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::harness::start;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mandatory_objects_stay() {
    let running = start().await;
    for collection in ["flowschemas", "prioritylevelconfigurations"] {
        for name in ["exempt", "catch-all"] {
            let path = format!("{GROUP}/{collection}/{name}");
            let (code, before) = running.send(Method::GET, &path, Value::Null).await;
            assert_eq!(code, 200, "{before}");
            let change = match collection {
                "flowschemas" => json!({"spec": {"matchingPrecedence": 77}}),
                _ => {
                    json!({"spec": {"limited": {"nominalConcurrencyShares": 77, "limitResponse": {"type": "Reject"}}}})
                }
            };
            let (code, answer) = running.send(Method::PATCH, &path, change).await;
            let message = answer["message"].as_str().unwrap_or_default();
            assert!(
                code == 422 && message.contains("must equal the fixed value"),
                "{code} {message}"
            );
            let (code, answer) = running.send(Method::DELETE, &path, Value::Null).await;
            assert_eq!(code, 200, "{answer}");
            let back = async {
                loop {
                    let (code, found) = running.send(Method::GET, &path, Value::Null).await;
                    if code == 200 && found["metadata"]["uid"] != before["metadata"]["uid"] {
                        return found;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let found = tokio::time::timeout(Duration::from_secs(20), back)
                .await
                .expect("it comes back");
            assert_eq!(found["spec"], before["spec"]);
        }
    }
    // What exempt lends may change.
    let path = format!("{GROUP}/prioritylevelconfigurations/exempt");
    let change = json!({"spec": {"exempt": {"nominalConcurrencyShares": 10, "lendablePercent": 50}}});
    let (code, answer) = running.send(Method::PATCH, &path, change).await;
    assert_eq!(code, 200, "{answer}");
    running.stop().await;
}
