//! As much of DER (X.690) as it takes to read a certificate's end and its subject. What it does not understand it leaves
//! out: whether a certificate is good is for rustls to say.

use std::fmt::Write as _;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OID: u8 = 0x06;
const BMP_STRING: u8 = 0x1e;
/// UTF8String, PrintableString, T61String, IA5String.
const STRINGS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];
/// The version of a certificate.
const EXPLICIT_0: u8 = 0xa0;

/// A value: its tag, its content, and what stands behind it.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.is_empty() || digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn of(expected: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    value(bytes).filter(|(tag, ..)| *tag == expected).map(|(_, content, rest)| (content, rest))
}

/// When a certificate expires, in Unix time.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = of(SEQUENCE, certificate)?;
    let (mut fields, _) = of(SEQUENCE, certificate)?;
    if let Some((_, rest)) = of(EXPLICIT_0, fields) {
        fields = rest;
    }
    let (_serial, _, fields) = value(fields)?;
    let (_algorithm, _, fields) = value(fields)?;
    let (_issuer, _, fields) = value(fields)?;
    let (validity, _) = of(SEQUENCE, fields)?;
    let (_, _, not_after) = value(validity)?;
    let (tag, time, _) = value(not_after)?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i64 = digits.get(..2)?.parse().ok()?;
            // RFC 5280 §4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..)?)
        }
        GENERALIZED_TIME => (digits.get(..4)?.parse().ok()?, digits.get(4..)?),
        _ => return None,
    };
    let mut parts = [0_i64; 5];
    for (index, part) in parts.iter_mut().enumerate() {
        *part = rest.get(index * 2..index * 2 + 2)?.parse().ok()?;
    }
    let [month, day, hour, minute, second] = parts;
    Some(((days(year, month, day)? * 24 + hour) * 60 + minute) * 60 + second)
}

/// From 1970-01-01, in the Gregorian calendar. Years begin in March here, so that a leap day is the last of one.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) {
        return None;
    }
    let year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let before_month = (153 * month + 2) / 5;
    Some(365 * year + year / 4 - year / 100 + year / 400 + before_month + day - 1 - 719_468)
}

/// A distinguished name, without its outer sequence, as RFC 4514 writes it: the most telling part first. ASCII.
pub(super) fn distinguished_name(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (_, mut set, rest) = value(name)?;
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let (attribute, more) = of(SEQUENCE, set)?;
            let (kind, written) = of(OID, attribute)?;
            attributes.push(attribute_text(kind, written)?);
            set = more;
        }
        parts.push(attributes.join("+"));
        name = rest;
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute_text(kind: &[u8], written: &[u8]) -> Option<String> {
    let name = match kind {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "STREET",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        _ => "",
    };
    let (tag, content, _) = value(written)?;
    let text = match tag {
        _ if name.is_empty() => None,
        BMP_STRING => {
            let units =
                content.chunks_exact(2).map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
            Some(String::from_utf16_lossy(&units.collect::<Vec<_>>()).into_bytes())
        }
        _ => STRINGS.contains(&tag).then(|| content.to_vec()),
    };
    let mut line = if name.is_empty() { oid(kind)? } else { name.to_owned() };
    line.push('=');
    match text {
        Some(text) => escape(&text, &mut line),
        None => {
            line.push('#');
            written.iter().try_for_each(|byte| write!(line, "{byte:02x}")).ok()?;
        }
    }
    Some(line)
}

/// RFC 4514 §2.4. All that is not visible ASCII is written in hexadecimal, since it goes into a header.
fn escape(text: &[u8], line: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => line.extend(['\\', char::from(*byte)]),
            b' ' if index == 0 || index == last => line.push_str("\\ "),
            b'#' if index == 0 => line.push_str("\\#"),
            b' '..=b'~' => line.push(char::from(*byte)),
            // Writing into a text does not fail.
            _ => drop(write!(line, "\\{byte:02x}")),
        }
    }
}

fn oid(bytes: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in bytes {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let (first, rest) = numbers.split_first()?;
    let top = (first / 40).min(2);
    let mut text = format!("{top}.{}", first - top * 40);
    rest.iter().try_for_each(|number| write!(text, ".{number}")).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match u8::try_from(content.len()) {
            Ok(short) if short < 0x80 => bytes.push(short),
            _ => bytes.extend([0x82, (content.len() >> 8) as u8, content.len() as u8]),
        }
        bytes.extend(content);
        bytes
    }

    fn attribute(kind: &[u8], tag: u8, content: &[u8]) -> Vec<u8> {
        tlv(0x31, &tlv(SEQUENCE, &[tlv(OID, kind), tlv(tag, content)].concat()))
    }

    #[test]
    fn names_are_written_as_in_rfc_4514() {
        let name = [
            attribute(&[0x55, 4, 6], 0x13, b"DE"),
            attribute(&[0x55, 4, 10], 0x0c, "Würth, \"x\" + y ".as_bytes()),
            attribute(&[0x55, 4, 3], 0x1e, &[0, b'a', 0, b'b']),
            attribute(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], 0x16, b"a@b"),
        ];
        let expect = "1.2.840.113549.1.9.1=#1603614062,CN=ab,O=W\\c3\\bcrth\\, \\\"x\\\" \\+ y\\ ,C=DE";
        assert_eq!(distinguished_name(&name.concat()).as_deref(), Some(expect));
        assert_eq!(distinguished_name(&[]).as_deref(), Some(""));
        for length in 1..name.concat().len() {
            let _ = distinguished_name(&name.concat()[..length]);
        }
        assert_eq!(distinguished_name(&[0x31, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn ends_are_unix_time() {
        for (tag, time, expect) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "000301000000Z", Some(951_868_800)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "21261029131045Z", Some(4_948_953_045)),
            (UTC_TIME, "001301000000Z", None),
            (UTC_TIME, "0003", None),
            (OID, "000301000000Z", None),
        ] {
            let validity = tlv(SEQUENCE, &[tlv(UTC_TIME, b"x"), tlv(tag, time.as_bytes())].concat());
            let fields = [tlv(EXPLICIT_0, &[]), tlv(2, &[1]), tlv(SEQUENCE, &[]), tlv(SEQUENCE, &[0; 200]), validity];
            let certificate = tlv(SEQUENCE, &tlv(SEQUENCE, &fields.concat()));
            assert_eq!(not_after(&certificate), expect, "{time}");
        }
    }
}
