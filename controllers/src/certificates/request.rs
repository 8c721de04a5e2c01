//! What a signing request asks for, and the rules of the `kubernetes.io/` signers. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::KEPT;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether this signer is one of the cluster's own.
pub(super) fn is_ours(signer: &str) -> bool {
    [CLIENT, NODE_CLIENT, NODE_SERVING, LEGACY].contains(&signer)
}

/// The parts of a PKCS #10 request that matter; the signature has been checked.
#[derive(Debug)]
pub(super) struct Request {
    /// Subject and public key as they came, DER.
    pub subject: Vec<u8>,
    pub public_key: Vec<u8>,
    /// Content of the subject alternative name extension, DER.
    pub alternative_names: Option<Vec<u8>>,
    /// The common name; empty when there are several.
    pub common_name: String,
    pub organizations: Vec<String>,
    /// Parts of the subject that are neither the common name nor an organization.
    pub other_parts: usize,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// E-mail addresses, URIs and whatever else the subject is called.
    pub other_names: usize,
}

impl Request {
    /// Reads a PEM request and checks that its signature is its key's.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| format!("not PEM: {error}"))?;
        let (_, request) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|error| format!("not a request: {error}"))?;
        request
            .verify_signature()
            .map_err(|_| "the request's signature is not its key's".to_string())?;
        let info = &request.certification_request_info;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_string()
        };
        let names: Vec<String> = info.subject.iter_common_name().map(text).collect();
        let organizations: Vec<String> = info.subject.iter_organization().map(text).collect();
        let parts = info.subject.iter_attributes().count();
        let mut out = Request {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            alternative_names: None,
            common_name: names.first().filter(|_| names.len() == 1).cloned().unwrap_or_default(),
            other_parts: parts.saturating_sub(names.len()).saturating_sub(organizations.len()),
            organizations,
            dns: Vec::new(),
            ips: Vec::new(),
            other_names: 0,
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                out.read_names(&names.general_names);
            }
        }
        Ok(out)
    }

    fn read_names(&mut self, names: &[GeneralName<'_>]) {
        let mut content = Vec::new();
        for name in names {
            match name {
                GeneralName::DNSName(dns) => {
                    self.dns.push((*dns).to_string());
                    content.extend(super::der::tlv(0x82, dns.as_bytes()));
                }
                GeneralName::IPAddress(bytes) => {
                    let ip = <[u8; 4]>::try_from(*bytes)
                        .map(IpAddr::from)
                        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    match ip {
                        Ok(ip) => self.ips.push(ip),
                        Err(_) => bounded::count(&mut self.other_names),
                    }
                    content.extend(super::der::tlv(0x87, bytes));
                }
                GeneralName::RFC822Name(text) => {
                    bounded::count(&mut self.other_names);
                    content.extend(super::der::tlv(0x81, text.as_bytes()));
                }
                GeneralName::URI(text) => {
                    bounded::count(&mut self.other_names);
                    content.extend(super::der::tlv(0x86, text.as_bytes()));
                }
                _ => bounded::count(&mut self.other_names),
            }
        }
        self.alternative_names = Some(super::der::tlv(0x30, &content));
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has decided.
    Pending,
    /// To be signed.
    Approved,
    /// Denied, failed or signed.
    Finished,
}

/// The state from the conditions and the certificate.
pub(super) fn state(csr: &CertificateSigningRequest) -> State {
    let status = csr.status.as_ref();
    let is = |wanted: &str| {
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == wanted)
    };
    let signed = status
        .and_then(|s| s.certificate.as_ref())
        .is_some_and(|c| !c.0.is_empty());
    if signed || is("Denied") || is("Failed") {
        State::Finished
    } else if is("Approved") {
        State::Approved
    } else {
        State::Pending
    }
}

/// Whether a request is still worth keeping.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Age {
    Old,
    /// To be looked at again after this long.
    Until(Duration),
}

/// How old a request is for its state.
pub(super) fn age(csr: &CertificateSigningRequest, now: Timestamp) -> Age {
    let state = state(csr);
    let kept = KEPT
        .iter()
        .find(|(s, _)| *s == state)
        .map_or(KEPT[0].1, |(_, kept)| *kept);
    let times = csr
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let decided = times
        .iter()
        .filter(|c| ["Approved", "Denied", "Failed"].contains(&c.type_.as_str()))
        .filter_map(|c| c.last_update_time.as_ref())
        .map(|t| t.0)
        .max();
    let since = decided
        .or(csr.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .unwrap_or(now);
    let passed = u64::try_from(now.as_second().saturating_sub(since.as_second())).unwrap_or(0);
    match kept.as_secs().checked_sub(passed) {
        None | Some(0) => Age::Old,
        Some(left) => Age::Until(Duration::from_secs(left)),
    }
}

/// Whether a node may be called so: a DNS subdomain of lowercase letters.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|byte| plain(*byte))
            && bytes.last().is_some_and(|byte| plain(*byte))
            && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_part)
}

/// The rules of a request's signer; the error is what its Failed condition says.
pub(super) fn check(csr: &CertificateSigningRequest, request: &Request) -> Result<(), String> {
    const SIGNING: [&str; 2] = ["digital signature", "key encipherment"];
    let usages: BTreeSet<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    let uses = |wanted: &str, required: &[&str]| {
        let known = usages.iter().all(|usage| SIGNING.contains(usage) || *usage == wanted);
        if known && required.iter().all(|usage| usages.contains(usage)) {
            Ok(())
        } else {
            Err(format!("usages did not match {required:?}"))
        }
    };
    let node_subject = || {
        if request.organizations != ["system:nodes"] {
            return Err("subject organization is not system:nodes".to_string());
        }
        if !request.common_name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node: ".to_string());
        }
        if !is_name(request.common_name.strip_prefix("system:node:").unwrap_or_default()) {
            return Err("subject common name is not that of a node".to_string());
        }
        if request.other_parts > 0 {
            return Err("subject may have no parts but the common name and the organization".to_string());
        }
        Ok(())
    };
    match csr.spec.signer_name.as_str() {
        NODE_CLIENT => {
            node_subject()?;
            if !request.dns.is_empty() {
                return Err("DNS subjectAltNames are not allowed".to_string());
            }
            if !request.ips.is_empty() {
                return Err("IP subjectAltNames are not allowed".to_string());
            }
            if request.other_names > 0 {
                return Err("Email and URI subjectAltNames are not allowed".to_string());
            }
            uses("client auth", &["client auth", "digital signature"])
        }
        NODE_SERVING => {
            node_subject()?;
            if request.dns.is_empty() && request.ips.is_empty() {
                return Err("DNS or IP subjectAltName is required".to_string());
            }
            if request.other_names > 0 {
                return Err("Email and URI subjectAltNames are not allowed".to_string());
            }
            uses("server auth", &["server auth", "digital signature"])
        }
        CLIENT => uses("client auth", &["client auth"]),
        _ => Ok(()),
    }
}

/// Bytes as they stand in JSON.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
