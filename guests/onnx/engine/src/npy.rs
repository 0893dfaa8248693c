//! Tensors as NumPy keeps them in files: `numpy.save`, `numpy.load`.
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use crate::error::{Fault, ensure};
use crate::model::raw;
use crate::tensor::{Data, Kind, Tensor, elements};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Kinds as they are named there. Of one byte there is no order, so `|`.
const NAMES: [(&str, Kind); 6] = [
    ("<f4", Kind::F32),
    ("|u1", Kind::U8),
    ("|i1", Kind::I8),
    ("<i4", Kind::I32),
    ("<i8", Kind::I64),
    ("|b1", Kind::Bool),
];

/// Tensors one after the other, as `numpy.save` leaves them in one open file.
pub fn read_all(mut bytes: &[u8], count_max: usize) -> Result<Vec<Tensor>, Fault> {
    let mut tensors = Vec::new();
    while !bytes.is_empty() {
        ensure(tensors.len() < count_max, || format!("more than {count_max} tensors"))?;
        let (tensor, rest) = read(bytes)?;
        tensors.push(tensor);
        bytes = rest;
    }
    Ok(tensors)
}

/// One tensor, and the bytes behind it.
pub fn read(bytes: &[u8]) -> Result<(Tensor, &[u8]), Fault> {
    let invalid = |what: &str| Fault::Invalid(format!("no .npy file: {what}"));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| invalid("it does not begin like one"))?;
    let (header, content) = match rest {
        [1, _, low, high, rest @ ..] => rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high]))),
        [2 | 3, _, a, b, c, d, rest @ ..] => {
            let length = u32::from_le_bytes([*a, *b, *c, *d]);
            rest.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))
        }
        _ => None,
    }
    .ok_or_else(|| invalid("its header is cut, or of an unknown version"))?;
    let header = std::str::from_utf8(header).map_err(|_| invalid("its header is no text"))?;
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let kind = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let kind = kind.ok_or_else(|| invalid("it does not say the type of its elements"))?;
    let known = NAMES.iter().find(|(name, _)| *name == kind);
    let (_, kind) = known.ok_or_else(|| Fault::Unsupported(format!("the type {kind:?}: use float32 or int64")))?;
    ensure(value("fortran_order").is_some_and(|rest| rest.starts_with("False")), || {
        "the .npy file is not in C order: save numpy.ascontiguousarray of it".into()
    })?;
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let shape = shape.ok_or_else(|| invalid("it has no shape"))?;
    let dimensions = shape.split(',').map(str::trim).filter(|dimension| !dimension.is_empty());
    let shape: Result<Vec<usize>, _> = dimensions.map(str::parse).collect();
    let shape = shape.map_err(|_| invalid("its shape is no list of numbers"))?;
    let expected = elements(&shape)? * kind.width();
    let cut = || Fault::Invalid(format!("{} bytes for the shape {shape:?}, not {expected}", content.len()));
    let (content, rest) = content.split_at_checked(expected).ok_or_else(cut)?;
    Ok((Tensor::new(shape, raw(*kind, content))?, rest))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a tensor's integers are in its kind's range"
)]
pub fn write(tensor: &Tensor) -> Vec<u8> {
    let name = NAMES.iter().find(|(_, kind)| *kind == tensor.kind()).map_or("<f4", |(name, _)| name);
    let shape: String = tensor.shape().iter().map(|dimension| format!("{dimension},")).collect();
    let mut header = format!("{{'descr': '{name}', 'fortran_order': False, 'shape': ({shape}), }}");
    // The content begins at a multiple of 64.
    let padding = 63 - (MAGIC.len() + 4 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap_or(u16::MAX); // at most 8 dimensions
    let mut bytes = [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat();
    match tensor.data() {
        Data::F32(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Data::Int(Kind::I64, values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Data::Int(Kind::I32, values) => bytes.extend(values.iter().flat_map(|value| (*value as i32).to_le_bytes())),
        Data::Int(_, values) => bytes.extend(values.iter().map(|value| *value as u8)),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for tensor in [
            Tensor::floats(vec![2, 3], vec![1.0, -2.5, 0.0, f32::MAX, 1e-9, 7.0]).unwrap(),
            Tensor::floats(vec![], vec![3.0]).unwrap(),
            Tensor::list(vec![i64::MIN, 5]),
            Tensor::new(vec![1, 2], Data::Int(Kind::I8, vec![-1, 127])).unwrap(),
        ] {
            let bytes = write(&tensor);
            assert_eq!(read_all(&[bytes.clone(), bytes.clone()].concat(), 2), Ok(vec![tensor.clone(), tensor]));
            assert!(read_all(&[bytes.clone(), bytes.clone()].concat(), 1).is_err());
            assert!(read(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn what_numpy_writes_is_read_and_other_things_are_refused() {
        let header = |text: &str| [MAGIC, &[1, 0, text.len() as u8, 0], text.as_bytes(), &[1, 0, 0, 0]].concat();
        let plain = "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }";
        assert_eq!(read(&header(plain)).unwrap().0.as_ints(), Some(&[1][..]));
        for wrong in ["<f8", "<i4', 'fortran_order': True, 'x"] {
            assert!(read(&header(&plain.replace("<i4", wrong))).is_err());
        }
        assert!(read(&header(&plain.replace("(1,)", "(99999999999, 99999999999)"))).is_err());
        assert!(read(b"\x93NUMPY\x01\0\xff\xff").is_err() && read(b"").is_err());
    }
}
