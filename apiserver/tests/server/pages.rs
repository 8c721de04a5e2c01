//! Pages of a list: one moment over all of them, and what is left when that moment is gone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Running, start_over};

const MAPS: &str = "/api/v1/namespaces/paged/configmaps";

async fn make(running: &Running, name: &str) {
    let (code, made) = running
        .send(Method::POST, MAPS, json!({"metadata": {"name": name}}))
        .await;
    assert_eq!(code, 201, "{made}");
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_one_moment_until_it_is_gone() {
    let running = start_over(|_| {}, |store| store.history.events = 8).await;
    let namespace = json!({"metadata": {"name": "paged"}});
    running.send(Method::POST, "/api/v1/namespaces", namespace).await;
    for name in ["a", "b", "c", "d"] {
        make(&running, name).await;
    }
    let page = |query: String| {
        let running = &running;
        async move {
            running
                .send(Method::GET, &format!("{MAPS}?limit=2{query}"), Value::Null)
                .await
        }
    };
    let (_, first) = page(String::new()).await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a", "b"], &json!(2))
    );
    make(&running, "bb").await;
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    let (_, second) = page(format!("&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"], "what came later is not of that moment");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );

    // A token of a moment that nothing is left of: 410, and one that goes on with what there is now.
    for number in 0..20 {
        make(&running, &format!("z{number}")).await;
    }
    let old = json!({"v": "meta.k8s.io/v1", "rv": 2, "start": "b\0"}).to_string();
    let (code, gone) = page(format!("&continue={}", URL_SAFE_NO_PAD.encode(old))).await;
    assert_eq!((code, gone["reason"].as_str()), (410, Some("Expired")), "{gone}");
    let token = gone["metadata"]["continue"].as_str().expect("a token");
    let (code, rest) = page(format!("&continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["bb", "c"]), "{rest}");
    let (_, next) = page(format!(
        "&continue={}",
        rest["metadata"]["continue"].as_str().expect("more")
    ))
    .await;
    assert_eq!(names(&next), ["d", "z0"]);
    running.stop().await;
}
