//! Content negotiation: which form of an answer an `Accept` header asks for, and what a `Content-Type` means.
//!
//! This follows Kubernetes clause by clause. The router looks first: a header without any media type that the route
//! produces is refused in its words. Then the clauses are tried in the order of their quality, and the first one whose
//! media type is served *and* whose parameters can be honoured wins: `as`, `g` and `v` ask for a view, `stream` for a
//! watch, `pretty` for indentation. Parameters that mean nothing are ignored.

use coxswain_api::ApiError;
use coxswain_api::codec::Media;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// In the order in which wildcards find them.
const ENCODINGS: &[Encoding] = &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf];

impl Encoding {
    /// The `Content-Type` of the encoding.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
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
    /// The view is asked for in its older version, `meta.k8s.io/v1beta1`.
    pub beta_view: bool,
    /// Indent JSON.
    pub pretty: bool,
    /// A watcher in this process wants objects as they are stored.
    pub as_stored: bool,
}

impl Form {
    /// The `apiVersion` of the view.
    pub fn view_version(self) -> &'static str {
        if self.beta_view {
            "meta.k8s.io/v1beta1"
        } else {
            "meta.k8s.io/v1"
        }
    }
}

/// What a route can serve.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Built-in kinds: their objects have a protobuf form, and the router looks at the header first.
    pub builtin: bool,
    /// Rows can be shown.
    pub tables: bool,
    /// The route can also watch.
    pub streams: bool,
}

/// Media types named in refusals.
pub const ACCEPTED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Media types of watches, named in refusals.
pub const STREAMS: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// Most clauses of a header that are looked at.
const CLAUSES_MAX: usize = 64;

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
    /// The value of a parameter; of one that is repeated, the last.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut found = self.parameters.iter().rev().filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| *value)
    }

    /// Whether the clause names this encoding or a wildcard for it.
    fn names(&self, encoding: Encoding) -> bool {
        matches!(self.media, "*/*" | "*" | "application/*") || self.media == encoding.media_type()
    }

    /// Kubernetes' order, which is none: better quality first, but anything exact before a wildcard.
    fn before(&self, other: &Self) -> bool {
        let (kind, sub) = self.media.split_once('/').unwrap_or((self.media, "*"));
        let (other_kind, other_sub) = other.media.split_once('/').unwrap_or((other.media, "*"));
        self.quality > other.quality || (kind != "*" && other_kind == "*") || (sub != "*" && other_sub == "*")
    }
}

/// The clauses of an `Accept` header in the order in which they are tried.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let read = accept.split(',').filter_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().filter(|media| media.contains('/') || *media == "*")?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                continue;
            };
            match (key.trim(), value.trim()) {
                ("q", value) => quality = value.parse().unwrap_or(0.0),
                pair => parameters.push(pair),
            }
        }
        Some(Clause {
            media,
            parameters,
            quality,
        })
    });
    let mut out: Vec<Clause<'_>> = read.take(CLAUSES_MAX).collect();
    // The relation is not transitive, so that the way of sorting decides: by insertion, as short lists are in Go.
    for end in 1..out.len() {
        let mut at = end;
        while let Some([one, two]) = at.checked_sub(1).and_then(|before| out.get(before..=at)) {
            if !two.before(one) {
                break;
            }
            out.swap(at - 1, at);
            at -= 1;
        }
    }
    out
}

/// The answer when no clause names a media type that the route produces: the router's words.
pub fn unknown_media(streams: bool) -> ApiError {
    let mut produced = ACCEPTED.to_vec();
    if streams {
        produced.extend(STREAMS);
    }
    ApiError {
        code: 406,
        reason: "NotAcceptable",
        message: format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            produced.join(", ")
        ),
        details: Some(serde_json::json!({})),
        retry_after_s: None,
    }
}

/// Whether any clause names a type that the routes of resources produce.
pub fn routable(accept: &str) -> bool {
    accept.is_empty()
        || accept.split(',').any(|clause| {
            let media = clause.split(';').next().unwrap_or_default().trim();
            media == "*/*" || ACCEPTED.contains(&media)
        })
}

/// Chooses the form of an answer about a resource.
///
/// # Errors
/// 406, in one of the two wordings Kubernetes has.
pub fn resource_form(accept: &str, offer: Offer) -> Result<Form, ApiError> {
    if offer.builtin && !routable(accept) {
        return Err(unknown_media(offer.streams));
    }
    choose(accept, offer).ok_or_else(|| ApiError::not_acceptable(ACCEPTED))
}

/// Chooses the encoding of an answer without views: discovery, and every error.
pub fn plain_form(accept: &str) -> Option<Encoding> {
    let offer = Offer {
        builtin: true,
        tables: false,
        streams: false,
    };
    let plain = clauses(accept).into_iter().filter(|clause| !converts(clause));
    if accept.is_empty() {
        return Some(Encoding::Json);
    }
    let mut forms = plain.filter_map(|clause| form_of(&clause, offer));
    forms.next().map(|form| form.encoding)
}

fn choose(accept: &str, offer: Offer) -> Option<Form> {
    if accept.is_empty() {
        return Some(Form::default());
    }
    clauses(accept).iter().find_map(|clause| form_of(clause, offer))
}

/// Whether a clause asks for another kind than the object's own.
fn converts(clause: &Clause<'_>) -> bool {
    ["as", "g", "v"].iter().any(|name| clause.parameter(name).is_some())
}

fn form_of(clause: &Clause<'_>, offer: Offer) -> Option<Form> {
    let mut served = ENCODINGS.iter().copied().filter(|encoding| clause.names(*encoding));
    served.find_map(|encoding| {
        let text = |name: &str| clause.parameter(name).unwrap_or_default();
        let stream = match text("stream") {
            "" => true,
            "watch" => encoding != Encoding::Yaml,
            _ => false,
        };
        if !stream || !text("sv").is_empty() {
            return None;
        }
        let version_known = text("g") == "meta.k8s.io" && matches!(text("v"), "v1" | "v1beta1");
        let view = match text("as") {
            "" if !converts(clause) && (encoding != Encoding::Protobuf || offer.builtin) => View::Whole,
            "Table" if version_known && offer.tables && encoding != Encoding::Protobuf => View::Table,
            "PartialObjectMetadata" if version_known => View::Partial,
            "PartialObjectMetadataList" if version_known => View::PartialList,
            _ => return None,
        };
        Some(Form {
            encoding,
            view,
            beta_view: text("v") == "v1beta1",
            pretty: text("pretty") == "1",
            ..Form::default()
        })
    })
}

/// Indentation asked for by the `pretty` parameter, or given to people's tools.
pub fn pretty(parameter: &str, user_agent: &str) -> bool {
    match parameter {
        "" => ["curl", "Wget", "Mozilla/5.0"]
            .iter()
            .any(|agent| user_agent.starts_with(agent)),
        given => matches!(given, "1" | "t" | "T" | "TRUE" | "true" | "True"),
    }
}

/// The syntax of a body from its content type; without one it is JSON.
///
/// # Errors
/// 415 for other types, and for parameters that are none.
pub fn body_media(content_type: &str) -> Result<Media, ApiError> {
    let (media, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let parameters = parameters.trim_end().trim_end_matches(';');
    let legal = parameters.trim().is_empty()
        || parameters.split(';').all(|parameter| {
            let pair = parameter.trim().split_once('=');
            pair.is_some_and(|(name, value)| !name.is_empty() && !name.ends_with(' ') && !value.is_empty())
        });
    match media.trim().to_ascii_lowercase().as_str() {
        "" if content_type.is_empty() => Ok(Media::Json),
        "application/json" if legal => Ok(Media::Json),
        "application/yaml" if legal => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" if legal => Ok(Media::Protobuf),
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILTIN: Offer = Offer {
        builtin: true,
        tables: true,
        streams: true,
    };

    #[test]
    fn forms() {
        use Encoding::{Json, Protobuf, Yaml};
        use View::{Partial, PartialList, Table, Whole};
        let router = |media: &str| Err(format!("406: Not Acceptable\n\nAvailable representations: {media}"));
        let none = || {
            Err(format!(
                "only the following media types are accepted: {}",
                ACCEPTED.join(", ")
            ))
        };
        let with_streams = [ACCEPTED, STREAMS].concat().join(", ");
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("", Ok((Json, Whole))),
            ("*/*", Ok((Json, Whole))),
            ("text/plain", router(&with_streams)),
            // The router does not know this wildcard.
            ("application/*", router(&with_streams)),
            ("text/plain, */*;q=0.1", Ok((Json, Whole))),
            ("application/xml,application/json;q=0.9", Ok((Json, Whole))),
            ("application/json;q=0.5,application/yaml", Ok((Yaml, Whole))),
            ("application/yaml;q=0.5,*/*", Ok((Json, Whole))),
            ("*/*,application/yaml;q=0.5", Ok((Yaml, Whole))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Ok((Protobuf, Whole)),
            ),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                Ok((Protobuf, Whole)),
            ),
            (
                "application/json;q=0.2,application/vnd.kubernetes.protobuf;q=0.3",
                Ok((Protobuf, Whole)),
            ),
            (table, Ok((Json, Table))),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Ok((Json, Table)),
            ),
            ("application/yaml;as=Table;v=v1;g=meta.k8s.io", Ok((Yaml, Table))),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
                none(),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Ok((Json, Whole)),
            ),
            ("application/json;as=Chair;v=v1;g=meta.k8s.io", none()),
            ("application/json;as=Table;v=v1;g=apps", none()),
            ("application/json;v=v1", none()),
            ("application/json;stream=films", none()),
            ("application/json;sv=v1", none()),
            ("application/yaml;stream=watch", none()),
            ("application/json;charset=utf-8", Ok((Json, Whole))),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                Ok((Json, Whole)),
            ),
            ("*/*;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", Ok((Json, Partial))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Ok((Protobuf, PartialList)),
            ),
        ];
        for (accept, expected) in cases {
            let found = resource_form(accept, BUILTIN).map(|form| (form.encoding, form.view));
            assert_eq!(found.map_err(|error| error.message), expected, "{accept}");
        }
    }

    #[test]
    fn what_is_not_offered_is_not_chosen() {
        let custom = Offer {
            builtin: false,
            ..BUILTIN
        };
        let review = Offer {
            tables: false,
            ..BUILTIN
        };
        let cases = [
            ("application/vnd.kubernetes.protobuf", custom, None),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                custom,
                Some(Encoding::Json),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                custom,
                Some(Encoding::Protobuf),
            ),
            ("application/*", custom, Some(Encoding::Json)),
            ("text/html", custom, None),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", review, None),
        ];
        for (accept, offer, expected) in cases {
            let found = resource_form(accept, offer).map(|form| form.encoding);
            let words = format!("only the following media types are accepted: {}", ACCEPTED.join(", "));
            assert_eq!(found.map_err(|error| error.message), expected.ok_or(words), "{accept}");
        }
    }

    #[test]
    fn errors_have_no_views() {
        let cases = [
            ("", Some(Encoding::Json)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml",
                Some(Encoding::Yaml),
            ),
            ("application/vnd.kubernetes.protobuf", Some(Encoding::Protobuf)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", None),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(plain_form(accept), expected, "{accept}");
        }
    }

    #[test]
    fn content_types() {
        let cases = [
            ("", Some(Media::Json)),
            ("application/json", Some(Media::Json)),
            ("Application/JSON; charset=utf-8", Some(Media::Json)),
            ("application/json;", Some(Media::Json)),
            ("application/json; charset", None),
            ("application/yaml;q=1", Some(Media::Yaml)),
            ("application/vnd.kubernetes.protobuf", Some(Media::Protobuf)),
            ("application/x-www-form-urlencoded", None),
            ("*/*", None),
            (";", None),
        ];
        for (text, expected) in cases {
            assert_eq!(body_media(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn indentation() {
        let cases = [
            ("", "curl/8", true),
            ("", "kubectl/v1.32", false),
            ("true", "kubectl", true),
            ("false", "curl/8", false),
            ("yes", "curl/8", false),
        ];
        for (parameter, agent, expected) in cases {
            assert_eq!(pretty(parameter, agent), expected, "{parameter} {agent}");
        }
    }
}
