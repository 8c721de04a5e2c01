//! Content negotiation: which form of an answer an `Accept` header asks for.
//!
//! JSON and YAML are served, and on top of either the `Table` and `PartialObjectMetadata(List)`
//! views. Protobuf is named in refusals, as Kubernetes does, but only chosen when listed together
//! with a form that is served. Clauses count in the order of their quality.

use coxswain_api::ApiError;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
}

impl Encoding {
    /// The `Content-Type` of the encoding.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Which view of the object is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum View {
    /// The object itself.
    #[default]
    Whole,
    /// `as=Table`
    Table,
    /// `as=PartialObjectMetadata`
    Partial,
    /// `as=PartialObjectMetadataList`
    PartialList,
}

/// Encoding, view, and whether JSON is indented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Form {
    /// How the answer is written.
    pub encoding: Encoding,
    /// Which view of the object.
    pub view: View,
    /// Indent JSON.
    pub pretty: bool,
}

/// Media types named in refusals.
pub const ACCEPTED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// One clause of an `Accept` header.
#[derive(Debug)]
pub struct Clause<'a> {
    /// `type/subtype`, lower case not enforced.
    pub media: &'a str,
    /// Parameters other than `q`.
    pub parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }
}

/// The clauses of an `Accept` header, best quality first, equal ones as they came.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let mut quality = 1.0;
            let mut parameters = Vec::new();
            for part in parts {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                let (key, value) = (key.trim(), value.trim().trim_matches('"'));
                match key {
                    "q" => quality = value.parse().unwrap_or(1.0),
                    _ => parameters.push((key, value)),
                }
            }
            Some(Clause {
                media,
                parameters,
                quality,
            })
        })
        .collect();
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    out
}

/// The answer when no clause names a media type that is served at all: go-restful's words.
pub fn unknown_media() -> ApiError {
    ApiError {
        code: 406,
        reason: "NotAcceptable",
        message: format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            ACCEPTED.join(", ")
        ),
        details: Some(serde_json::json!({})),
        retry_after_s: None,
    }
}

fn encoding_of(media: &str) -> Option<Encoding> {
    match media {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        _ => None,
    }
}

/// Whether any clause names a type that the routes of resources know.
pub fn routable(accept: &str) -> bool {
    accept.trim().is_empty()
        || accept.split(',').any(|clause| {
            let media = clause.split(';').next().unwrap_or_default().trim();
            media == "*/*" || media == "application/*" || ACCEPTED.contains(&media)
        })
}

/// Chooses the form of an answer about a resource.
///
/// # Errors
/// 406, in one of the two wordings Kubernetes has.
pub fn resource_form(accept: &str) -> Result<Form, ApiError> {
    if !routable(accept) {
        return Err(unknown_media());
    }
    if accept.trim().is_empty() {
        return Ok(Form::default());
    }
    for clause in clauses(accept) {
        let Some(encoding) = encoding_of(clause.media) else {
            continue;
        };
        let known_version =
            clause.parameter("g") == Some("meta.k8s.io") && matches!(clause.parameter("v"), Some("v1" | "v1beta1"));
        let view = match clause.parameter("as") {
            None => View::Whole,
            Some("Table") if known_version => View::Table,
            Some("PartialObjectMetadata") if known_version => View::Partial,
            Some("PartialObjectMetadataList") if known_version => View::PartialList,
            Some(_) => continue,
        };
        if clause.parameter("stream").is_some_and(|stream| stream != "watch") {
            continue;
        }
        let pretty = clause.parameter("pretty") == Some("1");
        return Ok(Form { encoding, view, pretty });
    }
    Err(ApiError::not_acceptable(ACCEPTED))
}

/// Chooses the encoding of an answer without views (discovery, reviews of errors).
pub fn plain_form(accept: &str) -> Option<Encoding> {
    if accept.trim().is_empty() {
        return Some(Encoding::Json);
    }
    clauses(accept).iter().find_map(|clause| match clause.parameter("as") {
        None => encoding_of(clause.media),
        Some(_) => None,
    })
}

/// Indentation asked for by the `pretty` parameter, or given to people's tools.
pub fn pretty(parameter: Option<bool>, user_agent: &str) -> bool {
    parameter.unwrap_or_else(|| {
        ["curl", "Wget", "Mozilla/5.0"]
            .iter()
            .any(|agent| user_agent.starts_with(agent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("", Some((Encoding::Json, View::Whole))),
            ("*/*", Some((Encoding::Json, View::Whole))),
            ("text/plain", None),
            (
                "application/xml,application/json;q=0.9",
                Some((Encoding::Json, View::Whole)),
            ),
            (
                "application/json;q=0.5,application/yaml",
                Some((Encoding::Yaml, View::Whole)),
            ),
            (table, Some((Encoding::Json, View::Table))),
            ("application/json;as=Chair;v=v1;g=meta.k8s.io", None),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                Some((Encoding::Json, View::Whole)),
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some((Encoding::Json, View::Whole)),
            ),
            (
                "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                Some((Encoding::Json, View::Partial)),
            ),
        ];
        for (accept, expected) in cases {
            let found = resource_form(accept).ok().map(|form| (form.encoding, form.view));
            assert_eq!(found, expected, "{accept}");
        }
    }
}
