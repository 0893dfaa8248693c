//! Input that no honest sender writes: good examples with something done to them. The same for the same seed.

/// What parsers stumble over, put in at random.
const ODD: [&[u8]; 28] = [
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e309",
    b"4294967296",
    b"",
    b" ",
    b"\n",
    b"\r\n",
    b"\0",
    b"\t",
    b"\x1b[2J",
    b"\xff\xfe",
    "\u{202e}".as_bytes(),
    "é".as_bytes(),
    b"..",
    b"/",
    b"%2e",
    b"%00",
    b"*",
    b">",
    b".",
    b":",
    b"{",
    b"[",
    b"\"",
    b"null",
    b"&a [*a,*a]",
];
/// No mutation is longer.
const BYTES_MAX: usize = 64 * 1024;

/// Endless, for each seed another.
pub struct Mutations<'a> {
    examples: &'a [&'a str],
    state: u64,
}

impl<'a> Mutations<'a> {
    pub fn new(examples: &'a [&'a str], seed: u64) -> Self {
        Self { examples, state: seed }
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) as usize).checked_rem(end).unwrap_or(0)
    }

    fn example(&mut self) -> &'a [u8] {
        let at = self.below(self.examples.len());
        self.examples.get(at).map_or(&[], |example| example.as_bytes())
    }

    /// A part of it, from and to.
    fn part(&mut self, bytes: &[u8]) -> (usize, usize) {
        let from = self.below(bytes.len() + 1);
        let most = if self.below(4) == 0 { bytes.len() } else { 8 };
        (from, (from + self.below(most + 1)).min(bytes.len()))
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let (from, to) = self.part(bytes);
        match self.below(7) {
            0 => drop(bytes.drain(from..to)),
            1 => {
                let odd = ODD.get(self.below(ODD.len())).copied().unwrap_or_default();
                bytes.splice(from..to, odd.iter().copied());
            }
            2 => {
                let odd = ODD.get(self.below(ODD.len())).copied().unwrap_or_default();
                bytes.splice(from..from, odd.iter().copied());
            }
            3 => {
                let again: Vec<u8> = bytes.get(from..to).unwrap_or_default().repeat(1 + self.below(40));
                bytes.splice(from..from, again);
            }
            4 => {
                let bit = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(from) {
                    *byte ^= bit;
                }
            }
            5 => {
                let other = self.example();
                let (start, end) = self.part(other);
                bytes.splice(from..to, other.get(start..end).unwrap_or_default().iter().copied());
            }
            _ => {
                let value = self.below(256) as u8;
                bytes.splice(from..from, [value]);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.example().to_vec();
        for _ in 0..self.below(6) {
            self.change(&mut bytes);
        }
        Some(bytes)
    }
}
