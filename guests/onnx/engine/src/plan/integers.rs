//! Operators that make and change what is known while planning.

use std::rc::Rc;

use super::{Cx, Value};
use crate::error::{Fault, ensure};
use crate::limits::INTEGERS_MAX;
use crate::model::Attribute;
use crate::tensor::{Data, Kind, Tensor, elements};

pub fn constant(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let found = ["value", "value_float", "value_floats", "value_int", "value_ints"].map(|name| cx.attribute(name));
    match found.into_iter().flatten().next() {
        Some(Attribute::Tensor(tensor)) => Ok(Value::Known(tensor.clone())),
        Some(Attribute::Float(value)) => Ok(Value::known(Tensor::floats(vec![], vec![*value])?)),
        Some(Attribute::Floats(values)) => Ok(Value::known(Tensor::floats(vec![values.len()], values.clone())?)),
        Some(Attribute::Int(value)) => Ok(Value::known(Tensor::new(vec![], Data::Int(Kind::I64, vec![*value]))?)),
        Some(Attribute::Ints(values)) => Ok(Value::known(Tensor::list(values.clone()))),
        _ => Err(Fault::Unsupported("a constant that is no tensor of numbers".into())),
    }
}

pub fn constant_of_shape(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let shape: Result<Vec<usize>, _> = cx.ints(0)?.into_iter().map(usize::try_from).collect();
    let shape = shape.map_err(|_| Fault::Invalid("a negative dimension".into()))?;
    let count = elements(&shape)?;
    let value = match cx.attribute("value") {
        None => Data::F32(vec![0.0]),
        Some(Attribute::Tensor(tensor)) => tensor.data().clone(),
        Some(_) => return Err(Fault::Invalid("its attribute \"value\" must be a tensor".into())),
    };
    cx.planner.remember(count * 8)?;
    let data = match value {
        Data::F32(values) => Data::F32(vec![values.first().copied().unwrap_or(0.0); count]),
        Data::Int(kind, values) => {
            ensure(count <= INTEGERS_MAX, || format!("{count} integers, of at most {INTEGERS_MAX}"))?;
            Data::Int(kind, vec![values.first().copied().unwrap_or(0); count])
        }
    };
    Ok(Value::known(Tensor::new(shape, data)?))
}

/// Also a part of it, since version 15.
pub fn shape(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let rank = value.shape().len() as i64;
    let bound = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank);
    let (start, end) = (bound(cx.int("start", 0)?), bound(cx.int("end", rank)?));
    let taken = value.shape().iter().skip(start as usize).take((end - start).max(0) as usize);
    Ok(Value::known(Tensor::list(taken.map(|dimension| *dimension as i64).collect())))
}

/// Floats that are computed stay floats; all else is known.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "casts are what is asked for")]
pub fn cast(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let to = Kind::of_onnx(cx.int("to", 0)?)?;
    let value = cx.input(0)?;
    let tensor = match &value {
        Value::Slot { .. } if to == Kind::F32 => return Ok(value),
        Value::Slot { .. } => return Err(Fault::Unsupported(format!("{to:?} of values that are computed"))),
        Value::Known(tensor) if tensor.kind() == to => return Ok(Value::Known(Rc::clone(tensor))),
        Value::Known(tensor) => tensor,
    };
    cx.planner.remember(tensor.bytes().saturating_mul(2))?;
    let data = match (tensor.data(), to) {
        (Data::F32(values), Kind::Bool) => Data::Int(to, values.iter().map(|value| i64::from(*value != 0.0)).collect()),
        (Data::F32(values), to) => Data::Int(to, values.iter().map(|value| to.wrap(*value as i64)).collect()),
        (Data::Int(_, values), Kind::F32) => Data::F32(values.iter().map(|value| *value as f32).collect()),
        (Data::Int(_, values), to) => Data::Int(to, values.iter().map(|value| to.wrap(*value)).collect()),
    };
    Ok(Value::known(Tensor::new(tensor.shape().to_vec(), data)?))
}
