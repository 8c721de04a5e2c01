//! Brings a container's image, by its pull policy, and says in Kubernetes' words what went wrong.

use std::time::Instant;

use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Secret};
use serde_json::Value;

use super::events::PodEvents;
use super::plan::Waiting;
use crate::image::name::{is_latest, normalise};
use crate::runtime::{Credentials, ImageFacts, Runtime};

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// The state now.
    pub waiting: Waiting,
    /// The state while waiting for the next pull.
    pub then: Option<Waiting>,
}

fn failure(reason: &str, message: String) -> ImageFailure {
    ImageFailure {
        waiting: Waiting {
            reason: reason.into(),
            message,
        },
        then: None,
    }
}

/// The image of a container: already present, or pulled now. A volume's image is that of a container
/// without a name.
pub async fn ensure<R: Runtime>(
    runtime: &R,
    container: &Container,
    secrets: &[std::sync::Arc<Secret>],
    events: &PodEvents,
) -> Result<ImageFacts, ImageFailure> {
    let asked = container.image.as_deref().unwrap_or_default();
    let about = Some(container.name.as_str()).filter(|name| !name.is_empty());
    let full = normalise(asked).map_err(|error| {
        let message = format!("Failed to apply default image tag \"{asked}\": {error}");
        events.warning(about, "InspectFailed", &message);
        events.warning(about, "Failed", "Error: InvalidImageName");
        failure("InvalidImageName", message)
    })?;
    let policy =
        container
            .image_pull_policy
            .as_deref()
            .unwrap_or(if is_latest(asked) { "Always" } else { "IfNotPresent" });
    let present = runtime.image(&full).await.map_err(|error| {
        let message = format!("Failed to inspect image \"{asked}\": {error}");
        events.warning(about, "InspectFailed", &message);
        failure("ImageInspectError", message)
    })?;
    // What was loaded into this node by hand has no registry to ask again: its origin is here.
    let loaded_here = present.as_ref().is_some_and(|image| image.digests.is_empty());
    match (policy, present) {
        (_, Some(image)) if policy != "Always" || loaded_here => {
            let message =
                format!("Container image \"{asked}\" already present on machine and can be accessed by the pod");
            events.normal(about, "Pulled", &message);
            Ok(image)
        }
        ("Never", None) => {
            let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
            events.warning(about, "ErrImageNeverPull", &message);
            events.warning(about, "Failed", "Error: ErrImageNeverPull");
            Err(failure("ErrImageNeverPull", message))
        }
        _ => pull(runtime, asked, &full, secrets, events, about).await,
    }
}

async fn pull<R: Runtime>(
    runtime: &R,
    asked: &str,
    full: &str,
    secrets: &[std::sync::Arc<Secret>],
    events: &PodEvents,
    about: Option<&str>,
) -> Result<ImageFacts, ImageFailure> {
    events.normal(about, "Pulling", &format!("Pulling image \"{asked}\""));
    let begun = Instant::now();
    let candidates = credentials(full, secrets);
    let mut outcome = Err(String::new());
    let tries: Vec<Option<&Credentials>> = if candidates.is_empty() {
        vec![None]
    } else {
        candidates.iter().map(Some).collect()
    };
    for credentials in tries {
        outcome = runtime.pull(full, credentials).await.map_err(|error| error.to_string());
        if outcome.is_ok() {
            break;
        }
    }
    let problem = match outcome {
        Ok(_) => match runtime.image(full).await {
            Ok(Some(image)) => {
                let took = duration(begun.elapsed().as_millis());
                let message = format!(
                    "Successfully pulled image \"{asked}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    image.size
                );
                events.normal(about, "Pulled", &message);
                return Ok(image);
            }
            Ok(None) => "the image vanished after it was pulled".to_string(),
            Err(error) => error.to_string(),
        },
        Err(problem) => problem,
    };
    let message = format!("failed to pull and unpack image \"{full}\"");
    let problem = if problem.contains(&message) {
        problem
    } else {
        format!("{message}: {problem}")
    };
    events.warning(about, "Failed", &format!("Failed to pull image \"{asked}\": {problem}"));
    events.warning(about, "Failed", "Error: ErrImagePull");
    events.normal(about, "BackOff", &format!("Back-off pulling image \"{asked}\""));
    events.warning(about, "Failed", "Error: ImagePullBackOff");
    Err(ImageFailure {
        then: Some(Waiting {
            reason: "ImagePullBackOff".into(),
            message: format!("Back-off pulling image \"{asked}\": ErrImagePull: {problem}"),
        }),
        waiting: Waiting {
            reason: "ErrImagePull".into(),
            message: problem,
        },
    })
}

fn duration(ms: u128) -> String {
    if ms < 1000 {
        format!("{ms}ms")
    } else {
        format!("{}.{:03}s", ms / 1000, ms % 1000)
    }
}

/// What pull secrets say about the image's registry.
pub fn credentials(full: &str, secrets: &[std::sync::Arc<Secret>]) -> Vec<Credentials> {
    let registry = full.split('/').next().unwrap_or_default();
    let mut found = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let parse = |key: &str| {
            data.get(key)
                .and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok())
        };
        let hosts = match parse(".dockerconfigjson") {
            Some(config) => config.get("auths").cloned(),
            None => parse(".dockercfg"),
        };
        let Some(Value::Object(hosts)) = hosts else { continue };
        for (host, entry) in hosts {
            let name = host.trim_start_matches("https://").trim_start_matches("http://");
            let name = name.split('/').next().unwrap_or_default();
            let same = name == registry || (registry == "docker.io" && name == "index.docker.io");
            if same {
                found.push(entry_credentials(&entry));
            }
        }
    }
    found
}

fn entry_credentials(entry: &Value) -> Credentials {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty()
        && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(text("auth"))
        && let Ok(decoded) = String::from_utf8(decoded)
        && let Some((user, secret)) = decoded.split_once(':')
    {
        (username, password) = (user.to_string(), secret.to_string());
    }
    Credentials {
        username,
        password,
        auth: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pull_secrets_match_their_registry() {
        let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "quay.io": {"username": "a", "password": "b"}}});
        let bytes = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": bytes}})).expect("secret");
        let secrets = [std::sync::Arc::new(secret)];
        let user = |image: &str| {
            credentials(image, &secrets)
                .first()
                .map(|c| (c.username.clone(), c.password.clone()))
        };
        assert_eq!(user("docker.io/library/nginx:1"), Some(("u".into(), "p".into())));
        assert_eq!(user("quay.io/x/y:1"), Some(("a".into(), "b".into())));
        assert_eq!(user("ghcr.io/x/y:1"), None);
    }
}
