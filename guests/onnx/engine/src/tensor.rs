//! Tensors in memory, and the arithmetic of shapes.

use crate::error::{Fault, ensure};
use crate::limits::{ELEMENTS_MAX, RANK_MAX};

/// The types of elements. Integers are kept as `i64` whatever their width; a program computes with [`Kind::F32`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    F32,
    U8,
    I8,
    I32,
    I64,
    Bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    F32(Vec<f32>),
    /// Of any kind but [`Kind::F32`], each in that kind's range.
    Int(Kind, Vec<i64>),
}

/// Row-major; a scalar has no dimensions and one element.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Kind {
    /// `TensorProto.DataType`.
    pub fn of_onnx(number: i64) -> Result<Self, Fault> {
        match number {
            1 => Ok(Self::F32),
            2 => Ok(Self::U8),
            3 => Ok(Self::I8),
            6 => Ok(Self::I32),
            7 => Ok(Self::I64),
            9 => Ok(Self::Bool),
            10 => Err(Fault::Unsupported("elements of the type float16: convert the model to float32".into())),
            11 => Err(Fault::Unsupported("elements of the type double: convert the model to float32".into())),
            other => Err(Fault::Unsupported(format!("elements of the ONNX type {other}"))),
        }
    }

    /// Bytes of one element as ONNX and NumPy lay it out.
    pub fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// An integer as this kind holds it: what does not fit wraps.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "wrapping is what casts in ONNX do")]
    pub fn wrap(self, value: i64) -> i64 {
        match self {
            Self::U8 => i64::from(value as u8),
            Self::I8 => i64::from(value as i8),
            Self::I32 => i64::from(value as i32),
            Self::I64 | Self::F32 => value,
            Self::Bool => i64::from(value != 0),
        }
    }
}

impl Tensor {
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Self, Fault> {
        let expected = elements(&shape)?;
        let length = match &data {
            Data::F32(values) => values.len(),
            Data::Int(_, values) => values.len(),
        };
        ensure(length == expected, || format!("{length} elements for the shape {shape:?}, which has {expected}"))?;
        Ok(Self { shape, data })
    }

    pub fn floats(shape: Vec<usize>, values: Vec<f32>) -> Result<Self, Fault> {
        Self::new(shape, Data::F32(values))
    }

    /// Of one dimension.
    pub fn list(values: Vec<i64>) -> Self {
        Self { shape: vec![values.len()], data: Data::Int(Kind::I64, values) }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn data(&self) -> &Data {
        &self.data
    }

    pub fn into_data(self) -> Data {
        self.data
    }

    pub fn kind(&self) -> Kind {
        match &self.data {
            Data::F32(_) => Kind::F32,
            Data::Int(kind, _) => *kind,
        }
    }

    /// What it takes in memory here.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(values) => values.len() * 4,
            Data::Int(_, values) => values.len() * 8,
        }
    }

    pub fn as_floats(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(values) => Some(values),
            Data::Int(..) => None,
        }
    }

    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(_, values) => Some(values),
            Data::F32(_) => None,
        }
    }
}

/// How many elements a tensor of this shape has, if it may have so many.
pub fn elements(shape: &[usize]) -> Result<usize, Fault> {
    let too_large = || Fault::TooLarge(format!("the shape {shape:?}"));
    if shape.len() > RANK_MAX {
        return Err(Fault::TooLarge(format!("{} dimensions, of at most {RANK_MAX}", shape.len())));
    }
    // Without its zeros it is bounded as well: then no product of some of its dimensions overflows.
    let bounded = |product: usize, dimension: &usize| product.checked_mul((*dimension).max(1));
    let product = shape.iter().try_fold(1, bounded).filter(|product| *product <= ELEMENTS_MAX).ok_or_else(too_large)?;
    Ok(if shape.contains(&0) { 0 } else { product })
}

/// Elements from one to the next along each dimension.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut stride = 1;
    for (place, dimension) in strides.iter_mut().zip(shape).rev() {
        *place = stride;
        stride *= (*dimension).max(1);
    }
    strides
}

/// The shape that both are repeated to, by the rules of NumPy.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let dimension =
        |shape: &[usize], at: usize| (at + shape.len()).checked_sub(rank).and_then(|at| shape.get(at).copied());
    (0..rank)
        .map(|at| match (dimension(a, at).unwrap_or(1), dimension(b, at).unwrap_or(1)) {
            (a, b) if a == b => Ok(a),
            (1, other) | (other, 1) => Ok(other),
            _ => Err(Fault::Invalid(format!("the shapes {a:?} and {b:?} can't be broadcast to each other"))),
        })
        .collect()
}

/// Strides of a tensor that is repeated to the shape `to`, 0 where it repeats. `shape` must broadcast to `to`.
pub fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let missing = to.len().saturating_sub(shape.len());
    let own = strides(shape).into_iter().zip(shape).map(|(stride, dimension)| if *dimension == 1 { 0 } else { stride });
    std::iter::repeat_n(0, missing).chain(own).collect()
}

/// An axis as ONNX counts it, from the end where it is negative.
pub fn axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let signed = rank as i64;
    let counted = if axis < 0 { axis.saturating_add(signed) } else { axis };
    let found = usize::try_from(counted).ok().filter(|counted| *counted < rank);
    found.ok_or_else(|| Fault::Invalid(format!("there is no axis {axis} of {rank} dimensions")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(elements(&[]), Ok(1));
        assert_eq!(elements(&[2, 0, 3]), Ok(0));
        for shape in [&[usize::MAX, 2][..], &[0, usize::MAX], &[1 << 20, 1 << 20], &[1; 9]] {
            assert!(matches!(elements(shape), Err(Fault::TooLarge(_))), "{shape:?}");
        }
    }

    #[test]
    fn shapes_broadcast() {
        assert_eq!(broadcast(&[2, 3], &[4, 1, 3]).unwrap(), [4, 2, 3]);
        assert_eq!(broadcast(&[], &[5]).unwrap(), [5]);
        assert!(broadcast(&[2], &[3]).is_err());
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
    }

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!((axis(-1, 3), axis(2, 3)), (Ok(2), Ok(2)));
        assert!(axis(3, 3).is_err() && axis(-4, 3).is_err() && axis(0, 0).is_err() && axis(i64::MIN, 3).is_err());
    }
}
