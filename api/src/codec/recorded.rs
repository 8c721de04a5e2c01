//! The codecs against the recordings, when the workspace has its sibling with them.

use serde_json::Value;

use super::*;
use crate::registry::Registry;

/// Calls `look` with every step of every recorded case.
fn each_step(mut look: impl FnMut(&str, &Value)) {
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/oracle/cases");
    let Ok(areas) = std::fs::read_dir(cases) else { return };
    for area in areas.flatten() {
        for file in std::fs::read_dir(area.path()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let text = text
                .replace("<time>", "2026-01-01T00:00:00Z")
                .replace("\"<port>\"", "30000");
            let case: Value = serde_json::from_str(&text).unwrap();
            for (position, step) in case["steps"].as_array().into_iter().flatten().enumerate() {
                look(
                    &format!("{:?} step {position} {}", file.path().file_name(), step["path"]),
                    step,
                );
            }
        }
    }
}

/// Every recorded answer of a built-in kind is already in the form that we print.
#[test]
fn recorded_answers_are_fixed_points() {
    let mut wrong = Vec::new();
    each_step(|place, step| {
        if step.get("select").is_none() && step.get("match").is_none() && step.get("ignore").is_none() {
            compare(&step["expect"]["body"], place, &mut wrong);
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(recorded: &Value, place: &str, wrong: &mut Vec<String>) {
    let (Some(api_version), Some(kind)) = (recorded["apiVersion"].as_str(), recorded["kind"].as_str()) else {
        return;
    };
    let (group, version) = split_api_version(api_version);
    let Some(name) = crate::registry::type_name(group, version, kind) else {
        return;
    };
    let mut value = recorded.clone();
    match check_fields(&mut value, name, Validation::Strict) {
        Err(why) => wrong.push(format!("{place}: {why}")),
        Ok(_) if value != *recorded => wrong.push(format!("{place}:\n  is    {value}\n  wants {recorded}")),
        Ok(_) => {}
    }
}

/// Every recorded body that was accepted is decoded, and every decoding error has the recorded words.
#[test]
fn recorded_bodies_are_decoded_as_recorded() {
    let registry = Registry::builtin();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    each_step(|place, step| {
        let Some((resource, validation)) = target(&registry, step) else {
            return;
        };
        let (body, media) = match (&step["body"], step["text"].as_str()) {
            (Value::Null, None) => return,
            (_, Some(text)) if step["headers"]["content-type"] == "application/yaml" => (text.to_owned(), Media::Yaml),
            (_, Some(text)) => (text.to_owned(), Media::Json),
            (body, None) => (body.to_string(), Media::Json),
        };
        let body = body.replace("${fill:", "");
        let result = decode_object(
            body.as_bytes(),
            media,
            &resource.gvk(),
            resource.node(),
            validation,
            &Limits::default(),
        );
        let message = step["expect"]["body"]["message"].as_str().unwrap_or("");
        let status = step["expect"]["status"].as_u64().unwrap_or(0);
        seen += 1;
        match result {
            Ok(_) if message.contains("cannot be handled as") => {
                wrong.push(format!("{place}: accepted, wants {message}"))
            }
            Err(error) if (200..300).contains(&status) => wrong.push(format!("{place}: refused: {error}")),
            Err(error) if message.contains("cannot be handled as") && parts(&error.message) != parts(message) => {
                wrong.push(format!("{place}:\n  is    {error}\n  wants {message}"));
            }
            _ => {}
        }
    });
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The problems of a sentence without their order: a body given as a value here is sorted.
fn parts(message: &str) -> Vec<&str> {
    let (subject, problems) = message.split_once("strict decoding error: ").unwrap_or((message, ""));
    let mut parts: Vec<&str> = problems.split(", ").chain([subject]).collect();
    parts.sort_unstable();
    parts
}

/// What a creating or replacing request is about.
fn target<'a>(registry: &'a Registry, step: &Value) -> Option<(&'a crate::Resource, Validation)> {
    let method = step["method"].as_str()?;
    let media = step["headers"]["content-type"].as_str().unwrap_or("application/json");
    if !matches!(method, "POST" | "PUT") || !matches!(media, "application/json" | "application/yaml") {
        return None;
    }
    let (path, query) = step["path"]
        .as_str()?
        .split_once('?')
        .unwrap_or((step["path"].as_str()?, ""));
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts.len() < 3 {
        return None;
    }
    let named_group = parts.remove(0) == "apis";
    let group = if named_group { parts.remove(0) } else { "" };
    let version = parts.remove(0);
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let allowed = if method == "POST" { 1 } else { 2 };
    let resource = registry
        .resource(group, version, parts.first()?)
        .filter(|_| parts.len() == allowed)?;
    let validation = match query.split('&').find_map(|pair| pair.strip_prefix("fieldValidation=")) {
        Some("Strict") => Validation::Strict,
        Some("Ignore") => Validation::Ignore,
        _ => Validation::Warn,
    };
    Some((resource, validation))
}
