//! What is sent for 32 bits: they and their checksum, 64 in all. The checksum tells a payload from what a picture without one looks
//! like, and corrects: of the bits that were read with the least certainty, a few are turned until it is right.

/// Bits that are sent.
pub const BITS: usize = 64;
/// Bits that may be wrong, the least certain ones.
const DOUBTFUL: usize = 24;
/// Bits that may be wrong at a time. With this many of `DOUBTFUL`, 12,951 words are tried: of 330,000 pictures without a mark, one has one.
const FLIPS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub payload: u32,
    /// Bits, of those that are sent, that were read wrong.
    pub corrected: usize,
    /// From 0, where each bit could as well be another, to 1, where there is no doubt.
    pub confidence: f32,
}

/// The payload, then its checksum.
pub fn word(payload: u32) -> u64 {
    u64::from(payload) << 32 | u64::from(checksum(payload))
}

/// The first ones of the payload first.
pub fn bits(word: u64) -> impl Iterator<Item = bool> {
    (0..BITS).map(move |at| word & bit(at) != 0)
}

fn bit(at: usize) -> u64 {
    1 << (BITS - 1 - at)
}

/// CRC-32, as Ethernet and PNG have it, of the payload's four bytes, the most significant one first.
fn checksum(payload: u32) -> u32 {
    let mut crc = !0_u32;
    for byte in payload.to_be_bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// 0 if a word's checksum is right.
fn wrong(word: u64) -> u32 {
    checksum((word >> 32) as u32) ^ word as u32
}

/// What was sent, of how certain each bit is: 1 above 0, and the further the surer. `None` if nothing was.
pub fn read(certainties: &[f32]) -> Option<Found> {
    if certainties.len() != BITS || certainties.iter().any(|certainty| !certainty.is_finite()) {
        return None;
    }
    let ones = certainties.iter().enumerate().filter(|(_, certainty)| **certainty > 0.0);
    let read = ones.fold(0, |word, (at, _)| word | bit(at));
    let mut doubtful: Vec<(usize, f32)> = certainties.iter().map(|certainty| certainty.abs()).enumerate().collect();
    doubtful.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    // What turning a bit does to `wrong` does not depend on the others.
    let turns = doubtful.iter().take(DOUBTFUL).map(|(at, _)| (bit(*at), wrong(bit(*at)) ^ wrong(0)));
    let turns: Vec<(u64, u32)> = turns.collect();
    let turned = (0..=FLIPS).find_map(|count| turned(&turns, count, wrong(read)))?;
    let sent = read ^ turned;
    // By how much a bit is surer than chance, if its certainty is the logarithm of the odds.
    let sure = bits(sent).zip(certainties).map(|(is, certainty)| if is { *certainty } else { -certainty });
    let confidence = sure.map(|certainty| (certainty / 2.0).tanh()).sum::<f32>() / BITS as f32;
    let confidence = confidence.clamp(0.0, 1.0);
    Some(Found { payload: (sent >> 32) as u32, corrected: turned.count_ones() as usize, confidence })
}

/// So many bits that make a checksum right when they are turned.
fn turned(turns: &[(u64, u32)], count: usize, wrong: u32) -> Option<u64> {
    if count == 0 {
        return (wrong == 0).then_some(0);
    }
    turns.iter().enumerate().find_map(|(at, (bit, change))| {
        let rest = turns.get(at + 1..).unwrap_or_default();
        turned(rest, count - 1, wrong ^ change).map(|turned| turned | bit)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

    use super::*;

    fn certainties(word: u64, certainty: f32) -> Vec<f32> {
        bits(word).map(|is| if is { certainty } else { -certainty }).collect()
    }

    /// Numbers that look random, always the same.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 32
        })
    }

    #[test]
    fn the_checksum_is_the_crc_32_that_all_know() {
        assert_eq!(checksum(u32::from_be_bytes(*b"1234")), 0x9be3_e0a3);
        assert_eq!(word(0), 0x2144_df1c);
    }

    #[test]
    fn what_was_sent_is_read() {
        for payload in [0, 1, u32::MAX, 0x4c41_5454] {
            let found = read(&certainties(word(payload), 8.0)).unwrap();
            assert_eq!((found.payload, found.corrected), (payload, 0));
            assert!(found.confidence > 0.99, "{found:?}");
        }
    }

    #[test]
    fn wrong_bits_are_corrected_where_they_are_doubtful() {
        let sent = word(0xdead_beef);
        for places in [&[0][..], &[63], &[5, 40], &[1, 2, 3], &[0, 31, 32, 63]] {
            let mut read_as = certainties(sent, 3.0);
            places.iter().for_each(|at| read_as[*at] *= -0.1);
            let found = read(&read_as).unwrap();
            assert_eq!((found.payload, found.corrected), (0xdead_beef, places.len()), "{places:?}");
            assert!((0.7..0.91).contains(&found.confidence), "{found:?}");
        }
        let mut five = certainties(sent, 3.0);
        (0..5).for_each(|at| five[at * 9] *= -0.1);
        assert_eq!(read(&five), None, "more than may be wrong");
        let mut sure = certainties(sent, 0.1);
        sure[7] = -50.0 * sure[7];
        assert_eq!(read(&sure), None, "one that was certain");
    }

    #[test]
    fn nothing_is_found_where_nothing_was_sent() {
        let mut numbers = numbers(1);
        for _ in 0..500 {
            let noise: Vec<f32> =
                (0..BITS).map(|_| numbers.next().unwrap() as f32 / (1_u64 << 31) as f32 - 1.0).collect();
            assert_eq!(read(&noise), None);
        }
        assert_eq!(read(&[0.0; BITS]), None);
        assert_eq!(read(&[f32::NAN; BITS]), None);
        assert_eq!(read(&[1.0; BITS - 1]), None);
    }
}
