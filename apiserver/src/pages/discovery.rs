//! `/api`, `/apis` and below: which groups, versions and resources there are.

use std::sync::{Arc, Mutex, PoisonError};

use coxswain_api::{ApiError, Registry, discovery};
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, VARY};
use serde_json::Value;
use sha2::{Digest, Sha512};

use super::Page;
use crate::answer::{self, Reply};
use crate::negotiate::{self, ACCEPTED};
use crate::route::Target;
use crate::shared::Shared;

/// The aggregated documents of one registry, made on first use.
#[derive(Default)]
pub(crate) struct DiscoveryCache(Mutex<Vec<Cached>>);

struct Cached {
    registry: Arc<Registry>,
    core: bool,
    version: &'static str,
    bytes: bytes::Bytes,
    etag: String,
}

/// Answers a discovery path.
pub(super) fn answer(shared: &Shared, target: &Target, page: &Page<'_>) -> Result<Reply, ApiError> {
    let registry = shared.registry();
    match target {
        Target::ApiVersions | Target::ApiGroups => {
            let core = *target == Target::ApiVersions;
            if !negotiate::routable(page.accept) {
                return Err(if core {
                    negotiate::unknown_media(false)
                } else {
                    ApiError::not_acceptable(ACCEPTED)
                });
            }
            for clause in negotiate::clauses(page.accept) {
                let aggregated = clause.parameter("as") == Some("APIGroupDiscoveryList")
                    && clause.parameter("g") == Some("apidiscovery.k8s.io")
                    && clause.media == "application/json";
                match clause.parameter("v") {
                    Some("v2") if aggregated => return aggregated_document(shared, &registry, core, "v2", page),
                    Some("v2beta1") if aggregated => {
                        return aggregated_document(shared, &registry, core, "v2beta1", page);
                    }
                    _ => {}
                }
                if clause.parameter("as").is_none()
                    && matches!(
                        clause.media,
                        "*/*"
                            | "application/*"
                            | "application/json"
                            | "application/yaml"
                            | "application/vnd.kubernetes.protobuf"
                    )
                {
                    break;
                }
            }
            let (address, port) = shared.config.advertise;
            let value = if core {
                discovery::api_versions(&format!("{address}:{port}"))
            } else {
                discovery::api_group_list(&registry)
            };
            page.json(&value)
        }
        Target::ApiGroup(name) => {
            let value = discovery::api_group(&registry, name).ok_or_else(ApiError::page_not_found)?;
            page.json(&value)
        }
        Target::ApiResources { group, version } => {
            if !registry.has_version(group, version) {
                return Err(ApiError::unknown_resource());
            }
            if !negotiate::routable(page.accept) {
                return Err(negotiate::unknown_media(false));
            }
            let value = discovery::resource_list(&registry, group, version).ok_or_else(ApiError::unknown_resource)?;
            page.json(&value)
        }
        Target::Resource(_) | Target::Other(_) => Err(ApiError::page_not_found()),
    }
}

fn aggregated_document(
    shared: &Shared,
    registry: &Arc<Registry>,
    core: bool,
    version: &'static str,
    page: &Page<'_>,
) -> Result<Reply, ApiError> {
    let (bytes, etag) = shared.discovery.get(registry, core, version);
    let fresh = page.has(&etag);
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let mut reply = if fresh {
        answer::raw(304, &content_type, "")
    } else {
        answer::raw(200, &content_type, bytes)
    };
    if fresh {
        reply.headers_mut().remove(CONTENT_TYPE);
    }
    if let Ok(value) = HeaderValue::from_str(&etag) {
        reply.headers_mut().insert(ETAG, value);
    }
    reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(reply)
}

impl DiscoveryCache {
    fn get(&self, registry: &Arc<Registry>, core: bool, version: &'static str) -> (bytes::Bytes, String) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|entry| Arc::ptr_eq(&entry.registry, registry));
        if let Some(entry) = cached
            .iter()
            .find(|entry| entry.core == core && entry.version == version)
        {
            return (entry.bytes.clone(), entry.etag.clone());
        }
        let mut value: Value = discovery::aggregated(
            registry,
            if core {
                discovery::Root::Core
            } else {
                discovery::Root::Groups
            },
        );
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".to_owned(), format!("apidiscovery.k8s.io/{version}").into());
        }
        let bytes = crate::call::encode(&value);
        let digest: String = Sha512::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let etag = format!("\"{digest}\"");
        cached.push(Cached {
            registry: registry.clone(),
            core,
            version,
            bytes: bytes.clone(),
            etag: etag.clone(),
        });
        (bytes, etag)
    }
}
