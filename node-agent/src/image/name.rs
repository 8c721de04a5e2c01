//! Image references as users write them, turned into the full form containerd stores.
//!
//! `nginx` means `docker.io/library/nginx:latest`; a first component with a dot, a colon or the name
//! `localhost` is a registry. Nothing here asks a registry anything.

/// Why a reference cannot name an image; shown after `InvalidImageName`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{reference}\": invalid reference format{detail}")]
pub struct InvalidName {
    reference: String,
    detail: &'static str,
}

/// The full form of an image reference: registry, path, and tag or digest.
pub fn normalise(reference: &str) -> Result<String, InvalidName> {
    let invalid = |detail| InvalidName {
        reference: reference.to_string(),
        detail,
    };
    let (named, digest) = match reference.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest
        && !is_digest(digest)
    {
        return Err(invalid(""));
    }
    let (path, tag) = match named.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (named, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(invalid(""));
    }
    let (domain, rest) = match path.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest.to_string()),
        _ => ("docker.io", path.to_string()),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let rest = if domain == "docker.io" && !rest.contains('/') {
        format!("library/{rest}")
    } else {
        rest
    };
    if rest.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(invalid(": repository name must be lowercase"));
    }
    if rest.is_empty() || !rest.split('/').all(is_component) {
        return Err(invalid(""));
    }
    Ok(match (tag, digest) {
        (_, Some(digest)) => format!("{domain}/{rest}@{digest}"),
        (Some(tag), None) => format!("{domain}/{rest}:{tag}"),
        (None, None) => format!("{domain}/{rest}:latest"),
    })
}

/// Whether a pull policy left open means `Always`: the tag is `latest` and no digest is given.
pub fn is_latest(reference: &str) -> bool {
    normalise(reference).is_ok_and(|full| !full.contains('@') && full.ends_with(":latest"))
}

fn is_domain(part: &str) -> bool {
    (part.contains('.') || part.contains(':') || part == "localhost")
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_full_names() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let table = [
            ("nginx", Some("docker.io/library/nginx:latest".to_string())),
            ("nginx:1.19", Some("docker.io/library/nginx:1.19".to_string())),
            ("me/app:v1", Some("docker.io/me/app:v1".to_string())),
            ("localhost/app", Some("localhost/app:latest".to_string())),
            ("localhost:5000/app:x", Some("localhost:5000/app:x".to_string())),
            ("quay.io/a/b/c", Some("quay.io/a/b/c:latest".to_string())),
            (
                &format!("nginx@{digest}"),
                Some(format!("docker.io/library/nginx@{digest}")),
            ),
            (
                &format!("nginx:1@{digest}"),
                Some(format!("docker.io/library/nginx@{digest}")),
            ),
            ("Nginx", None),
            ("a b", None),
            ("", None),
            ("nginx:", None),
            ("-x", None),
            ("a//b", None),
        ];
        for (reference, expected) in table {
            assert_eq!(normalise(reference).ok(), expected, "{reference}");
        }
        assert!(is_latest("nginx") && is_latest("nginx:latest") && !is_latest("nginx:1"));
    }
}
