// SPDX-License-Identifier: GPL-2.0

//! The results of the cases in selftests for people. Their RESULTS file has a line for each time
//! that a case ran, in fields separated by tabs: the script, what happened, on what kernel (the
//! column), milliseconds (or `timeout`) and whether the first packet was lost (0 or 1), or words
//! and `-` where the case is not about that.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context as _};

/// A line of the file.
struct Run<'a> {
    script: &'a str,
    label: &'a str,
    column: &'a str,
    result: Result<'a>,
}

#[derive(Clone, Copy)]
struct Result<'a> {
    /// Milliseconds, or words.
    found: &'a str,
    /// `None` where the case is not about a first packet.
    lost: Option<bool>,
}

pub fn print(file: &Path, title: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read {}: run basics.sh with RESULTS set to it",
            file.display()
        )
    })?;
    print!(
        "{}",
        render(&text, title).with_context(|| format!("in {}", file.display()))?
    );
    Ok(())
}

/// Rows and columns come in the order in which they are met first.
fn render(text: &str, title: &str) -> anyhow::Result<String> {
    let runs = text
        .lines()
        .map(Run::parse)
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!runs.is_empty(), "no results: run basics.sh to its end");
    let scripts = in_order(runs.iter().map(|run| run.script));
    let columns = in_order(runs.iter().map(|run| run.column));
    let cases = in_order(runs.iter().map(|run| (run.script, run.label)));
    let results: HashMap<_, _> = runs
        .iter()
        .map(|run| ((run.script, run.label, run.column), run.result))
        .collect();

    let row = |label: &str, cells: Vec<String>| [vec![label.to_string()], cells].concat();
    let empty = || vec![String::new(); columns.len()];
    let mut lines = vec![row(
        "what happened",
        columns.iter().map(ToString::to_string).collect(),
    )];
    for script in &scripts {
        if scripts.len() > 1 {
            lines.push(row("", empty()));
            lines.push(row(&format!("{script}:"), empty()));
        }
        for (_, label) in cases.iter().filter(|(its, _)| its == script) {
            let text = |column| results.get(&(*script, *label, column)).map(Result::text);
            let cells = columns
                .iter()
                .map(|column| text(*column).unwrap_or_default());
            lines.push(row(label, cells.collect()));
        }
    }
    lines.push(row(
        "first packets lost",
        columns.iter().map(|column| lost(&runs, column)).collect(),
    ));

    let widths: Vec<_> = (0..=columns.len())
        .map(|n| lines.iter().map(|line| line[n].chars().count()).max())
        .collect();
    let mut out = format!("{title}\n\n");
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let width = width.unwrap_or(0);
            write!(text, "{cell:width$}   ")?;
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(out)
}

fn in_order<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut met = Vec::new();
    for one in all {
        if !met.contains(&one) {
            met.push(one);
        }
    }
    met
}

fn lost(runs: &[Run], column: &str) -> String {
    let known: Vec<bool> = runs
        .iter()
        .filter(|run| run.column == column)
        .filter_map(|run| run.result.lost)
        .collect();
    if known.is_empty() {
        return "-".into();
    }
    format!(
        "{} of {}",
        known.iter().filter(|lost| **lost).count(),
        known.len()
    )
}

impl<'a> Run<'a> {
    fn parse(line: &'a str) -> anyhow::Result<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let &[script, label, column, found, lost] = fields.as_slice() else {
            bail!("not five fields: {line:?}");
        };
        let lost = match lost {
            "0" => Some(false),
            "1" => Some(true),
            "-" => None,
            _ => bail!("neither 0, 1 nor -: {line:?}"),
        };
        Ok(Self {
            script,
            label,
            column,
            result: Result { found, lost },
        })
    }
}

impl Result<'_> {
    fn text(&self) -> String {
        match (self.found, self.lost) {
            (words, None) => words.into(),
            ("timeout", _) => "no connection".into(),
            (ms, lost) => {
                let mark = if lost == Some(true) { ", lost" } else { "" };
                format!("{ms:>5} ms{mark}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_losses_counted() {
        let text = "basics\tserver's FIN\tstock kernel\t2\t0\n\
                    basics\tserver's RST\tstock kernel\t1013\t1\n\
                    basics\tzone\tstock kernel\ttimeout\t1\n\
                    basics\tserver's FIN\twith ip_vs_reuse\t3\t0\n\
                    basics\tserver's RST\twith ip_vs_reuse\t4\t0\n\
                    basics\tzone\twith ip_vs_reuse\t12\t0\n";
        let expected = "\
Reuse

what happened        stock kernel     with ip_vs_reuse
server's FIN             2 ms             3 ms
server's RST          1013 ms, lost       4 ms
zone                 no connection       12 ms
first packets lost   2 of 3           0 of 3
";
        assert_eq!(render(text, "Reuse").unwrap(), expected);
    }

    #[test]
    fn a_case_that_did_not_run_has_an_empty_cell() {
        let text = "basics\tserver's RST\tstock kernel\t1013\t1\n\
                    basics\tmode 0\tpatched\tsticks\t-\n";
        let expected = "\
Reuse

what happened        stock kernel     patched
server's RST          1013 ms, lost
mode 0                                sticks
first packets lost   1 of 1           -
";
        assert_eq!(render(text, "Reuse").unwrap(), expected);
    }

    #[test]
    fn scripts_are_headings_where_there_are_several() {
        let one = "basics\tserver's FIN\tstock kernel\t2\t0\n";
        assert!(!render(one, "Reuse").unwrap().contains("basics"));
        let two = format!("{one}services\tserver's FIN\tstock kernel\tsticks\t-\n");
        let expected = "\
Reuse

what happened        stock kernel

basics:
server's FIN             2 ms

services:
server's FIN         sticks
first packets lost   0 of 1
";
        assert_eq!(render(&two, "Reuse").unwrap(), expected);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        for text in ["", "basics\n", "one\ttwo\n", "a\tb\tc\t1\tyes\n"] {
            assert!(render(text, "Reuse").is_err(), "{text:?}");
        }
    }
}
