//! Output forms: the server's Table, JSON, YAML, names, JSONPath templates and custom columns.

pub mod columns;
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
    JsonPath(jsonpath::Template),
    Columns(columns::Columns),
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
        Ok(match (name, argument) {
            ("wide", None) => Self::Table { wide: true },
            ("json", None) => Self::Json,
            ("yaml", None) => Self::Yaml,
            ("name", None) => Self::Name,
            ("jsonpath" | "jsonpath-as-json", Some(template)) => Self::JsonPath(jsonpath::Template::parse(template)?),
            ("jsonpath-file", Some(path)) => Self::JsonPath(jsonpath::Template::parse(&file(path)?)?),
            ("jsonpath", None) => bail!("template format specified but no template given"),
            ("custom-columns", Some(spec)) => Self::Columns(columns::Columns::parse(spec)?),
            ("custom-columns-file", Some(path)) => Self::Columns(columns::Columns::parse_file(&file(path)?)?),
            ("custom-columns", None) => bail!("custom-columns format specified but no custom columns given"),
            _ => bail!(
                "unable to match a printer suitable for the output format \"{name}\", allowed formats are: custom-columns,custom-columns-file,json,jsonpath,jsonpath-file,name,wide,yaml"
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
        serde_json::to_string_pretty(&object).map_or_else(|e| e.to_string(), |text| indent_four(&text) + "\n")
    }
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
