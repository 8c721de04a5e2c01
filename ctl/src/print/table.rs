//! Columns of text, three blanks apart, as kubectl lays them out.

use serde_json::Value;

/// Blanks after the widest cell of a column, and the least width of a column with them.
const PADDING: usize = 3;
const WIDTH_MIN: usize = 6;

/// Which columns of a Table are shown, and how.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// Leave the first line out.
    pub no_headers: bool,
    /// Also the columns of lower priority.
    pub wide: bool,
    /// A first column with the namespace.
    pub namespaces: bool,
    /// A last column with all labels.
    pub show_labels: bool,
    /// A column for each of these labels.
    pub label_columns: Vec<String>,
    /// Names are written `pod/web`.
    pub prefix: Option<String>,
}

/// One printed table: the header, if any, and rows of the same length.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Text {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Picks the cells of the server's Table.
#[must_use]
pub fn pick(table: &Value, layout: &Layout, definitions: Option<&Value>) -> Text {
    let definitions = definitions
        .unwrap_or(&table["columnDefinitions"])
        .as_array()
        .cloned()
        .unwrap_or_default();
    let shown: Vec<usize> = definitions
        .iter()
        .enumerate()
        .filter(|(_, d)| layout.wide || d["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(i, _)| i)
        .collect();
    let mut header: Vec<String> = Vec::new();
    if layout.namespaces {
        header.push("NAMESPACE".to_owned());
    }
    header.extend(
        shown
            .iter()
            .filter_map(|i| definitions.get(*i))
            .map(|d| d["name"].as_str().unwrap_or_default().to_uppercase()),
    );
    header.extend(
        layout
            .label_columns
            .iter()
            .map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()),
    );
    if layout.show_labels {
        header.push("LABELS".to_owned());
    }
    let rows = table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| pick_row(row, &shown, layout))
        .collect();
    Text { header, rows }
}

fn pick_row(row: &Value, shown: &[usize], layout: &Layout) -> Vec<String> {
    let metadata = &row["object"]["metadata"];
    let mut cells = Vec::with_capacity(shown.len() + 2);
    if layout.namespaces {
        cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
    }
    for (position, index) in shown.iter().enumerate() {
        let mut cell = cell_text(&row["cells"][*index]);
        if let (0, Some(prefix)) = (position, &layout.prefix) {
            cell = format!("{prefix}/{cell}");
        }
        cells.push(cell);
    }
    for label in &layout.label_columns {
        cells.push(metadata["labels"][label].as_str().unwrap_or_default().to_owned());
    }
    if layout.show_labels {
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let text: Vec<String> = labels
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        cells.push(if text.is_empty() {
            "<none>".to_owned()
        } else {
            text.join(",")
        });
    }
    cells
}

/// A cell as text, on one line.
fn cell_text(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => match text.find(['\n', '\r']) {
            Some(end) => format!("{}...", text.get(..end).unwrap_or_default()),
            None => text.clone(),
        },
        Value::Array(items) => items.iter().map(cell_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Lays the rows out in columns.
#[must_use]
pub fn render(text: &Text, no_headers: bool) -> String {
    let header = (!no_headers && !text.header.is_empty()).then(|| text.header.clone());
    let lines: Vec<Vec<String>> = header.into_iter().chain(text.rows.iter().cloned()).collect();
    let mut widths = Vec::new();
    widen(&mut widths, &lines);
    lines.iter().map(|line| lay_out(line, &widths)).collect()
}

/// Makes columns wide enough for some more lines, in characters.
pub fn widen(widths: &mut Vec<usize>, lines: &[Vec<String>]) {
    for line in lines {
        for (i, cell) in line.iter().enumerate() {
            let width = (cell.chars().count() + PADDING).max(WIDTH_MIN);
            match widths.get_mut(i) {
                Some(max) => *max = width.max(*max),
                None => widths.push(width),
            }
        }
    }
}

/// One line; the last cell is not padded.
#[must_use]
pub fn lay_out(cells: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (i, cell) in cells.iter().enumerate() {
        out.push_str(cell);
        if i + 1 < cells.len() {
            let width = widths.get(i).copied().unwrap_or(0);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_as_kubectl_prints_it() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [
                {"cells": ["web", "1/1", "n1"], "object": {"metadata": {"namespace": "default", "labels": {"app": "web"}}}},
                {"cells": ["long-name", "0/1", null], "object": {"metadata": {"namespace": "default"}}}]});
        let check =
            |layout: Layout, want: &str| assert_eq!(render(&pick(&table, &layout, None), layout.no_headers), want);
        check(
            Layout::default(),
            "NAME        READY\nweb         1/1\nlong-name   0/1\n",
        );
        check(
            Layout {
                wide: true,
                no_headers: true,
                ..Layout::default()
            },
            "web         1/1   n1\nlong-name   0/1   <none>\n",
        );
        check(
            Layout {
                namespaces: true,
                prefix: Some("pod".to_owned()),
                ..Layout::default()
            },
            "NAMESPACE   NAME            READY\ndefault     pod/web         1/1\ndefault     pod/long-name   0/1\n",
        );
        check(
            Layout {
                show_labels: true,
                label_columns: vec!["app".to_owned()],
                ..Layout::default()
            },
            "NAME        READY   APP   LABELS\nweb         1/1     web   app=web\nlong-name   0/1           <none>\n",
        );
    }
}
