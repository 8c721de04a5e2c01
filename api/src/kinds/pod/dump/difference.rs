//! What differs between two texts, line by line, as a unified difference.

const CONTEXT: usize = 3;

/// Lines shared at both ends are cut off, the middle is compared exactly when it is small enough.
pub(super) fn unified(a: &[String], b: &[String]) -> String {
    let steps = steps(a, b);
    let changes: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, s)| s.mark != ' ')
        .map(|(i, _)| i)
        .collect();
    let mut out = String::new();
    let mut next = 0;
    while let Some(&first) = changes.get(next) {
        let mut last = first;
        while let Some(&change) = changes.get(next).filter(|c| **c <= last + 2 * CONTEXT + 1) {
            last = change;
            next += 1;
        }
        let from = first.saturating_sub(CONTEXT);
        let hunk = &steps[from..(last + CONTEXT + 1).min(steps.len())];
        let (old_lines, new_lines) = (
            hunk.iter().filter(|s| s.mark != '+').count(),
            hunk.iter().filter(|s| s.mark != '-').count(),
        );
        let start = hunk.first().map_or((0, 0), |s| (s.old, s.new));
        out.push_str(&format!(
            "@@ -{} +{} @@\n",
            range(start.0, old_lines),
            range(start.1, new_lines)
        ));
        for step in hunk {
            out.push(step.mark);
            out.push_str(step.text);
            out.push('\n');
        }
    }
    out
}

fn range(start: usize, count: usize) -> String {
    match count {
        1 => (start + 1).to_string(),
        0 => format!("{start},0"),
        _ => format!("{},{count}", start + 1),
    }
}

/// One line of a comparison, with its place on both sides.
struct Step<'a> {
    mark: char,
    text: &'a str,
    old: usize,
    new: usize,
}

fn steps<'a>(a: &'a [String], b: &'a [String]) -> Vec<Step<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..]
        .iter()
        .rev()
        .zip(b[head..].iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (middle_a, middle_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut out: Vec<Step<'a>> = (0..head)
        .map(|i| Step {
            mark: ' ',
            text: &a[i],
            old: i,
            new: i,
        })
        .collect();
    let (mut i, mut j) = (0, 0);
    for mark in edits(middle_a, middle_b) {
        let text = if mark == '+' { &middle_b[j] } else { &middle_a[i] };
        out.push(Step {
            mark,
            text,
            old: head + i,
            new: head + j,
        });
        i += usize::from(mark != '+');
        j += usize::from(mark != '-');
    }
    let (rest_a, rest_b) = (a.len() - tail, b.len() - tail);
    out.extend((0..tail).map(|k| Step {
        mark: ' ',
        text: &a[rest_a + k],
        old: rest_a + k,
        new: rest_b + k,
    }));
    out
}

/// The longest common subsequence as marks. Beyond a bound everything counts as replaced.
fn edits(a: &[String], b: &[String]) -> Vec<char> {
    const CELLS_MAX: usize = 4_000_000;
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > CELLS_MAX {
        return std::iter::repeat_n('-', a.len())
            .chain(std::iter::repeat_n('+', b.len()))
            .collect();
    }
    let mut best = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            best[i * width + j] = if a[i] == b[j] {
                best[(i + 1) * width + j + 1] + 1
            } else {
                best[(i + 1) * width + j].max(best[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut marks) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        let mark = if i < a.len() && j < b.len() && a[i] == b[j] {
            ' '
        } else if i < a.len() && (j == b.len() || best[(i + 1) * width + j] >= best[i * width + j + 1]) {
            '-'
        } else {
            '+'
        };
        marks.push(mark);
        i += usize::from(mark != '+');
        j += usize::from(mark != '-');
    }
    marks
}
