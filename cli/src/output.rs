//! What goes to standard output: tables for people, JSON, YAML and names for programs. Notes and progress go to standard
//! error. Columns are never dropped and colours never sent where the output is not a terminal.

use crate::error::OutputClosed;
use anyhow::Context as _;
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

/// What `-o` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The messages as they travel; one document a line where there are several over time.
    Json,
    /// The same as YAML.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    pub fn off() -> Self {
        Self { on: false }
    }
    pub fn stdout() -> Self {
        Self::when(io::stdout().is_terminal())
    }
    pub fn stderr() -> Self {
        Self::when(io::stderr().is_terminal())
    }
    /// See no-color.org: any value but the empty one turns colours off.
    fn when(terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: terminal && !dumb && !set("NO_COLOR") }
    }
    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    pub fn is_on(self) -> bool {
        self.on
    }
    pub fn good(self, text: impl Display) -> String {
        self.wrap("32", text)
    }
    pub fn warn(self, text: impl Display) -> String {
        self.wrap("33", text)
    }
    pub fn bad(self, text: impl Display) -> String {
        self.wrap("1;31", text)
    }
    pub fn strong(self, text: impl Display) -> String {
        self.wrap("1", text)
    }
    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }
    /// One of six colours, for telling sources of lines apart.
    pub fn nth(self, index: usize, text: impl Display) -> String {
        const CODES: [&str; 6] = ["36", "35", "34", "33", "32", "31"];
        self.wrap(CODES.get(index % CODES.len()).copied().unwrap_or("0"), text)
    }
}

/// How good the content of a cell is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
}

/// Text in a table. Its width is counted without colours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(text: impl Display, tone: Tone) -> Self {
        Self { text: plain(&text.to_string()), tone }
    }
}

/// A text of somebody else without what would move the cursor or forge a line.
pub fn plain(text: &str) -> String {
    lattice::limits::one_line(text, usize::MAX)
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Columns of text.
#[derive(Debug, Clone, Default)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.head.len());
        self.rows.push(cells.into());
    }

    /// Without these columns.
    pub fn without(mut self, hidden: &[&str]) -> Self {
        let shown: Vec<bool> = self.head.iter().map(|column| !hidden.contains(column)).collect();
        for row in &mut self.rows {
            let cells = std::mem::take(row).into_iter().zip(&shown).filter(|(_, shown)| **shown);
            *row = cells.map(|(cell, _)| cell).collect();
        }
        self.head.retain(|column| !hidden.contains(column));
        self
    }

    /// Lines with a final newline; two spaces between columns, none behind the last.
    pub fn render(&self, paint: Paint) -> String {
        let head: Vec<Cell> = self.head.iter().map(Cell::from).collect();
        let lines: Vec<&Vec<Cell>> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for (number, line) in lines.into_iter().enumerate() {
            let last = line.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate().take(last + 1) {
                text.push_str(&match cell.tone {
                    _ if number == 0 => paint.strong(&cell.text),
                    Tone::Plain => cell.text.clone(),
                    Tone::Good => paint.good(&cell.text),
                    Tone::Warn => paint.warn(&cell.text),
                    Tone::Bad => paint.bad(&cell.text),
                    Tone::Dim => paint.dim(&cell.text),
                });
                if column < last {
                    let gap = width.saturating_sub(cell.text.chars().count()) + 2;
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Where commands write.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    /// For standard output.
    pub paint: Paint,
    /// For standard error.
    pub note_paint: Paint,
    pub quiet: bool,
}

impl Output {
    /// Data: standard output.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            other => other.context("can't write to standard output"),
        }
    }

    /// A note or progress: standard error. Lost notes are no reason to stop.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// One document, in the format asked for.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce(Paint) -> String,
        names: impl FnOnce() -> Vec<String>,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => table(self.paint),
            Format::Json => json(value)?,
            Format::Yaml => yaml(value)?,
            Format::Name => names().into_iter().map(|name| name + "\n").collect(),
        };
        self.write(&text)
    }

    /// One of several documents over time: JSON takes one line each, YAML documents are separated by `---`.
    pub fn show_item<T: Serialize>(
        &self,
        value: &T,
        line: impl FnOnce(Paint) -> String,
        name: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => line(self.paint) + "\n",
            Format::Json => serde_json::to_string(value).context("can't write JSON")? + "\n",
            Format::Yaml => format!("---\n{}", yaml(value)?),
            Format::Name => name() + "\n",
        };
        self.write(&text)
    }
}

pub fn json<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("can't write JSON")? + "\n")
}

pub fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| anyhow::anyhow!("can't write YAML: {error}"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A size for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 1024.0 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    if value.fract() == 0.0 || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// A span of time for people, in its largest whole unit: `42s`, `3m`, `5h`, `2d`.
pub fn age(span: std::time::Duration) -> String {
    match span.as_secs() {
        secs @ 0..120 => format!("{secs}s"),
        secs @ 120..7200 => format!("{}m", secs / 60),
        secs @ 7200..172_800 => format!("{}h", secs / 3600),
        secs => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "READY", "NOTE"]);
        table.row(["hello".into(), Cell::new("3/3", Tone::Good), "".into()]);
        table.row(["größer".into(), Cell::new("0/1", Tone::Bad), "no node".into()]);
        table
    }

    #[test]
    fn columns_line_up_without_trailing_space() {
        assert_eq!(table().render(Paint::off()), "NAME    READY  NOTE\nhello   3/3\ngrößer  0/1    no node\n");
    }

    #[test]
    fn colours_do_not_change_the_widths() {
        let plain = table().render(Paint::off());
        let mut painted = table().render(Paint { on: true });
        assert!(painted.contains("\x1b[32m3/3\x1b[0m"), "{painted:?}");
        for code in ["\x1b[32m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, plain);
    }

    #[test]
    fn numbers_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (128 << 20, "128 MiB"), (3 << 40, "3 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (secs, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(std::time::Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn yaml_is_read_back_as_the_same_document() {
        let value = serde_json::json!({"name": "hello", "on": "off", "n": [1, {"a": null}], "t": "x: y"});
        let text = yaml(&value).unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");

        // An enum is a mapping there too, not a YAML tag.
        let spec = b"name: hello\nreuse: off\ncomponents: [{name: a, source: 'file:a', env: {ON: 'off', N: '1'}}]";
        let item = lattice::ctl::HistoryItem::Put(Box::new(lattice::ctl::SpecReply {
            spec: lattice::spec::parse(spec).unwrap(),
            generation: lattice::id::Generation(1),
            revision: lattice::id::Revision(1),
            hash: lattice::id::Digest::of(b""),
            admitted_at: "1970-01-01T00:00:00Z".into(),
            state: None,
            aborted: None,
            configs: Default::default(),
        }));
        let text = yaml(&std::slice::from_ref(&item)).unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, serde_json::to_value([item]).unwrap(), "{text}");
    }

    #[test]
    fn a_spec_that_is_shown_is_the_spec_that_is_read() {
        let spec = lattice::spec::parse(b"name: hello\nreuse: off\ncomponents: [{name: a, source: 'file:a', env: {ON: 'off', N: '1'}}]\nhttp: {routes: [{host: '*'}]}").unwrap();
        let text = yaml(&spec).unwrap();
        assert!(text.starts_with("name: hello\n"), "{text}");
        assert_eq!(lattice::spec::parse(text.as_bytes()).unwrap(), spec, "{text}");
    }
}
