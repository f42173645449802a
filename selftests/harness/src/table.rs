// SPDX-License-Identifier: GPL-2.0

//! The results of the cases in selftests for people. Their RESULTS file has one line a case, in
//! columns separated by tabs: what happened; on the stock kernel, milliseconds (or `timeout`) and
//! whether the first packet was lost (0 or 1), or words and `-` where the case is not about that;
//! the same two with the module, or `-` for both. A line without tabs starts a script's cases.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context as _};

/// A line of the file.
enum Entry<'a> {
    Script(&'a str),
    Case(Row<'a>),
}

struct Row<'a> {
    label: &'a str,
    stock: Half<'a>,
    module: Half<'a>,
}

/// A case on one of the two kernels.
struct Half<'a> {
    /// Milliseconds, or words.
    found: &'a str,
    /// `None` where it did not run, or is not about a first packet.
    lost: Option<bool>,
}

pub fn print(file: &Path, title: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read {}: run conn_reuse.sh with RESULTS set to it",
            file.display()
        )
    })?;
    print!(
        "{}",
        render(&text, title).with_context(|| format!("in {}", file.display()))?
    );
    Ok(())
}

fn render(text: &str, title: &str) -> anyhow::Result<String> {
    let entries = text
        .lines()
        .map(Entry::parse)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let cases = || {
        entries.iter().filter_map(|entry| match entry {
            Entry::Case(row) => Some(row),
            Entry::Script(_) => None,
        })
    };
    ensure!(
        cases().next().is_some(),
        "no results: run conn_reuse.sh to its end"
    );
    let several = entries.len() > cases().count() + 1;

    let mut lines = vec![[
        "what happened".into(),
        "stock kernel".into(),
        "with ip_vs_reuse".into(),
    ]];
    for entry in &entries {
        match entry {
            Entry::Case(row) => lines.push([row.label.into(), row.stock.text(), row.module.text()]),
            Entry::Script(name) if several => {
                lines.push(Default::default());
                lines.push([format!("{name}:"), String::new(), String::new()]);
            }
            Entry::Script(_) => {}
        }
    }
    lines.push([
        "first packets lost".into(),
        lost(cases().map(|row| &row.stock)),
        lost(cases().map(|row| &row.module)),
    ]);

    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let (label, stock) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let mut out = format!("{title}\n\n");
    for [what, on_stock, with_module] in &lines {
        let line = format!("{what:label$}   {on_stock:stock$}   {with_module}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(out)
}

fn lost<'a>(halves: impl Iterator<Item = &'a Half<'a>>) -> String {
    let known: Vec<bool> = halves.filter_map(|half| half.lost).collect();
    if known.is_empty() {
        return "-".into();
    }
    format!(
        "{} of {}",
        known.iter().filter(|lost| **lost).count(),
        known.len()
    )
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> anyhow::Result<Self> {
        match line.contains('\t') {
            true => Row::parse(line).map(Entry::Case),
            false => Ok(Entry::Script(line)),
        }
    }
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> anyhow::Result<Self> {
        let columns: Vec<&str> = line.split('\t').collect();
        let [label, stock_ms, stock_lost, module_ms, module_lost] = columns[..] else {
            anyhow::bail!("not five columns: {line:?}");
        };
        Ok(Self {
            label,
            stock: Half::parse(stock_ms, stock_lost)?,
            module: Half::parse(module_ms, module_lost)?,
        })
    }
}

impl<'a> Half<'a> {
    fn parse(found: &'a str, lost: &str) -> anyhow::Result<Self> {
        let lost = match lost {
            "0" => Some(false),
            "1" => Some(true),
            "-" => None,
            _ => anyhow::bail!("lost is 0, 1 or -, not {lost:?}"),
        };
        Ok(Self { found, lost })
    }

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
        let text = "server's FIN\t2\t0\t3\t0\n\
                    server's RST\t1013\t1\t4\t0\n\
                    zone\ttimeout\t1\t12\t0\n";
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
    fn without_the_module_its_column_is_empty() {
        let table = render("server's RST\t1013\t1\t-\t-\n", "Reuse").unwrap();
        assert!(
            table.ends_with("first packets lost   1 of 1           -\n"),
            "{table}"
        );
    }

    #[test]
    fn scripts_are_headings_where_there_are_several() {
        let one = "conn_reuse\nserver's FIN\t2\t0\t3\t0\n";
        assert!(!render(one, "Reuse").unwrap().contains("conn_reuse"));
        let two = format!("{one}services\nmode 0\tsticks\t-\tsticks\t-\n");
        let expected = "\
Reuse

what happened        stock kernel   with ip_vs_reuse

conn_reuse:
server's FIN             2 ms           3 ms

services:
mode 0               sticks         sticks
first packets lost   0 of 1         0 of 1
";
        assert_eq!(render(&two, "Reuse").unwrap(), expected);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        for text in ["", "conn_reuse\n", "one\ttwo\n", "a\t1\tyes\t1\t0\n"] {
            assert!(render(text, "Reuse").is_err(), "{text:?}");
        }
    }
}
