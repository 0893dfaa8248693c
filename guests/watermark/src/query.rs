//! What `/mark` is asked to do.
//!
//! | query                    | default |                                                                     |
//! |--------------------------|---------|---------------------------------------------------------------------|
//! | `bits=4c415454`          |         | 32 bits, as 8 hexadecimal digits                                    |
//! | `format=jpeg&quality=90` | `png`   | of the answer; the quality is from 1 to 100, 90 where it is not given  |
//! | `strength=1.5`           | 1       | of the mark, from 0.5 to 2                                          |

#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub bits: u32,
    pub format: Format,
    pub strength: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Png,
    /// Of this quality.
    Jpeg(u8),
}

const QUALITY: u8 = 90;

impl Query {
    pub fn parse(query: &str) -> Result<Self, String> {
        let (mut bits, mut is_jpeg, mut quality, mut strength) = (None, false, None, 1.0);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "bits" => bits = Some(hexadecimal(value).ok_or("bits: 8 hexadecimal digits, as in bits=4c415454")?),
                "format" => {
                    is_jpeg = match value {
                        "png" => false,
                        "jpeg" => true,
                        _ => return Err("format: it is png or jpeg".into()),
                    }
                }
                "quality" => {
                    let number = value.parse().ok().filter(|quality| (1..=100).contains(quality));
                    quality = Some(number.ok_or("quality: a number from 1 to 100")?);
                }
                "strength" => {
                    let number = value.parse().ok().filter(|strength| (0.5..=2.0).contains(strength));
                    strength = number.ok_or("strength: a number from 0.5 to 2")?;
                }
                _ => return Err("there are the parameters bits, format, quality and strength".into()),
            }
        }
        if quality.is_some() && !is_jpeg {
            return Err("quality: it is for format=jpeg alone".into());
        }
        let bits = bits.ok_or("bits: they are missing; write ?bits=4c415454")?;
        let format = if is_jpeg { Format::Jpeg(quality.unwrap_or(QUALITY)) } else { Format::Png };
        Ok(Self { bits, format, strength })
    }
}

fn hexadecimal(text: &str) -> Option<u32> {
    let is_whole = text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |query: &str, bits, format, strength| {
            assert_eq!(Query::parse(query), Ok(Query { bits, format, strength }), "{query}");
        };
        check("bits=4c415454", 0x4c41_5454, Format::Png, 1.0);
        check("format=jpeg&bits=FFFFFFFF", u32::MAX, Format::Jpeg(90), 1.0);
        check("bits=00000000&format=jpeg&quality=75&strength=0.5", 0, Format::Jpeg(75), 0.5);
        check("&bits=00000001&format=png&", 1, Format::Png, 1.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |query: &str, says: &str| {
            let error = Query::parse(query).err().unwrap_or_default();
            assert!(error.contains(says), "{query}: {error:?}");
        };
        for bits in ["", "bits", "bits=", "bits=4c4154", "bits=4c41545454", "bits=+c415454", "bits=wxyzwxyz"] {
            check(bits, "bits: ");
        }
        check("bits=00000000&format=gif", "format: ");
        for quality in ["0", "101", "", "high", "75.5"] {
            check(&format!("bits=00000000&format=jpeg&quality={quality}"), "quality: ");
        }
        check("bits=00000000&quality=75", "format=jpeg alone");
        for strength in ["0", "2.1", "NaN", "inf", "-1"] {
            check(&format!("bits=00000000&strength={strength}"), "strength: ");
        }
        check("bits=00000000&colour=red", "there are the parameters");
    }
}
