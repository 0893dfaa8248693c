//! Operators that change a shape and nothing else: no step comes of them.

use super::{Cx, Value};
use crate::error::{Fault, ensure};
use crate::tensor::{Tensor, axis, elements};

pub fn reshaped(value: &Value, shape: Vec<usize>) -> Result<Value, Fault> {
    let (before, after) = (elements(value.shape())?, elements(&shape)?);
    ensure(before == after, || format!("{:?} has {before} elements, {shape:?} {after}", value.shape()))?;
    match value {
        Value::Slot { id, .. } => Ok(Value::Slot { id: *id, shape }),
        Value::Known(tensor) => Ok(Value::known(Tensor::new(shape, tensor.data().clone())?)),
    }
}

/// Axes are an attribute, and from some version on an input.
pub fn axes(cx: &Cx<'_>, input: usize) -> Result<Option<Vec<i64>>, Fault> {
    match cx.list("axes")? {
        Some(axes) => Ok(Some(axes.to_vec())),
        None => cx.optional_ints(input),
    }
}

pub fn reshape(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let wanted = match cx.list("shape")? {
        Some(shape) => shape.to_vec(),
        None => cx.ints(1)?,
    };
    let keeps_zeros = cx.int("allowzero", 0)? != 0;
    let mut shape = Vec::with_capacity(wanted.len());
    for (at, dimension) in wanted.iter().enumerate() {
        shape.push(match dimension {
            -1 => 1,
            0 if !keeps_zeros => {
                let copied = value.shape().get(at).copied();
                copied.ok_or_else(|| Fault::Invalid(format!("dimension {at} is to be copied, and there is none")))?
            }
            dimension => usize::try_from(*dimension).map_err(|_| Fault::Invalid(format!("the shape {wanted:?}")))?,
        });
    }
    let mut open = wanted.iter().zip(&mut shape).filter(|(wanted, _)| **wanted == -1).map(|(_, place)| place);
    let (place, another) = (open.next(), open.next());
    ensure(another.is_none(), || format!("the shape {wanted:?} has two open dimensions"))?;
    if place.is_some() {
        let (have, others) = (elements(value.shape())?, elements(&shape)?);
        ensure(others > 0 && have % others == 0, || format!("{:?} can't be {wanted:?}", value.shape()))?;
        let open = wanted.iter().zip(&mut shape).filter(|(wanted, _)| **wanted == -1);
        open.for_each(|(_, place)| *place = have / others);
    }
    reshaped(&value, shape)
}

pub fn flatten(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let (outer, inner) = split(value.shape(), cx.int("axis", 1)?)?;
    reshaped(&value, vec![outer, inner])
}

/// Elements before an axis and from it on. It may be the number of dimensions.
pub fn split(shape: &[usize], at: i64) -> Result<(usize, usize), Fault> {
    let at = if at == shape.len() as i64 { shape.len() } else { axis(at, shape.len())? };
    let (outer, inner) = shape.split_at_checked(at).unwrap_or((shape, &[]));
    Ok((outer.iter().product(), inner.iter().product()))
}

pub fn squeeze(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let rank = value.shape().len();
    let axes = axes(cx, 1)?;
    let gone: Option<Result<Vec<usize>, Fault>> =
        axes.map(|axes| axes.into_iter().map(|counted| axis(counted, rank)).collect());
    let gone = gone.transpose()?;
    let mut shape = Vec::new();
    for (at, dimension) in value.shape().iter().enumerate() {
        match &gone {
            Some(gone) if gone.contains(&at) => {
                ensure(*dimension == 1, || format!("axis {at} of {:?} is not 1", value.shape()))?;
            }
            None if *dimension == 1 => {}
            _ => shape.push(*dimension),
        }
    }
    reshaped(&value, shape)
}

pub fn unsqueeze(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let axes = axes(cx, 1)?.ok_or_else(|| Fault::Invalid("it has no axes".into()))?;
    let rank = value.shape().len() + axes.len();
    elements(&vec![1; rank])?;
    let added: Result<Vec<usize>, Fault> = axes.into_iter().map(|counted| axis(counted, rank)).collect();
    let added = added?;
    let mut rest = value.shape().iter();
    let shape: Vec<usize> =
        (0..rank).map(|at| if added.contains(&at) { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    ensure(rest.next().is_none(), || format!("the axes {added:?} are not different ones"))?;
    reshaped(&value, shape)
}
