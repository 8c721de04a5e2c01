//! A proxy in front of the server: whom it names, whom nobody believes, and what extension servers learn of it.

use coxswain_apiserver::FrontProxy;
use http::Method;
use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
use serde_json::{Value, json};

use crate::harness::{Running, authority, leaf, start_with};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn asks(running: &Running, pair: &(String, String), headers: &str) -> (u16, String) {
    running.ask(Some(pair.clone()), MAPS, headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_proxy_names_users() {
    let front = authority("front");
    let ca_pem = front.pem();
    let running = start_with(|config| {
        let mut proxy = FrontProxy::new(ca_pem.clone());
        proxy.allowed_names = vec!["tester".to_owned()];
        config.front_proxy = Some(proxy);
    })
    .await;
    let (proxy, person) = (leaf(&front, "proxies", ClientAuth), running.administrator());
    let masters = "x-remote-user: ann\r\nx-remote-group: system:masters\r\n";
    let cases = [
        (&proxy, masters, 200, ""),
        (&proxy, "x-remote-user: ann\r\n", 403, "User \\\"ann\\\" cannot list"),
        // A proxy that names nobody is nobody itself, whatever its certificate says.
        (&proxy, "x-remote-group: system:masters\r\n", 403, "system:anonymous"),
        // Others may say what they like.
        (&person, "x-remote-user: ann\r\n", 200, ""),
    ];
    for (pair, headers, want, words) in cases {
        let (code, text) = asks(&running, pair, headers).await;
        assert!(code == want && text.contains(words), "{headers}: {code} {text}");
    }
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (_, map) = running.send(Method::GET, path, Value::Null).await;
    let data = json!({
        "client-ca-file": running.config.client_ca_pem,
        "requestheader-client-ca-file": ca_pem,
        "requestheader-allowed-names": "[\"tester\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    });
    assert_eq!(map["data"], data);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_proxy_of_another_name_is_refused() {
    let front = authority("front");
    let ca_pem = front.pem();
    let running = start_with(|config| {
        let mut proxy = FrontProxy::new(ca_pem);
        proxy.allowed_names = vec!["somebody-else".to_owned()];
        config.front_proxy = Some(proxy);
    })
    .await;
    let proxy = leaf(&front, "proxies", ClientAuth);
    let (code, text) = asks(&running, &proxy, "x-remote-user: ann\r\n").await;
    assert_eq!(code, 401, "{text}");
    running.stop().await;
}
