//! Seeds from the recorded exchanges with Kubernetes, where they lie beside the checkout.

use std::path::Path;

use serde_json::Value;

/// One recorded request.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `GET`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Media type of the body; `application/json` when none was named.
    pub media: String,
    /// The body, `None` without one.
    pub body: Option<String>,
}

/// Every recorded request; none where the recordings are not.
#[must_use]
pub fn recorded() -> Vec<Recorded> {
    let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/oracle/cases"));
    let mut files: Vec<_> = list(cases).iter().flat_map(|area| list(area)).collect();
    files.sort();
    let cases = files.iter().filter_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    });
    cases
        .flat_map(|case| case["steps"].as_array().cloned().unwrap_or_default())
        .filter_map(|step| {
            Some(Recorded {
                method: step["method"].as_str()?.to_owned(),
                path: step["path"].as_str()?.to_owned(),
                media: step["headers"]["content-type"]
                    .as_str()
                    .unwrap_or("application/json")
                    .to_owned(),
                body: match (&step["body"], step["text"].as_str()) {
                    (Value::Null, text) => text.map(str::to_owned),
                    (body, _) => Some(body.to_string()),
                },
            })
        })
        .collect()
}

fn list(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
