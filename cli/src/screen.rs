//! Something that is shown again and again: drawn in place on a terminal, without flicker; as lines where there is none.

use crate::output::Output;
use rustix::termios::tcgetwinsize;
use std::io::{self, IsTerminal as _};

/// A frame on a terminal. What scrolled away before it stays as it is.
pub struct Screen {
    /// Lines of the frame that is there.
    drawn: usize,
}

impl Screen {
    /// None where standard output is no terminal that can be drawn on.
    pub fn of_stdout() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        (io::stdout().is_terminal() && !dumb).then_some(Self { drawn: 0 })
    }

    /// Draw a frame over the last one.
    pub fn draw(&mut self, out: &Output, frame: &str) -> anyhow::Result<()> {
        let (columns, rows) = tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row));
        let (text, lines) = redraw(self.drawn, frame, usize::from(columns).max(20), usize::from(rows).max(4));
        self.drawn = lines;
        out.write(&text)
    }
}

/// What turns the last frame, of so many lines, into this one, and how many lines it has: nothing is cleared before it is
/// written over, and terminals that can show all of it at once are asked to.
fn redraw(before: usize, frame: &str, columns: usize, rows: usize) -> (String, usize) {
    let all: Vec<&str> = frame.trim_end().lines().collect();
    // The cursor stands on a line of its own.
    let room = rows - 1;
    let mut lines: Vec<String> = all.iter().take(room).map(|line| clip(line, columns)).collect();
    if all.len() > room
        && let Some(last) = lines.last_mut()
    {
        *last = format!("… and {} more lines", all.len() - room + 1);
    }
    let mut text = "\x1b[?2026h\r".to_owned();
    if before > 0 {
        text += &format!("\x1b[{before}A");
    }
    for line in &lines {
        text += line;
        text += "\x1b[K\r\n";
    }
    text += "\x1b[J\x1b[?2026l";
    (text, lines.len())
}

/// A line of at most so many columns. Colours take none of them, and end with the line.
fn clip(line: &str, columns: usize) -> String {
    let mut clipped = String::new();
    let mut width = 0;
    let mut escaped = false;
    for c in line.chars() {
        if c == '\x1b' {
            escaped = true;
        } else if escaped {
            escaped = c != 'm';
        } else if width == columns {
            return clipped + "\x1b[0m";
        } else {
            width += 1;
        }
        clipped.push(c);
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_last_one() {
        let (text, lines) = redraw(0, "a\nb\n", 80, 24);
        assert_eq!((text.as_str(), lines), ("\x1b[?2026h\ra\x1b[K\r\nb\x1b[K\r\n\x1b[J\x1b[?2026l", 2));
        let (text, lines) = redraw(2, "a\n", 80, 24);
        assert_eq!((text.as_str(), lines), ("\x1b[?2026h\r\x1b[2Aa\x1b[K\r\n\x1b[J\x1b[?2026l", 1));
    }

    #[test]
    fn a_frame_fits_the_terminal() {
        let long = "x\n".repeat(10);
        let (text, lines) = redraw(0, &long, 80, 5);
        assert_eq!((lines, text.matches("\r\n").count()), (4, 4));
        assert!(text.contains("… and 7 more lines"), "{text:?}");
        assert_eq!(clip("abcdef", 3), "abc\x1b[0m");
        assert_eq!(clip("\x1b[32mabc\x1b[0m", 3), "\x1b[32mabc\x1b[0m");
        assert_eq!(clip("äöü", 3), "äöü");
    }
}
