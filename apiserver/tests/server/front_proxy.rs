//! A proxy in front of the server: whom it names, whom nobody believes, and what extension servers learn of it.

use coxswain_apiserver::FrontProxy;
use http::Method;
use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
use serde_json::{Value, json};

use crate::harness::{Issuer, Running, authority, intermediate, leaf, start_with};

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
        (&proxy, "x-remote-group: system:masters\r\n", 401, "Unauthorized"),
        (&proxy, "x-remote-user: \r\n", 401, "Unauthorized"),
        (&proxy, "", 401, "Unauthorized"),
        // Nor is one whose words cannot be read.
        (
            &proxy,
            "x-remote-user: ann\r\nx-remote-user: bob\r\n",
            401,
            "Unauthorized",
        ),
        (
            &proxy,
            "x-remote-user: ann\r\nx-remote-extra-k%zz: v\r\n",
            401,
            "Unauthorized",
        ),
        (&proxy, "x-remote-user: änn\r\n", 403, "User \\\"änn\\\" cannot list"),
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

/// Whose a certificate is decides its whole chain: neither kind of authority vouches for the other's people, whether
/// it signed them itself or by an intermediate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intermediates_vouch_for_their_own_kind_alone() {
    let (front, clients) = (authority("front"), authority("clients"));
    let (front_pem, clients_pem) = (front.pem(), clients.pem());
    let running = start_with(|settings| {
        // The administrator of the test keeps its own authority.
        settings.client_ca_pem += &clients_pem;
        settings.front_proxy = Some(FrontProxy::new(front_pem));
    })
    .await;
    let (below_front, below_clients) = (intermediate(&front, "front-2"), intermediate(&clients, "clients-2"));
    let chained = |issuer: &Issuer| {
        let (certificate, key) = leaf(issuer, "system:masters", ClientAuth);
        (certificate + &issuer.pem(), key)
    };
    let ann = "x-remote-user: ann\r\n";
    let masters = "x-remote-user: ann\r\nx-remote-group: system:masters\r\n";
    let cases = [
        // Clients are themselves, whatever the headers say.
        ("a client", leaf(&clients, "system:masters", ClientAuth), ann, 200, ""),
        ("a client below", chained(&below_clients), "", 200, ""),
        ("a client below", chained(&below_clients), ann, 200, ""),
        // Proxies are never themselves, and name anybody.
        (
            "a proxy",
            leaf(&front, "system:masters", ClientAuth),
            "",
            401,
            "Unauthorized",
        ),
        ("a proxy below", chained(&below_front), "", 401, "Unauthorized"),
        (
            "a proxy below",
            chained(&below_front),
            ann,
            403,
            "User \\\"ann\\\" cannot list",
        ),
        ("a proxy below", chained(&below_front), masters, 200, ""),
    ];
    for (what, pair, headers, want, words) in cases {
        let (code, text) = asks(&running, &pair, headers).await;
        assert!(code == want && text.contains(words), "{what} {headers}: {code} {text}");
    }
    running.stop().await;
}
