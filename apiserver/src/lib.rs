//! The HTTP API: everything between a TLS connection and a proposal to the store.
//!
//! One pipeline serves every resource, built-in or custom. A connection is accepted and, when it
//! brings a client certificate, identified; each request gets an id, a panic boundary, an
//! identity, an authorisation verdict, and then runs the steps of its verb over one row of the
//! resource registry. Reads hand out the stored bytes; nothing is re-encoded unless the client
//! asked for another form (YAML, Table, PartialObjectMetadata).
//!
//! This crate is the only one that sees axum types, and it never decides *what* the cluster
//! should look like: controllers do, through the same API as everybody else.

use std::net::{IpAddr, Ipv4Addr};

/// Everything an [`ApiServer`] must be told. All key material is PEM text; nothing is read from
/// disk here.
#[derive(Clone)]
pub struct Config {
    /// Certificate chain the server presents.
    pub tls_cert_pem: String,
    /// Private key of [`Config::tls_cert_pem`].
    pub tls_key_pem: String,
    /// CA that signs client certificates.
    pub client_ca_pem: String,
    /// EC P-256 private key (PKCS#8) that signs and verifies service account tokens (ES256).
    pub service_account_key_pem: String,
    /// Issuer claim of service account tokens.
    pub issuer: String,
    /// Service addresses, network and prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    /// First and last port of the NodePort range.
    pub node_port_range: (u16, u16),
    /// Client certificate presented to node agents (organisation `system:masters`).
    pub kubelet_client_cert_pem: String,
    /// Private key of [`Config::kubelet_client_cert_pem`].
    pub kubelet_client_key_pem: String,
    /// CA that signs the serving certificates of node agents.
    pub kubelet_ca_pem: String,
    /// Address under which the cluster reaches this server (the `kubernetes` Service's endpoint).
    pub advertise: (IpAddr, u16),
    /// CA that pods use to verify this server (`kube-root-ca.crt`).
    pub root_ca_pem: String,
    /// Leave out add-on objects: look like a freshly started Kubernetes control plane.
    pub bare: bool,
}

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name, e.g. `system:serviceaccount:default:builder`.
    pub name: String,
    /// Stable identifier, empty when the authenticator gives none.
    pub uid: String,
    /// Groups, including `system:authenticated`.
    pub groups: Vec<String>,
    /// Extra attributes by key.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}
