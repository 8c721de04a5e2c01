//! The peers' own certificate authority, apart from the cluster's, and what proves a joiner.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use coxswain_consensus::peers::{Credentials, PEER_NAME, common_name};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

use crate::pki::write_secret;

const CA_DAYS: i64 = 3650;
/// A member's certificate is made anew at each start.
const MEMBER_DAYS: i64 = 3650;

fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki").join("peers")
}

/// The authority, made if there is none, and a fresh certificate of it for a member.
///
/// # Errors
/// When files cannot be read or written, or don't belong together.
pub fn ensure(data_dir: &Path, id: u64) -> Result<Credentials> {
    let dir = dir(data_dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    if !cert_path.exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, "coxswain-peers");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, CA_DAYS)?;
        // The certificate comes last: without it there is no authority.
        write_secret(&key_path, &key.serialize_pem())?;
        write_secret(&cert_path, &params.self_signed(&key)?.pem())?;
    }
    let ca_pem = read(&cert_path)?;
    let unusable = || format!("{} is damaged", key_path.display());
    let ca_key = KeyPair::from_pem(&read(&key_path)?).with_context(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).with_context(unusable)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![PEER_NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, common_name(id));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, MEMBER_DAYS)?;
    let cert_pem = params.signed_by(&key, &issuer)?.pem();
    secret(data_dir)?;
    Ok(Credentials {
        ca_pem,
        cert_pem,
        key_pem: key.serialize_pem(),
    })
}

/// What a joiner has to know, made if there is none.
///
/// # Errors
/// When it cannot be read or written.
pub fn secret(data_dir: &Path) -> Result<String> {
    let path = dir(data_dir).join("secret");
    if !path.exists() {
        let mut bytes = [0u8; 16];
        let random = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
        random.context("random numbers")?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret(&path, &digits)?;
    }
    Ok(read(&path)?.trim().to_owned())
}

/// What a joiner is started with: the authority's digest and the secret.
///
/// # Errors
/// When there is no authority here.
pub fn token(data_dir: &Path) -> Result<String> {
    let ca_pem = read(&dir(data_dir).join("ca.crt"))?;
    let credentials = Credentials {
        ca_pem,
        cert_pem: String::new(),
        key_pem: String::new(),
    };
    Ok(format!("{}.{}", credentials.ca_digest()?, secret(data_dir)?))
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

    #[test]
    fn the_authority_and_the_secret_stay() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let first = ensure(dir.path(), 1)?;
        let shown = token(dir.path())?;
        let second = ensure(dir.path(), 2)?;
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_ne!(first.cert_pem, second.cert_pem);
        assert_eq!(shown, token(dir.path())?);
        assert!(
            shown
                .split_once('.')
                .is_some_and(|(digest, secret)| digest.len() == 64 && secret.len() == 32)
        );
        Ok(())
    }
}
