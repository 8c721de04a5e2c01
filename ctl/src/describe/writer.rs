//! Text in columns that line up: cells end with a tab, and every run of lines that have a cell in a column
//! gives it one width.

use std::fmt::Write as _;

/// Blanks between columns.
const PADDING: usize = 2;

/// Collects lines and lays them out at the end.
#[derive(Default)]
pub struct Writer {
    done: String,
    pending: String,
}

impl Writer {
    /// Adds text, indented by two blanks per level; tabs end cells.
    pub fn line(&mut self, level: usize, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.pending, "{:indent$}{text}", "", indent = level * 2);
    }

    /// `Name:<tab>value`.
    pub fn pair(&mut self, level: usize, name: &str, value: &str) {
        self.line(level, &format!("{name}:\t{value}"));
    }

    /// Lines after this do not line up with those before.
    pub fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.done.push_str(&align(&pending));
    }

    /// Everything, laid out.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.flush();
        self.done
    }
}

/// Lays out one text.
fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            // The last cell of a line is no column: no tab ends it.
            let has = |line: usize| lines.get(line).is_some_and(|cells| column + 1 < cells.len());
            if !has(start) {
                start += 1;
                continue;
            }
            let end = (start..).find(|line| !has(*line)).unwrap_or(lines.len());
            let width = lines[start..end]
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
                + PADDING;
            for line in &mut widths[start..end] {
                line[column] = width;
            }
            start = end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(out, "{cell:width$}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_lines_line_up() {
        let mut out = Writer::default();
        out.pair(0, "Name", "x");
        out.pair(0, "Namespace", "y");
        out.line(0, "Containers:");
        out.pair(1, "Image", "i");
        out.flush();
        out.line(1, "a\tb\tc");
        out.line(1, "long\tb");
        assert_eq!(
            out.finish(),
            "Name:       x\nNamespace:  y\nContainers:\n  Image:  i\n  a     b  c\n  long  b\n"
        );
    }
}
