//! Output forms: the server's Table, JSON, YAML, names, JSONPath templates and custom columns.

pub mod columns;
pub mod gotemplate;
pub mod jsonpath;
pub mod table;

use anyhow::{Result, bail};
use serde_json::Value;

/// What `-o` asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    Template(Template),
    Columns(columns::Columns),
}

/// A template that is filled in from an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    JsonPath(jsonpath::Template),
    /// The values that the paths reach, as a JSON list.
    JsonPathAsJson(jsonpath::Template),
    Go(gotemplate::Template),
}

impl Template {
    /// The filled in text.
    ///
    /// # Errors
    /// When a Go template does not fit the object.
    pub fn render(&self, object: &Value) -> Result<String> {
        Ok(match self {
            Self::JsonPath(template) => template.render(object),
            Self::JsonPathAsJson(template) => {
                pretty(&Value::Array(template.values(object).into_iter().cloned().collect()))
            }
            Self::Go(template) => template.render(object)?,
        })
    }
}

impl Format {
    /// Parses the value of `-o`.
    ///
    /// # Errors
    /// kubectl's sentence for an unknown format, or what is wrong with a template.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text.filter(|t| !t.is_empty()) else {
            return Ok(Self::Table { wide: false });
        };
        let (name, argument) = text.split_once('=').map_or((text, None), |(n, a)| (n, Some(a)));
        let file = |path: &str| std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{path}: {e}"));
        let path = |text: &str| Ok::<_, anyhow::Error>(Template::JsonPath(jsonpath::Template::parse(text)?));
        let go = |text: &str| Ok::<_, anyhow::Error>(Template::Go(gotemplate::Template::parse(text)?));
        let argument = argument.filter(|argument| !argument.is_empty());
        Ok(match (name, argument) {
            ("wide", None) => Self::Table { wide: true },
            ("json", None) => Self::Json,
            ("yaml", None) => Self::Yaml,
            ("name", None) => Self::Name,
            ("jsonpath", Some(template)) => Self::Template(path(template)?),
            ("jsonpath-file", Some(name)) => Self::Template(path(&file(name)?)?),
            ("jsonpath-as-json", Some(template)) => {
                Self::Template(Template::JsonPathAsJson(jsonpath::Template::parse(template)?))
            }
            ("go-template" | "template", Some(template)) => Self::Template(go(template)?),
            ("go-template-file" | "templatefile", Some(name)) => Self::Template(go(&file(name)?)?),
            (
                "jsonpath" | "jsonpath-file" | "jsonpath-as-json" | "go-template" | "go-template-file" | "template"
                | "templatefile",
                None,
            ) => bail!("template format specified but no template given"),
            ("custom-columns", Some(spec)) => Self::Columns(columns::Columns::parse(spec)?),
            ("custom-columns-file", Some(name)) => Self::Columns(columns::Columns::parse_file(&file(name)?)?),
            ("custom-columns" | "custom-columns-file", None) => {
                bail!("custom-columns format specified but no custom columns given")
            }
            _ => bail!(
                "unable to match a printer suitable for the output format \"{name}\", allowed formats are: custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,wide,yaml"
            ),
        })
    }

    /// Whether the server is asked for a Table.
    #[must_use]
    pub const fn wants_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }
}

/// A document as `-o json` and `-o yaml` print it; managed fields are left out unless `managed_fields`.
#[must_use]
pub fn document(object: &Value, yaml: bool, managed_fields: bool) -> String {
    let mut object = object.clone();
    if !managed_fields {
        hide_managed_fields(&mut object);
    }
    if yaml {
        coxswain_api::codec::to_yaml(&object)
    } else {
        pretty(&object)
    }
}

/// JSON as kubectl writes it.
fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).map_or_else(|e| e.to_string(), |text| indent_four(&text) + "\n")
}

fn hide_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        hide_managed_fields(item);
    }
}

/// kubectl indents JSON by four.
fn indent_four(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let body = line.trim_start_matches(' ');
        out.extend(std::iter::repeat_n(' ', (line.len() - body.len()) * 2));
        out.push_str(body);
    }
    out
}
