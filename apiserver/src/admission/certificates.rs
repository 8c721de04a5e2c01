//! Signing requests carry who asked, and their conditions when they were set.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Operation, Write};
use crate::answer::now_text;
use crate::authz::Attributes;

/// Stamps the requester on creation and the times of new conditions on approval and status.
pub(super) fn stamp(write: &Write<'_>, request: &mut Value) {
    if write.operation == Operation::Create {
        let user = &write.call.user;
        let spec = access::child(request, "spec");
        access::set(spec, "username", user.name.as_str());
        access::set(spec, "groups", json!(user.groups));
        for (key, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
            let empty = value.as_str() == Some("") || value.as_object().is_some_and(serde_json::Map::is_empty);
            if empty {
                access::remove(spec, key);
            } else {
                access::set(spec, key, value);
            }
        }
        return;
    }
    let now = now_text();
    let old = write.old.cloned().unwrap_or_default();
    for condition in access::each_mut(access::child(request, "status"), "conditions") {
        let before = access::list_at(&old, "/status/conditions")
            .iter()
            .find(|other| access::str_of(other, "type") == access::str_of(condition, "type"));
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if access::has(condition, field) {
                continue;
            }
            match before.filter(|before| access::has(before, field)) {
                Some(before) => access::copy(condition, before, field),
                None => access::set(condition, field, now.as_str()),
            }
        }
    }
}

/// Who may approve and sign, and which names nobody gets.
///
/// # Errors
/// 403 when the user may not do it, or nobody may.
pub(super) fn check(write: &Write<'_>, request: &Value) -> Result<(), ApiError> {
    let signer = access::text(request, "/spec/signerName");
    let refuse = |why: String| Err(write.call.forbidden(access::name(request), why));
    match (write.operation, write.sub) {
        (Operation::Create, None) => {
            let own = write.call.server.authn.towards_agents.as_deref();
            forbidden_subject(signer, request, own).map_or(Ok(()), refuse)
        }
        (Operation::Update, Some("approval")) if !may(write, "approve", signer) => refuse(format!(
            "user not permitted to approve requests with signerName {signer:?}"
        )),
        (Operation::Update, Some("status")) if signs(write, request) && !may(write, "sign", signer) => refuse(format!(
            "user not permitted to sign requests with signerName {signer:?}"
        )),
        _ => Ok(()),
    }
}

/// Whether a write of the status says anything about the certificate.
fn signs(write: &Write<'_>, request: &Value) -> bool {
    let part = |object: &Value, key: &str| access::at(object, "/status").get(key).cloned();
    write.old.is_none_or(|old| {
        ["certificate", "conditions"]
            .iter()
            .any(|key| part(old, key) != part(request, key))
    })
}

/// Whether the user has a verb on a signer, by its name or by its whole domain.
fn may(write: &Write<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let attributes = Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: "certificates.k8s.io".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        let call = write.call;
        call.server
            .authz
            .decide(&call.user, &attributes, write.snapshot)
            .is_allowed()
    })
}

/// Why nobody gets a certificate with the subject that is asked for: it would make its owner almighty, or let it pass for
/// the API server at every node agent.
fn forbidden_subject(signer: &str, request: &Value, towards_agents: Option<&str>) -> Option<String> {
    let text = STANDARD.decode(access::text(request, "/spec/request")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &parsed.certification_request_info.subject;
    // A part that this server cannot read, others may.
    let mut groups = subject.iter_organization();
    if signer == "kubernetes.io/kube-apiserver-client"
        && groups.any(|part| part.as_str().map_or(true, |group| group == "system:masters"))
    {
        return Some(format!(
            "use of {signer} signer with system:masters group is not allowed"
        ));
    }
    let own = towards_agents.filter(|_| signer.starts_with("kubernetes.io/"))?;
    let mut names = subject.iter_common_name();
    names.any(|part| part.as_str().map_or(true, |name| name == own)).then(|| {
        format!("use of {signer} signer with the common name {own:?} is not allowed: it is the API server's, for node agents")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, group: &str) -> Value {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut names = rcgen::CertificateParams::default();
        names.distinguished_name.push(rcgen::DnType::CommonName, name);
        names.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let pem = names.serialize_request(&key).and_then(|r| r.pem()).expect("a request");
        json!({"spec": {"request": STANDARD.encode(pem)}})
    }

    #[test]
    fn nobody_becomes_almighty_or_the_api_server() {
        let (client, kubelet) = (
            "kubernetes.io/kube-apiserver-client",
            "kubernetes.io/kube-apiserver-client-kubelet",
        );
        for (signer, name, group, expected) in [
            (
                client,
                "ann",
                "system:masters",
                "with system:masters group is not allowed",
            ),
            (client, "ann", "developers", ""),
            (
                client,
                "server",
                "developers",
                "with the common name \"server\" is not allowed",
            ),
            (
                kubelet,
                "server",
                "system:nodes",
                "with the common name \"server\" is not allowed",
            ),
            ("example.com/other", "server", "system:masters", ""),
        ] {
            let refused = forbidden_subject(signer, &request(name, group), Some("server")).unwrap_or_default();
            assert_eq!(
                refused.is_empty(),
                expected.is_empty(),
                "{signer} {name} {group}: {refused}"
            );
            assert!(refused.contains(expected), "{signer} {name} {group}: {refused}");
        }
        let broken = json!({"spec": {"request": "not a request"}});
        assert_eq!(forbidden_subject(client, &broken, Some("server")), None);
    }
}
