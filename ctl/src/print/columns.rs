//! `-o custom-columns=NAME:.metadata.name,...`

use anyhow::{Result, bail};
use serde_json::Value;

use super::jsonpath::Template;
use super::table::{Text, render};

/// Headers with the path of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Vec<(String, Template)>);

impl Columns {
    /// Parses `HEADER:path,HEADER:path`.
    ///
    /// # Errors
    /// kubectl's sentence for what does not fit.
    pub fn parse(spec: &str) -> Result<Self> {
        if spec.is_empty() {
            bail!("custom-columns format specified but no custom columns given");
        }
        let mut columns = Vec::new();
        for part in spec.split(',') {
            let Some((header, path)) = part.split_once(':') else {
                bail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>");
            };
            columns.push((
                header.to_owned(),
                Template::parse(path.trim_start_matches('{').trim_end_matches('}'))?,
            ));
        }
        Ok(Self(columns))
    }

    /// Parses a file of two lines: headers, and their paths.
    ///
    /// # Errors
    /// When the lines do not match.
    pub fn parse_file(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let (headers, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let (headers, paths): (Vec<_>, Vec<_>) =
            (headers.split_whitespace().collect(), paths.split_whitespace().collect());
        if headers.len() != paths.len() {
            bail!(
                "number of headers ({}) and field specifications ({}) don't match",
                headers.len(),
                paths.len()
            );
        }
        let columns = headers
            .into_iter()
            .zip(paths)
            .map(|(h, p)| Ok((h.to_owned(), Template::parse(p)?)))
            .collect::<Result<_>>()?;
        Ok(Self(columns))
    }

    /// The printed table.
    #[must_use]
    pub fn render(&self, objects: &[&Value], no_headers: bool) -> String {
        let cell = |object: &Value, template: &Template| {
            let values: Vec<String> = template
                .values(object)
                .into_iter()
                .map(|v| match v {
                    Value::String(text) => text.clone(),
                    Value::Null => "<none>".to_owned(),
                    other => other.to_string(),
                })
                .collect();
            if values.is_empty() {
                "<none>".to_owned()
            } else {
                values.join(",")
            }
        };
        let rows = objects
            .iter()
            .map(|o| self.0.iter().map(|(_, t)| cell(o, t)).collect())
            .collect();
        render(
            &Text {
                header: self.0.iter().map(|(h, _)| h.clone()).collect(),
                rows,
            },
            no_headers,
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_from_paths() -> Result<()> {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"image": "a"}, {"image": "b"}]}});
        let columns = Columns::parse("NAME:.metadata.name,IMAGES:.spec.containers[*].image,RSRC:metadata.uid")?;
        assert_eq!(
            columns.render(&[&pod], false),
            "NAME   IMAGES   RSRC\nweb    a,b      <none>\n"
        );
        assert_eq!(
            Columns::parse_file("NAME\nmetadata.name")?.render(&[&pod], true),
            "web\n"
        );
        assert!(Columns::parse("NAME").is_err());
        Ok(())
    }
}
