//! Counters in streams (ADR-49), as guests use them: numbers of any size, and how a message holds one. What is promised is in
//! `wit/nats/counters.wit`.

use super::{Code, Failure, Stored};
use crate::limits::one_line;
use serde::Deserialize;

/// Digits of what is added in one step.
pub const INTEGER_DIGITS_MAX: usize = 256;

/// A whole number of any size that is added, as NATS has it: always with its sign, and without zeros before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integer(String);

impl Integer {
    /// One that a guest gives: digits, with or without a sign.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (sign, digits) = match text.as_bytes().first() {
            Some(b'-') => ('-', text.get(1..)),
            Some(b'+') => ('+', text.get(1..)),
            _ => ('+', Some(text)),
        };
        let digits = digits.unwrap_or_default();
        if !is_digits(digits) || digits.len() > INTEGER_DIGITS_MAX {
            let shown = one_line(text, 64);
            let text = format!("{shown:?} is no whole number of 1 to {INTEGER_DIGITS_MAX} digits");
            return Err(Failure::not(Code::Invalid("by".into()), text));
        }
        Ok(match digits.trim_start_matches('0') {
            "" => Self("+0".to_owned()),
            digits => Self(format!("{sign}{digits}")),
        })
    }

    /// `+5`, `-12`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an addition did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// None of a duplicate.
    pub total: Option<String>,
    pub sequence: u64,
    pub duplicate: bool,
}

/// A counter as its last addition left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub subject: String,
    pub total: String,
    pub sequence: u64,
    /// Nanoseconds since 1970, by the server's clock.
    pub time: u64,
}

impl TryFrom<Stored> for Count {
    type Error = Failure;

    fn try_from(stored: Stored) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Body {
            val: String,
        }
        let Stored { message, sequence, time } = stored;
        let body = serde_json::from_slice(&message.payload).ok();
        match body {
            Some(Body { val }) if is_total(&val) => Ok(Self { subject: message.subject, total: val, sequence, time }),
            _ => {
                Err(Failure::not(Code::Other, format!("what is on {} is no counter", one_line(&message.subject, 128))))
            }
        }
    }
}

/// Whether a server has written it.
pub fn is_total(text: &str) -> bool {
    is_digits(text.strip_prefix('-').unwrap_or(text))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Message;

    #[test]
    fn what_is_added_is_a_whole_number_with_its_sign() {
        let long = "9".repeat(INTEGER_DIGITS_MAX);
        let with_sign = format!("+{long}");
        for (text, expect) in [
            ("1", "+1"),
            ("+17", "+17"),
            ("-3", "-3"),
            ("0", "+0"),
            ("-0", "+0"),
            ("007", "+7"),
            ("-010", "-10"),
            (long.as_str(), with_sign.as_str()),
        ] {
            assert_eq!(Integer::parse(text).unwrap().as_str(), expect, "{text}");
        }
        for bad in [
            "",
            "+",
            "-",
            "--1",
            "+-1",
            "1.5",
            "1e3",
            " 1",
            "1 ",
            "٣",
            "0x1",
            "1\r\nNats-Rollup: all",
            &format!("{long}9"),
        ] {
            assert_eq!(Integer::parse(bad).unwrap_err().code, Code::Invalid("by".into()), "{bad}");
        }
    }

    #[test]
    fn a_message_is_a_counter_where_it_has_a_total() {
        let stored = |payload: &'static str| {
            let message = Message { subject: "hits.a".into(), payload: payload.into(), ..Message::default() };
            Count::try_from(Stored { message, sequence: 7, time: 9 })
        };
        let long = format!("-1{}", "0".repeat(400));
        let count = |total: &str| Count { subject: "hits.a".into(), total: total.into(), sequence: 7, time: 9 };
        assert_eq!(stored(r#"{"val":"100"}"#), Ok(count("100")));
        assert_eq!(stored(r#"{"val":"-5","more":1}"#), Ok(count("-5")));
        assert!(is_total(&long));
        for bad in
            ["", "100", r#"{"val":100}"#, r#"{"val":""}"#, r#"{"val":"-"}"#, r#"{"val":"1e3"}"#, r#"{"value":"1"}"#]
        {
            assert_eq!(stored(bad).unwrap_err().code, Code::Other, "{bad}");
        }
    }
}
