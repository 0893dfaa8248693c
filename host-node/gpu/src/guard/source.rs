//! Counts in the text of a shader what naga recurses along. It knows no grammar: it sees words, brackets and operators, and
//! what it cannot place it counts.

use super::{ELSE_IFS_MAX, NESTING_MAX, OPERATORS_MAX, Refused, SOURCE_BYTES_MAX};

/// Judges the text of a shader. Takes time in its length, and a constant amount of memory.
pub fn check_source(source: &str) -> Result<(), Refused> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(Refused::Bytes(source.len()));
    }
    let mut counts = Counts::default();
    let mut words = Words { rest: source.as_bytes(), line: 1 };
    while let Some(word) = words.next() {
        counts.count(word, words.line)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Else,
    If,
    Fn,
    /// Another name, or a number.
    Name,
    Open,
    Close,
    /// Ends an expression, not those around it.
    Comma,
    /// Ends a statement.
    Semicolon,
    OpenBrace,
    CloseBrace,
    Operator,
}

#[derive(Default)]
struct Counts {
    /// Operators at each level of brackets that is open, the innermost last.
    levels: Vec<usize>,
    /// At the level without brackets.
    outermost: usize,
    /// All of these.
    operators: usize,
    else_ifs: usize,
    after_else: bool,
}

impl Counts {
    fn here(&mut self) -> &mut usize {
        self.levels.last_mut().unwrap_or(&mut self.outermost)
    }

    /// An expression or statement at this level is over.
    fn forget(&mut self) {
        self.operators -= std::mem::take(self.here());
    }

    fn open(&mut self, line: usize) -> Result<(), Refused> {
        if self.levels.len() >= NESTING_MAX {
            return Err(Refused::Nesting { line });
        }
        self.levels.push(0);
        Ok(())
    }

    fn close(&mut self) {
        self.operators -= self.levels.pop().unwrap_or(0);
    }

    fn operator(&mut self, line: usize) -> Result<(), Refused> {
        *self.here() += 1;
        self.operators += 1;
        if self.operators > OPERATORS_MAX {
            return Err(Refused::Operators { line });
        }
        Ok(())
    }

    fn count(&mut self, word: Word, line: usize) -> Result<(), Refused> {
        let after_else = std::mem::replace(&mut self.after_else, word == Word::Else);
        match word {
            Word::Name | Word::Else => {}
            Word::Fn => self.else_ifs = 0,
            Word::If if after_else => {
                self.else_ifs += 1;
                if self.else_ifs > ELSE_IFS_MAX {
                    return Err(Refused::ElseIfs { line });
                }
            }
            Word::If => {}
            // An index makes the expression before it longer, as an operator does.
            Word::Open => {
                self.operator(line)?;
                self.open(line)?;
            }
            Word::Close => self.close(),
            Word::Comma | Word::Semicolon => self.forget(),
            Word::OpenBrace => {
                self.forget();
                self.open(line)?;
            }
            Word::CloseBrace => {
                self.close();
                self.forget();
            }
            Word::Operator => self.operator(line)?,
        }
        Ok(())
    }
}

struct Words<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Words<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += skipped.iter().filter(|byte| **byte == b'\n').count();
        self.rest = rest;
    }

    /// Block comments are in each other, as WGSL has them.
    fn comment(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.rest {
                [b'/', b'*', ..] => {
                    open += 1;
                    self.skip(2);
                }
                [b'*', b'/', ..] => {
                    open -= 1;
                    self.skip(2);
                    if open == 0 {
                        return;
                    }
                }
                [] => return,
                _ => self.skip(1),
            }
        }
    }

    fn next(&mut self) -> Option<Word> {
        loop {
            let word = match self.rest {
                [] => return None,
                [b'/', b'*', ..] => {
                    self.comment();
                    continue;
                }
                [b'/', b'/', ..] => {
                    // Other breaks of lines than this one only make more of the text count as a comment's end: nothing is
                    // missed, since all of them are found.
                    let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | 0x0b | 0x0c | b'\r' | 0x80..));
                    self.skip(end.unwrap_or(self.rest.len()));
                    continue;
                }
                [byte, ..] if byte.is_ascii_whitespace() => {
                    self.skip(1);
                    continue;
                }
                [byte, ..] if is_of_name(*byte) => {
                    let length = self.rest.iter().position(|byte| !is_of_name(*byte)).unwrap_or(self.rest.len());
                    let (name, _) = self.rest.split_at(length);
                    let word = match name {
                        b"else" => Word::Else,
                        b"if" => Word::If,
                        b"fn" => Word::Fn,
                        _ => Word::Name,
                    };
                    self.skip(length);
                    return Some(word);
                }
                [b'(' | b'[', ..] => Word::Open,
                [b')' | b']', ..] => Word::Close,
                [b',', ..] => Word::Comma,
                [b';', ..] => Word::Semicolon,
                [b'{', ..] => Word::OpenBrace,
                [b'}', ..] => Word::CloseBrace,
                [b':' | b'@', ..] => Word::Name,
                _ => Word::Operator,
            };
            self.skip(1);
            return Some(word);
        }
    }
}

/// Also of a number.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn function(body: &str) -> String {
        format!("fn f() -> u32 {{ var x = 1u; {body} return x; }}")
    }

    fn chain(link: &str, links: usize) -> String {
        function(&format!("x = {}x;", link.repeat(links)))
    }

    #[test]
    fn what_people_write_passes() {
        for shader in [
            "@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { data[id.x] *= 2.0; }",
            "/* a /* nested */ comment */ const a = array<vec4<f32>, 2>(vec4(1, -2, 3, -4), vec4(0));",
            "// else if ((((\nfn f() { if a { } else if b { } else { } }",
            "",
        ] {
            assert_eq!(check_source(shader), Ok(()), "{shader}");
        }
        let table = format!("const t = array<f32, 9000>({});", vec!["-1.5"; 9_000].join(", "));
        assert_eq!(check_source(&table), Ok(()), "elements of a table are no chain");
        assert_eq!(check_source(&"x = y + 1; ".repeat(20_000)), Ok(()));
    }

    #[test]
    fn chains_are_refused_where_naga_would_overflow() {
        for link in ["x + ", "x && ", "1u + ", "- ", "!", "x < ", "x.y.z + ", "~(x) - ", "*&"] {
            assert_eq!(check_source(&chain(link, 300)), Ok(()), "{link}");
            let refused = check_source(&chain(link, 20_000));
            assert!(matches!(refused, Err(Refused::Operators { line: 1 })), "{link}: {refused:?}");
        }
        // Spread over levels of brackets, none of which has many.
        let nested = function(&format!("x = {}1{};", format!("({}", "x + ".repeat(100)).repeat(100), ")".repeat(100)));
        assert!(matches!(check_source(&nested), Err(Refused::Operators { .. })));
        // Behind a comma of an inner call the outer chain still is as long as it is.
        let comma = function(&format!("x = {}", "x + f(1, ".repeat(5_000)));
        assert!(check_source(&comma).is_err());
    }

    #[test]
    fn else_ifs_are_counted_for_each_function() {
        let links = |count| function(&format!("if x == 0 {{}} {}", "else if x == 1 {} ".repeat(count)));
        assert_eq!(check_source(&links(1_500).repeat(3)), Ok(()));
        assert!(matches!(check_source(&links(2_500)), Err(Refused::ElseIfs { .. })));
        let hidden = function(&format!("if x == 0 {{}} {}", "else/**/if x == 1 {} ".repeat(2_500)));
        assert!(matches!(check_source(&hidden), Err(Refused::ElseIfs { .. })));
    }

    #[test]
    fn nesting_is_bounded() {
        for (open, close) in [("(", ")"), ("[", "]"), ("{", "}")] {
            let nested = |depth| format!("{}{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(check_source(&nested(NESTING_MAX)), Ok(()), "{open}");
            assert!(check_source(&nested(20_000)).is_err(), "{open}");
        }
    }

    #[test]
    fn the_line_is_named() {
        let source = format!("\n\n{}", chain("x + ", 20_000));
        assert_eq!(check_source(&source), Err(Refused::Operators { line: 3 }));
    }

    proptest! {
        /// Brackets that don't match, comments that don't end: nothing makes it panic.
        #[test]
        fn any_text_is_judged(words in proptest::collection::vec(
            prop_oneof![
                Just("("), Just(")"), Just("["), Just("]"), Just("{"), Just("}"), Just(","), Just(";"), Just("else"),
                Just("if"), Just("fn"), Just("/*"), Just("*/"), Just("//"), Just("\n"), Just("+"), Just("x"), Just(" "),
                Just("ä"), Just("/"),
            ],
            0..400,
        )) {
            let _ = check_source(&words.concat());
        }

        #[test]
        fn any_string_is_judged(text in "\\PC*") {
            let _ = check_source(&text);
        }
    }
}
