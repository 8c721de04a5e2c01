//! The cluster's own certificate authority and everything signed by it.
//!
//! Owns `<data-dir>/pki` (0700; keys 0600). What exists and is still good is kept, so that a restart changes no
//! identity; a leaf that expires within 30 days, that lacks an address the machine has now, or that is damaged or
//! does not belong to its key, is issued anew: the authority can make it again. What cannot be made again (the
//! authority itself, the key of the service account tokens) is refused when damaged; `estate` watches over its loss.
//! Files are written to a temporary name, synced and renamed: a crash leaves the old file or the new one.
//! Does not: rotate the authority itself, or renew while running (a later step).

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::secrets;

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A leaf with less than this left is issued anew at start.
const RENEW_WITHIN_S: i64 = 30 * 24 * 3600;

/// What to do about an authority that cannot be used.
const CURE: &str = "restore it from a backup, or start a new cluster after `coxswain down --purge`";

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Everything the daemon's parts authenticate with.
pub struct Pki {
    pub ca_pem: String,
    /// Signs the certificates that are requested by the API.
    pub ca_key_pem: String,
    pub api_server: Identity,
    /// The API server's client identity towards node agents: they let it in, and the API server itself does not.
    pub kubelet_client: Identity,
    /// The node agent's HTTPS server.
    pub node_serving: Identity,
    /// The node agent's identity towards the API server.
    pub node_client: Identity,
    pub admin: Identity,
    /// P-256 key (PKCS #8) that signs service account tokens.
    pub service_account_key_pem: String,
}

/// What the certificates must cover.
pub struct Names<'a> {
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    pub service_ip: IpAddr,
    pub domain: &'a str,
}

enum Usage {
    Server,
    Client,
}

struct Leaf<'a> {
    file: &'a str,
    common_name: String,
    organization: Option<&'a str>,
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    usage: Usage,
}

/// Loads or creates every identity under `dir`.
///
/// # Errors
/// When a file cannot be read or written, or a stored one is damaged: the message names the file and the cure.
pub fn ensure(dir: &Path, names: &Names<'_>) -> Result<Pki> {
    secrets::create_dir(dir)?;
    let (ca_pem, issuer) = ensure_ca(dir)?;
    let node = format!("system:node:{}", names.node_name);
    let host = names.node_name.to_owned();
    let mut server_dns: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .into();
    server_dns.extend([
        format!("kubernetes.default.svc.{}", names.domain),
        "localhost".to_owned(),
        host.clone(),
    ]);
    let local: Vec<IpAddr> = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
        .into_iter()
        .chain(names.node_ips.iter().copied())
        .collect();
    let server_ips = local.iter().copied().chain([names.service_ip]).collect();
    let client = |file, common_name: &str, organization| Leaf {
        file,
        common_name: common_name.to_owned(),
        organization: Some(organization),
        dns: Vec::new(),
        ips: Vec::new(),
        usage: Usage::Client,
    };
    let issue = |leaf: Leaf<'_>| ensure_leaf(dir, &issuer, &ca_pem, &leaf);
    Ok(Pki {
        api_server: issue(Leaf {
            file: "apiserver",
            common_name: "kube-apiserver".to_owned(),
            organization: None,
            dns: server_dns,
            ips: server_ips,
            usage: Usage::Server,
        })?,
        node_serving: issue(Leaf {
            file: "node-serving",
            common_name: node.clone(),
            organization: Some("system:nodes"),
            dns: vec![host, "localhost".to_owned()],
            ips: local,
            usage: Usage::Server,
        })?,
        kubelet_client: issue(client(
            "apiserver-kubelet-client",
            coxswain_node_agent::API_SERVER_NAME,
            coxswain_node_agent::API_SERVER_GROUP,
        ))?,
        node_client: issue(client("node-client", &node, "system:nodes"))?,
        admin: issue(client("admin", "kubernetes-admin", "system:masters"))?,
        service_account_key_pem: ensure_key(&dir.join("sa.key"))?,
        ca_key_pem: ensure_key(&dir.join("ca.key"))?,
        ca_pem,
    })
}

fn ensure_ca(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    if cert_path.exists() && !key_path.exists() {
        bail!("{} is missing; {CURE}", key_path.display());
    }
    let key_pem = ensure_key(&key_path)?;
    let key = parse_key(&key_path, &key_pem)?;
    if cert_path.exists() {
        let pem = read(&cert_path)?;
        if !certifies(&pem, &key) {
            bail!(
                "{} does not belong to {}; {CURE}",
                key_path.display(),
                cert_path.display()
            );
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|error| damaged(&cert_path, &error))?;
        return Ok((pem, issuer));
    }
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, CA_DAYS)?;
    let pem = params.self_signed(&key)?.pem();
    write_secret(&cert_path, &pem)?;
    Ok((pem, Issuer::new(params, key)))
}

/// Whether the certificate holds this key's public half; also true of what cannot be parsed, which is judged elsewhere.
fn certifies(cert_pem: &str, key: &KeyPair) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else {
        return true;
    };
    X509Certificate::from_der(&pem.contents).map_or(true, |(_, cert)| {
        cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
}

fn ensure_leaf(dir: &Path, issuer: &Issuer<'_, KeyPair>, ca_pem: &str, leaf: &Leaf<'_>) -> Result<Identity> {
    let cert_path = dir.join(format!("{}.crt", leaf.file));
    let key_path = dir.join(format!("{}.key", leaf.file));
    let stored = fs::read_to_string(&key_path).ok();
    let (key, key_pem) = match stored.and_then(|pem| Some((KeyPair::from_pem(&pem).ok()?, pem))) {
        Some(usable) => usable,
        None => {
            let pem = new_key(&key_path)?;
            (parse_key(&key_path, &pem)?, pem)
        }
    };
    if let Ok(cert_pem) = fs::read_to_string(&cert_path)
        && still_good(&cert_pem, ca_pem, leaf)
        && certifies(&cert_pem, &key)
    {
        return Ok(Identity { cert_pem, key_pem });
    }
    let mut params = CertificateParams::new(leaf.dns.clone())?;
    params
        .subject_alt_names
        .extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    if let Some(organization) = leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params
        .distinguished_name
        .push(DnType::CommonName, leaf.common_name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![match leaf.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, LEAF_DAYS)?;
    let cert_pem = params.signed_by(&key, issuer)?.pem();
    write_secret(&cert_path, &cert_pem)?;
    Ok(Identity { cert_pem, key_pem })
}

/// Whether a stored leaf is ours, lasts, and covers the names that are wanted now.
fn still_good(cert_pem: &str, ca_pem: &str, leaf: &Leaf<'_>) -> bool {
    let parse = |pem: &str| {
        x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .ok()
            .map(|(_, p)| p.contents)
    };
    let (Some(der), Some(ca_der)) = (parse(cert_pem), parse(ca_pem)) else {
        return false;
    };
    let (Ok((_, cert)), Ok((_, ca))) = (X509Certificate::from_der(&der), X509Certificate::from_der(&ca_der)) else {
        return false;
    };
    let left_s = cert.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    let sans: Vec<GeneralName<'_>> = cert
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|e| e.value.general_names.clone())
        .unwrap_or_default();
    let has_ip = |ip: &IpAddr| {
        let octets = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        sans.iter()
            .any(|n| matches!(n, GeneralName::IPAddress(b) if *b == octets.as_slice()))
    };
    let has_dns = |name: &String| sans.iter().any(|n| matches!(n, GeneralName::DNSName(d) if d == name));
    let subject = cert.subject();
    let names = subject.iter_common_name().filter_map(|part| part.as_str().ok());
    let groups = subject.iter_organization().filter_map(|part| part.as_str().ok());
    let same_name = names.eq([leaf.common_name.as_str()]) && groups.eq(leaf.organization);
    let same_usage = cert
        .extended_key_usage()
        .ok()
        .flatten()
        .is_some_and(|usage| match leaf.usage {
            Usage::Server => usage.value.server_auth && !usage.value.client_auth,
            Usage::Client => usage.value.client_auth && !usage.value.server_auth,
        });
    left_s > RENEW_WITHIN_S
        && same_name
        && same_usage
        && cert.verify_signature(Some(ca.public_key())).is_ok()
        && leaf.ips.iter().all(has_ip)
        && leaf.dns.iter().all(has_dns)
}

fn set_validity(params: &mut CertificateParams, days: i64) -> Result<()> {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let date = |offset: i64| -> Result<_> {
        let d = today
            .checked_add(jiff::Span::new().days(offset))
            .map_err(|e| anyhow!("the clock is unusable: {e}"))?;
        Ok(date_time_ymd(
            i32::from(d.year()),
            d.month().unsigned_abs(),
            d.day().unsigned_abs(),
        ))
    };
    params.not_before = date(-1)?;
    params.not_after = date(days)?;
    Ok(())
}

fn ensure_key(path: &Path) -> Result<String> {
    if path.exists() {
        let pem = read(path)?;
        parse_key(path, &pem)?;
        return Ok(pem);
    }
    new_key(path)
}

fn new_key(path: &Path) -> Result<String> {
    let pem = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
    write_secret(path, &pem)?;
    Ok(pem)
}

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair> {
    KeyPair::from_pem(pem).map_err(|error| damaged(path, &error))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|_| damaged(path, &"it is not text"))
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!("{} is damaged ({why}); {CURE}", path.display())
}

/// Writes `text` to `path` with mode 0600, durably and atomically.
///
/// # Errors
/// Any failed step; the previous content, if there was one, is then still there.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file needs a folder")?;
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(".tmp");
    let write = || -> std::io::Result<()> {
        // What is there already may be a link, or open to others.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(parent)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ips: &[IpAddr]) -> Names<'_> {
        Names {
            node_name: "n1",
            node_ips: ips,
            service_ip: IpAddr::from([10, 96, 0, 1]),
            domain: "cluster.local",
        }
    }

    #[test]
    fn what_is_good_is_kept_and_a_new_address_renews_only_servers() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let one = [IpAddr::from([192, 0, 2, 1])];
        let first = ensure(dir.path(), &names(&one))?;
        let again = ensure(dir.path(), &names(&one))?;
        assert_eq!(first.ca_pem, again.ca_pem);
        assert_eq!(first.api_server.cert_pem, again.api_server.cert_pem);
        let two = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        let moved = ensure(dir.path(), &names(&two))?;
        assert_ne!(first.api_server.cert_pem, moved.api_server.cert_pem);
        assert_eq!(first.admin.cert_pem, moved.admin.cert_pem);
        assert_eq!(first.service_account_key_pem, moved.service_account_key_pem);
        Ok(())
    }

    /// What earlier versions left: the identity towards agents was an administrator of the API.
    #[test]
    fn the_identity_towards_agents_has_no_rights_and_replaces_an_older_one() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let first = ensure(dir.path(), &names(&[]))?;
        let (ca_pem, issuer) = ensure_ca(dir.path())?;
        let is_let_in = |identity: &Identity| -> Result<bool> {
            let (_, pem) = x509_parser::pem::parse_x509_pem(identity.cert_pem.as_bytes())?;
            Ok(coxswain_node_agent::is_api_server(&pem.contents))
        };
        let has_rights = |identity: &Identity| -> Result<bool> {
            let (_, pem) = x509_parser::pem::parse_x509_pem(identity.cert_pem.as_bytes())?;
            let (_, certificate) = X509Certificate::from_der(&pem.contents)?;
            Ok(certificate.subject().to_string().contains("system:"))
        };
        assert!(is_let_in(&first.kubelet_client)? && !has_rights(&first.kubelet_client)?);
        for other in [&first.admin, &first.api_server, &first.node_serving, &first.node_client] {
            assert!(!is_let_in(other)?);
        }
        fs::remove_file(dir.path().join("apiserver-kubelet-client.crt"))?;
        let old = Leaf {
            file: "apiserver-kubelet-client",
            common_name: "kube-apiserver-kubelet-client".to_owned(),
            organization: Some("system:masters"),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        };
        let old = ensure_leaf(dir.path(), &issuer, &ca_pem, &old)?;
        assert!(has_rights(&old)? && !is_let_in(&old)?);
        let next = ensure(dir.path(), &names(&[]))?;
        assert!(is_let_in(&next.kubelet_client)? && !has_rights(&next.kubelet_client)?);
        assert_eq!(next.admin.cert_pem, first.admin.cert_pem);
        Ok(())
    }

    #[test]
    fn what_cannot_be_made_again_is_named_and_left_alone() -> Result<()> {
        // A file, what is put in its place (another file's content, bytes, or nothing), and the refusal.
        let cases: [(&str, Option<&[u8]>, &str); 6] = [
            ("ca.key", Some(b"garbage"), "ca.key is damaged ("),
            ("ca.key", Some(b"\xff\xfe"), "ca.key is damaged (it is not text)"),
            ("ca.crt", Some(b"garbage"), "ca.crt is damaged ("),
            ("sa.key", Some(b"\xff\xfe"), "sa.key is damaged (it is not text)"),
            ("sa.key", Some(b"garbage"), "sa.key is damaged ("),
            ("ca.key", None, "ca.key is missing"),
        ];
        let dir = tempfile::tempdir()?;
        ensure(dir.path(), &names(&[]))?;
        let refusal = || {
            ensure(dir.path(), &names(&[]))
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default()
        };
        for (file, content, want) in cases {
            let path = dir.path().join(file);
            let good = fs::read(&path)?;
            match content {
                Some(bytes) => fs::write(&path, bytes)?,
                None => fs::remove_file(&path)?,
            }
            let text = refusal();
            assert!(text.contains(want) && text.ends_with(CURE), "{file}: {text}");
            assert_eq!(fs::read(&path).ok().as_deref(), content, "{file}");
            fs::write(&path, good)?;
        }
        fs::copy(dir.path().join("sa.key"), dir.path().join("ca.key"))?;
        assert!(refusal().contains("does not belong to"), "{}", refusal());
        Ok(())
    }

    #[test]
    fn what_the_authority_signed_is_made_again() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let first = ensure(dir.path(), &names(&[]))?;
        let other_key = fs::read(dir.path().join("admin.key"))?;
        let cases: [(&str, &[u8]); 4] = [
            ("apiserver.key", &other_key),
            ("apiserver.key", b"garbage"),
            ("apiserver.crt", b"garbage"),
            ("apiserver.key", b"\xff"),
        ];
        for (file, content) in cases {
            fs::write(dir.path().join(file), content)?;
            let next = ensure(dir.path(), &names(&[]))?;
            let key = KeyPair::from_pem(&next.api_server.key_pem)?;
            let (_, pem) = x509_parser::pem::parse_x509_pem(next.api_server.cert_pem.as_bytes())?;
            let public = X509Certificate::from_der(&pem.contents)?
                .1
                .public_key()
                .subject_public_key
                .data
                .to_vec();
            assert_eq!(public, key.public_key_raw(), "{file}");
            assert_eq!(next.ca_pem, first.ca_pem);
            assert_eq!(next.admin.cert_pem, first.admin.cert_pem);
        }
        Ok(())
    }
}
