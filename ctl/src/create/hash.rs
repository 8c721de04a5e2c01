//! Names that end with a hash of what a ConfigMap or Secret holds, as kubectl and kustomize make them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The object, with the hash added to its name when `wanted`.
#[must_use]
pub fn named(mut object: Value, wanted: bool) -> Value {
    if wanted {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        object["metadata"]["name"] = format!("{name}-{}", hash(&object)).into();
    }
    object
}

/// Ten letters that depend on kind, name, type and contents, none of which spells a word by accident.
#[must_use]
pub fn hash(object: &Value) -> String {
    let mut what = json!({"kind": object["kind"], "name": object["metadata"]["name"]});
    let filled = |value: &Value| value.as_object().is_some_and(|map| !map.is_empty());
    if object["kind"] == "Secret" {
        what["type"] = object.get("type").cloned().unwrap_or_else(|| "".into());
        what["data"] = object.get("data").cloned().unwrap_or(Value::Null);
        if filled(&object["stringData"]) {
            what["stringData"] = object["stringData"].clone();
        }
    } else {
        // An absent map is hashed as the empty text, as the reference implementation does.
        what["data"] = object.get("data").cloned().unwrap_or_else(|| "".into());
        if filled(&object["binaryData"]) {
            what["binaryData"] = object["binaryData"].clone();
        }
    }
    if object["immutable"].is_boolean() {
        what["immutable"] = object["immutable"].clone();
    }
    let digest = Sha256::digest(what.to_string().as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars()
        .take(10)
        .map(|c| match c {
            '0' => 'g',
            '1' => 'h',
            '3' => 'k',
            'a' => 'm',
            'e' => 't',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_that_kubectl_makes() {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"x": "1\n"}});
        assert_eq!(named(map.clone(), true)["metadata"]["name"], "x-bcth5tb4gg");
        assert_eq!(named(map, false)["metadata"]["name"], "x");
    }
}
