//! This server's own certificate authority (CA) among its peers, apart from the cluster's, and what it signs.
//!
//! Owns `<data-dir>/pki/peers/ca.crt` and `ca.key`. The key never leaves the machine: the other servers know its certificate by
//! the roster, so a server that is removed there can prove nothing any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use anyhow::{Context, Result};
use coxswain_consensus::Store;
use coxswain_consensus::peers::{Credentials, PEER_NAME, Peers, common_name};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

use crate::pki::write_secret;

const CA_DAYS: i64 = 3650;
/// Certificates are issued anew at each start and every [`RENEW_EVERY`]; whole days, by UTC.
const MEMBER_DAYS: i64 = 2;
const RENEW_EVERY: Duration = Duration::from_secs(12 * 3600);

fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki").join("peers")
}

/// The CA's certificate (PEM) and the CA, created if there is none.
fn ensure_ca(data_dir: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let dir = dir(data_dir);
    crate::secrets::create_dir(&dir)?;
    let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    if !cert_path.exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, "coxswain-peers");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, CA_DAYS)?;
        // The certificate comes last: without it there is no CA.
        write_secret(&key_path, &key.serialize_pem())?;
        write_secret(&cert_path, &params.self_signed(&key)?.pem())?;
    }
    let ca_pem = read(&cert_path)?;
    let unusable = || format!("{} is damaged", key_path.display());
    let key = KeyPair::from_pem(&read(&key_path)?).with_context(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).with_context(unusable)?;
    Ok((ca_pem, issuer))
}

/// The certificate of this server's CA (PEM), created if there is none.
///
/// # Errors
/// When files cannot be read or written, or don't belong together.
pub fn ca_pem(data_dir: &Path) -> Result<String> {
    Ok(ensure_ca(data_dir)?.0)
}

/// A fresh certificate for this server as a member of the cluster.
///
/// # Errors
/// When files cannot be read or written, or don't belong together.
pub fn issue(data_dir: &Path, id: u64) -> Result<Credentials> {
    let (ca_pem, issuer) = ensure_ca(data_dir)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![PEER_NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, common_name(id));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, MEMBER_DAYS)?;
    let cert_pem = params.signed_by(&key, &issuer)?.pem();
    Ok(Credentials {
        ca_pem,
        cert_pem,
        key_pem: key.serialize_pem(),
    })
}

/// Renews the certificate that connections show until the store has stopped.
pub async fn keep_fresh(data_dir: PathBuf, id: u64, peers: Weak<Peers>, store: Store) {
    let mut stopped = store.stopped();
    loop {
        let stop = stopped.wait_for(Option::is_some);
        if tokio::time::timeout(RENEW_EVERY, stop).await.is_ok() {
            return;
        }
        let Some(peers) = peers.upgrade() else { return };
        let renewed = issue(&data_dir, id).and_then(|credentials| Ok(peers.renew(&credentials)?));
        if let Err(error) = renewed {
            let error = format!("{error:#}");
            tracing::error!(
                error,
                "the certificate for other servers was not renewed; it is tried again in 12 h"
            );
        }
    }
}

fn set_validity(params: &mut CertificateParams, days: i64) -> Result<()> {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let date = |offset: i64| -> Result<_> {
        let day = today.checked_add(jiff::Span::new().days(offset))?;
        let (month, day_of_month) = (day.month().unsigned_abs(), day.day().unsigned_abs());
        Ok(date_time_ymd(i32::from(day.year()), month, day_of_month))
    };
    params.not_before = date(-1)?;
    params.not_after = date(days)?;
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid_for_s(cert_pem: &str) -> Result<i64> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes())?;
        let certificate = pem.parse_x509()?;
        Ok(certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second())
    }

    #[test]
    fn the_ca_stays_and_its_certificates_are_short_lived() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let first = issue(dir.path(), 1)?;
        let second = issue(dir.path(), 2)?;
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(first.ca_pem, ca_pem(dir.path())?);
        assert_ne!(first.cert_pem, second.cert_pem);
        let left = valid_for_s(&first.cert_pem)?;
        let renewals = left / i64::try_from(RENEW_EVERY.as_secs())?;
        assert!((2..=4).contains(&renewals), "{left} s");
        Ok(())
    }

    #[test]
    fn every_server_has_a_ca_of_its_own() -> Result<()> {
        let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
        assert_ne!(ca_pem(one.path())?, ca_pem(other.path())?);
        Ok(())
    }
}
