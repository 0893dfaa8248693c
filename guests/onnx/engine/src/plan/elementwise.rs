//! Operators that compute each element from those at the same place.

use super::{Cx, Value};
use crate::error::{Fault, ensure};
use crate::kernel::{Binary, Kernel, Unary, Walk};
use crate::limits::INTEGERS_MAX;
use crate::tensor::{Data, Tensor, broadcast, broadcast_strides, elements};

pub fn unary(cx: &mut Cx<'_>, function: Unary) -> Result<Value, Fault> {
    let (x, shape) = cx.input_floats(0)?;
    cx.emit(Kernel::Unary(function), &[x], shape)
}

/// Its bounds were attributes before version 11.
pub fn clip(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let (min, max) = if cx.opset < 11 {
        (cx.float("min", f32::MIN)?, cx.float("max", f32::MAX)?)
    } else {
        (cx.scalar(1, f32::MIN)?, cx.scalar(2, f32::MAX)?)
    };
    unary(cx, Unary::Clip { min, max })
}

pub fn elu(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let alpha = cx.float("alpha", 1.0)?;
    unary(cx, Unary::Elu { alpha })
}

pub fn leaky_relu(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let alpha = cx.float("alpha", 0.01)?;
    unary(cx, Unary::LeakyRelu { alpha })
}

pub fn hard_sigmoid(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let (alpha, beta) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
    unary(cx, Unary::HardSigmoid { alpha, beta })
}

pub fn prelu(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let (x, slope) = (cx.input(0)?, cx.input(1)?);
    let shape = broadcast(x.shape(), slope.shape())?;
    ensure(shape == x.shape(), || format!("a slope of the shape {:?} for {:?}", slope.shape(), x.shape()))?;
    apply(cx, Binary::PRelu, &x, &slope)
}

/// Of any number of inputs, one after the other.
pub fn variadic(cx: &mut Cx<'_>, function: Binary) -> Result<Value, Fault> {
    let mut all = cx.input(0)?;
    for at in 1..cx.inputs.len() {
        let next = cx.input(at)?;
        all = apply(cx, function, &all, &next)?;
    }
    Ok(all)
}

pub fn binary(cx: &mut Cx<'_>, function: Binary) -> Result<Value, Fault> {
    ensure(cx.opset >= 7 || cx.int("broadcast", 0)? == 0, || "broadcasting as it was before version 7".into())?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    apply(cx, function, &a, &b)
}

pub fn apply(cx: &mut Cx<'_>, function: Binary, a: &Value, b: &Value) -> Result<Value, Fault> {
    let shape = broadcast(a.shape(), b.shape())?;
    let count = elements(&shape)?;
    let strides = broadcast_strides(a.shape(), &shape).into_iter().zip(broadcast_strides(b.shape(), &shape));
    let steps: Vec<_> = strides.map(|(a, b)| [a as isize, b as isize]).collect();
    let walk = Walk::new(&shape, &steps);
    if let (Value::Known(a), Value::Known(b)) = (a, b)
        && let (Data::Int(kind, a), Data::Int(other, b)) = (a.data(), b.data())
    {
        ensure(kind == other, || format!("{kind:?} and {other:?} in one operation"))?;
        ensure(count <= INTEGERS_MAX, || format!("{count} integers, of at most {INTEGERS_MAX}"))?;
        cx.planner.remember(count * 8)?;
        let values: Result<Vec<i64>, Fault> = pairs(&walk, a, b).map(|(a, b)| integer(function, a, b)).collect();
        let values = values?.into_iter().map(|value| kind.wrap(value)).collect();
        return Ok(Value::known(Tensor::new(shape, Data::Int(*kind, values))?));
    }
    let ((a, _), (b, _)) = (cx.floats(a)?, cx.floats(b)?);
    cx.emit(Kernel::Binary { function, walk }, &[a, b], shape)
}

/// Elements that are together, in the order of the output.
fn pairs(walk: &Walk<2>, a: &[i64], b: &[i64]) -> impl Iterator<Item = (i64, i64)> {
    let (count, [step_a, step_b], lines) = walk.lines();
    lines.flat_map(move |[at_a, at_b]| {
        (0..count as isize).filter_map(move |index| {
            let at = |list: &[i64], at: isize, step: isize| list.get((at + index * step).cast_unsigned()).copied();
            Some((at(a, at_a, step_a)?, at(b, at_b, step_b)?))
        })
    })
}

fn integer(function: Binary, a: i64, b: i64) -> Result<i64, Fault> {
    let invalid = || Fault::Invalid(format!("{a} and {b}: the result is no integer of 64 bits"));
    match function {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => a.checked_div(b),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::PRelu => None,
    }
    .ok_or_else(invalid)
}
