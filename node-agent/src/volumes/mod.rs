//! A pod's volumes on the node: made before its containers, kept current, removed after them.
//!
//! Owns `<data-dir>/agent/pods/<uid>/volumes/`. Secrets, tokens and downward files live in memory
//! file systems only. `ensure` is idempotent: it is run again whenever a referenced object, the pod's
//! metadata or a token's age asks for it, and only writes what differs. Volumes that this node cannot
//! provide are refused with a sentence, never silently left empty.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod atomic;
pub mod content;
pub mod host;
pub mod mounts;
pub mod references;
pub mod sub_path;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume};

use atomic::{Content, Payload};
use coxswain_beneath::{Dir, is_component};
use coxswain_client::Client;
use references::References;

use crate::pods::fields::NodeFacts;

/// Where each volume of a pod is on the node, and when its tokens want to be renewed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volumes {
    /// Host path by volume name.
    pub paths: BTreeMap<String, PathBuf>,
    /// When `ensure` must run again at the latest.
    pub refresh_at: Option<Timestamp>,
}

/// Why a volume is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct VolumeError {
    /// The volume's name in the pod.
    pub volume: String,
    /// What is wrong.
    pub reason: String,
}

/// What making volumes needs from outside.
#[derive(Clone)]
pub struct Sources<'a> {
    /// For service account tokens.
    pub client: &'a Client,
    /// The node's facts, for downward fields.
    pub node: &'a NodeFacts,
    /// Current ConfigMaps and Secrets of the pod.
    pub references: &'a References,
    /// Tokens that are still good, by volume and path.
    pub tokens: &'a tokio::sync::Mutex<BTreeMap<String, Token>>,
    /// Where the pod's image volumes are mounted, by volume.
    pub images: &'a BTreeMap<String, PathBuf>,
    /// Now.
    pub now: Timestamp,
}

/// A service account token that was issued for the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub text: String,
    /// When to ask for a new one.
    pub renew_at: Timestamp,
}

/// Makes or refreshes all volumes of a pod below its directory, which is open as `root`.
pub async fn ensure(pod: &Pod, directory: &Path, root: &Dir, sources: &Sources<'_>) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::default();
    let Some(spec) = &pod.spec else { return Ok(volumes) };
    let group = spec
        .security_context
        .as_ref()
        .and_then(|context| context.fs_group)
        .and_then(|id| u32::try_from(id).ok());
    for volume in spec.volumes.iter().flatten() {
        let path = ensure_one(pod, volume, (directory, root), group, sources, &mut volumes.refresh_at)
            .await
            .map_err(|reason| VolumeError {
                volume: volume.name.clone(),
                reason,
            })?;
        volumes.paths.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

async fn ensure_one(
    pod: &Pod,
    volume: &Volume,
    (directory, root): (&Path, &Dir),
    group: Option<u32>,
    sources: &Sources<'_>,
    refresh_at: &mut Option<Timestamp>,
) -> Result<PathBuf, String> {
    if !is_component(&volume.name) {
        return Err(format!("{:?} is no name for a volume", volume.name));
    }
    let place = |plugin: &str| directory.join(plugin).join(&volume.name);
    if let Some(source) = &volume.host_path {
        host::check(&source.path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(PathBuf::from(&source.path));
    }
    if let Some(source) = &volume.empty_dir {
        let path = place(EMPTY_DIR);
        let in_memory = source.medium.as_deref() == Some("Memory");
        let limit = source.size_limit.as_ref().and_then(fields_bytes);
        host::empty_dir(root, EMPTY_DIR, &volume.name, in_memory, limit, group)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(path);
    }
    if volume.image.is_some() {
        let mounted = sources.images.get(&volume.name).cloned();
        return mounted.ok_or_else(|| "its image is not mounted".to_string());
    }
    let (plugin, payload) = if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let payload = config_map(sources, &source.name, source.items.as_deref(), mode, source.optional).await?;
        (CONFIG_MAP, payload)
    } else if let Some(source) = &volume.secret {
        let mode = mode(source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or_default();
        (
            SECRET,
            secret(sources, name, source.items.as_deref(), mode, source.optional).await?,
        )
    } else if let Some(source) = &volume.downward_api {
        let mut payload = Payload::new();
        let items = source.items.as_deref().unwrap_or_default();
        content::add_downward(&mut payload, pod, sources.node, items, mode(source.default_mode))?;
        (DOWNWARD_API, payload)
    } else if let Some(source) = &volume.projected {
        (
            PROJECTED,
            projected(pod, &volume.name, source, sources, refresh_at).await?,
        )
    } else {
        return Err("this kind of volume is not supported by this node".into());
    };
    let path = place(plugin);
    let stamp = sources.now.strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let write = || {
        let dir = host::memory_dir(root, plugin, &volume.name)?;
        atomic::write(&dir, &payload, group, &stamp)?;
        match group {
            Some(group) => host::give_to_group(&dir, group),
            None => Ok(()),
        }
    };
    write().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

const EMPTY_DIR: &str = "volumes/kubernetes.io~empty-dir";
const CONFIG_MAP: &str = "volumes/kubernetes.io~configmap";
const SECRET: &str = "volumes/kubernetes.io~secret";
const DOWNWARD_API: &str = "volumes/kubernetes.io~downward-api";
const PROJECTED: &str = "volumes/kubernetes.io~projected";
/// Where a pod's image volumes are below its directory.
pub const IMAGES: &str = "volumes/kubernetes.io~image";

/// Whether containers may only read a volume, whatever their mounts say: the agent alone writes those that show objects
/// of the cluster, and images are shared.
pub fn is_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.image.is_some()
}

fn mode(default: Option<i32>) -> u32 {
    default.map_or(0o644, |mode| permissions(mode) & 0o777)
}

/// A file mode of the API; what is none means no permissions.
fn permissions(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0)
}

fn fields_bytes(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Option<u64> {
    crate::pods::resources::bytes(quantity)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|bytes| *bytes > 0)
}

async fn config_map(
    sources: &Sources<'_>,
    name: &str,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let optional = optional.unwrap_or(false);
    let mut payload = Payload::new();
    match sources.references.config_map(name).await {
        Some(object) => {
            content::add_items(
                &mut payload,
                content::config_map_data(&object),
                items.unwrap_or_default(),
                mode,
                optional,
            )?;
        }
        None if optional => {}
        None => return Err(format!("configmap \"{name}\" not found")),
    }
    Ok(payload)
}

async fn secret(
    sources: &Sources<'_>,
    name: &str,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let optional = optional.unwrap_or(false);
    let mut payload = Payload::new();
    match sources.references.secret(name).await {
        Some(object) => {
            content::add_items(
                &mut payload,
                content::secret_data(&object),
                items.unwrap_or_default(),
                mode,
                optional,
            )?;
        }
        None if optional => {}
        None => return Err(format!("secret \"{name}\" not found")),
    }
    Ok(payload)
}

async fn projected(
    pod: &Pod,
    volume: &str,
    source: &ProjectedVolumeSource,
    sources: &Sources<'_>,
    refresh_at: &mut Option<Timestamp>,
) -> Result<Payload, String> {
    let mode = mode(source.default_mode);
    let mut payload = Payload::new();
    for part in source.sources.iter().flatten() {
        if let Some(part) = &part.config_map {
            payload.extend(config_map(sources, &part.name, part.items.as_deref(), mode, part.optional).await?);
        }
        if let Some(part) = &part.secret {
            payload.extend(secret(sources, &part.name, part.items.as_deref(), mode, part.optional).await?);
        }
        if let Some(part) = &part.downward_api {
            let items = part.items.as_deref().unwrap_or_default();
            content::add_downward(&mut payload, pod, sources.node, items, mode)?;
        }
        if let Some(part) = &part.service_account_token {
            let token = token(pod, volume, part, sources).await?;
            *refresh_at = Some(refresh_at.map_or(token.renew_at, |at| at.min(token.renew_at)));
            let owner = sole_user(pod);
            let mode = if owner.is_some() {
                0o600
            } else if has_group(pod) {
                0o640
            } else {
                mode
            };
            payload.insert(
                part.path.clone(),
                Content {
                    bytes: token.text.into_bytes(),
                    mode,
                    owner,
                },
            );
        }
    }
    Ok(payload)
}

fn has_group(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .is_some_and(|context| context.fs_group.is_some())
}

/// The one user that all containers run as, when they say so: token files then belong to it.
fn sole_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| {
            container
                .security_context
                .as_ref()
                .and_then(|context| context.run_as_user)
                .or(of_pod)
        });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

async fn token(
    pod: &Pod,
    volume: &str,
    part: &ServiceAccountTokenProjection,
    sources: &Sources<'_>,
) -> Result<Token, String> {
    let key = format!("{volume}/{}", part.path);
    let mut tokens = sources.tokens.lock().await;
    if let Some(token) = tokens.get(&key)
        && token.renew_at > sources.now
    {
        return Ok(token.clone());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    let seconds = part.expiration_seconds.unwrap_or(3600);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(
                part.audience
                    .clone()
                    .filter(|audience| !audience.is_empty())
                    .into_iter()
                    .collect(),
            ),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api = sources
        .client
        .namespaced::<k8s_openapi::api::core::v1::ServiceAccount>(namespace);
    let answer = api
        .create_token_request(account, &kube::api::PostParams::default(), &request)
        .await
        .map_err(|error| format!("failed to fetch token: {}", crate::pods::events::sentence(&error)))?;
    let status = answer.status.ok_or("failed to fetch token: the answer has no status")?;
    // Renewed after four fifths of its life or a day, whichever comes first.
    let expires = status.expiration_timestamp.map_or(sources.now, |at| at.0);
    let lifetime = expires.as_second().saturating_sub(sources.now.as_second()).max(0);
    let renew_after = SignedDuration::from_secs((lifetime.saturating_mul(4) / 5).min(86_400));
    let renew_at = sources.now.checked_add(renew_after).unwrap_or(sources.now);
    let token = Token {
        text: status.token.unwrap_or_default(),
        renew_at,
    };
    tokens.insert(key, token.clone());
    Ok(token)
}

/// Unmounts and removes everything below a pod's directory, or below that of all pods. A mount that cannot be taken away
/// is an error: nothing is removed through it.
pub fn remove(directory: &Path) -> io::Result<()> {
    mounts::unmount_below(directory);
    match coxswain_beneath::divide(directory, 1) {
        Ok((parent, name)) => parent.remove_all(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
