//! Reads the wire format of Protocol Buffers, over borrowed bytes, without recursion and without copies.
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use crate::error::Error;

/// The fields of one message, in the order of its bytes.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Message<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The number of the next field and its content; `None` at the end.
    #[allow(clippy::should_implement_trait, reason = "it can fail, and ends at the first failure")]
    pub fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Error> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(self.malformed("a field of an unknown wire type")),
        };
        Ok(Some((tag >> 3, field)))
    }

    pub fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { at: self.at, what }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.malformed("a cut field"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| self.malformed("a cut number"))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            // The tenth byte holds one bit; what is above it is lost, as other readers do.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than ten bytes"))
    }
}

impl<'a> Field<'a> {
    pub fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Malformed { at: 0, what: "a number where a message or a string belongs" }),
        }
    }

    /// Text, with what is no UTF-8 in it replaced.
    pub fn text(self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub fn integer(self) -> Result<i64, Error> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            _ => Err(Error::Malformed { at: 0, what: "something else where an integer belongs" }),
        }
    }

    pub fn float(self) -> Result<f32, Error> {
        match self {
            Self::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err(Error::Malformed { at: 0, what: "something else where a float belongs" }),
        }
    }

    /// Add one integer, or packed ones, as long as there are no more than `count_max` in the list.
    pub fn integers(self, list: &mut Vec<i64>, count_max: usize) -> Result<(), Error> {
        if let Self::Bytes(packed) = self {
            let mut packed = Message::new(packed);
            while packed.at < packed.bytes.len() {
                push(list, packed.varint()?.cast_signed(), count_max)?;
            }
            return Ok(());
        }
        push(list, self.integer()?, count_max)
    }

    /// As [`Self::integers`], of 32-bit floats.
    pub fn floats(self, list: &mut Vec<f32>, count_max: usize) -> Result<(), Error> {
        if let Self::Bytes(packed) = self {
            let mut packed = Message::new(packed);
            while packed.at < packed.bytes.len() {
                push(list, f32::from_le_bytes(packed.array()?), count_max)?;
            }
            return Ok(());
        }
        push(list, self.float()?, count_max)
    }
}

fn push<T>(list: &mut Vec<T>, value: T, count_max: usize) -> Result<(), Error> {
    if list.len() >= count_max {
        return Err(Error::Malformed { at: 0, what: "more numbers than belong there" });
    }
    list.push(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_wire_types() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 0, 0, 0, 0, 0, 0, 0];
        let mut message = Message::new(&bytes);
        assert_eq!(message.next().unwrap(), Some((1, Field::Varint(150))));
        assert_eq!(message.next().unwrap(), Some((2, Field::Bytes(b"hi"))));
        assert_eq!(message.next().unwrap().unwrap().1.float().unwrap(), 1.0);
        assert_eq!(message.next().unwrap(), Some((4, Field::Fixed64(1))));
        assert_eq!(message.next().unwrap(), None);
    }

    #[test]
    fn cut_and_endless_bytes_are_errors() {
        for bytes in
            [&[0x08][..], &[0x12, 5, 1], &[0x1d, 1], &[0xff; 11], &[0x0b], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            assert!(Message::new(bytes).next().is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn numbers_come_alone_or_packed_and_are_counted() {
        let mut list = Vec::new();
        Field::Bytes(&[1, 0x80, 1]).integers(&mut list, 3).unwrap();
        Field::Varint(u64::MAX).integers(&mut list, 3).unwrap();
        assert_eq!(list, [1, 128, -1]);
        assert!(Field::Varint(1).integers(&mut list, 3).is_err());
        assert!(Field::Bytes(&[0; 5]).floats(&mut Vec::new(), 9).is_err());
    }
}
