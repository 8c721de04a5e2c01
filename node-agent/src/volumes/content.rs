//! Which files a volume holds: pure functions from objects to payloads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic::{Content, Payload};
use crate::pods::fields;

/// Adds the entries of one object, all of them or the chosen keys. Errors are the sentences that
/// follow "MountVolume.SetUp failed for volume ...: ".
pub fn add_items(
    payload: &mut Payload,
    data: BTreeMap<&str, &[u8]>,
    items: &[KeyToPath],
    mode: u32,
    optional: bool,
) -> Result<(), String> {
    if items.is_empty() {
        for (key, bytes) in data {
            payload.insert(
                key.to_string(),
                Content {
                    bytes: bytes.to_vec(),
                    mode,
                    owner: None,
                },
            );
        }
        return Ok(());
    }
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.map_or(mode, |mode| super::permissions(mode) & 0o777);
                payload.insert(
                    item.path.clone(),
                    Content {
                        bytes: bytes.to_vec(),
                        mode,
                        owner: None,
                    },
                );
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

/// A ConfigMap's entries, text and binary.
pub fn config_map_data(object: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

/// A Secret's entries.
pub fn secret_data(object: &Secret) -> BTreeMap<&str, &[u8]> {
    object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()))
        .collect()
}

/// Adds the pod's own fields.
pub fn add_downward(
    payload: &mut Payload,
    pod: &Pod,
    node: &fields::NodeFacts,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fields::field(pod, node, &field.field_path)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(resource) = &item.resource_field_ref {
            fields::resource(
                pod,
                node,
                resource.container_name.as_deref().unwrap_or_default(),
                resource,
            )?
        } else {
            continue;
        };
        let mode = item.mode.map_or(mode, |mode| super::permissions(mode) & 0o777);
        payload.insert(
            item.path.clone(),
            Content {
                bytes: text.into_bytes(),
                mode,
                owner: None,
            },
        );
    }
    Ok(())
}
