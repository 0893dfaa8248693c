//! Operators that move elements and change none.

use super::{Cx, Part, Value, reshape};
use crate::error::{Fault, ensure};
use crate::kernel::{Kernel, Taps, Walk};
use crate::limits::INTEGERS_MAX;
use crate::tensor::{Data, Tensor, axis, broadcast, broadcast_strides, elements, strides};

/// A walk over a shape with the steps of both sides.
pub fn walk(shape: &[usize], from: impl IntoIterator<Item = isize>, to: &[usize]) -> Walk<2> {
    let steps: Vec<_> = from.into_iter().zip(to).map(|(from, to)| [from, *to as isize]).collect();
    Walk::new(shape, &steps)
}

fn signed(strides: Vec<usize>) -> impl Iterator<Item = isize> {
    strides.into_iter().map(|stride| stride as isize)
}

pub fn transpose(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let rank = value.shape().len();
    let order: Vec<usize> = match cx.list("perm")? {
        None => (0..rank).rev().collect(),
        Some(order) => order.iter().filter_map(|at| usize::try_from(*at).ok()).collect(),
    };
    permute(cx, value, &order)
}

fn permute(cx: &mut Cx<'_>, value: Value, order: &[usize]) -> Result<Value, Fault> {
    let rank = value.shape().len();
    let is_order = order.len() == rank && (0..rank).all(|at| order.contains(&at));
    ensure(is_order, || format!("{order:?} is no order of {rank} dimensions"))?;
    let own = strides(value.shape());
    let pick = |list: &[usize]| order.iter().filter_map(|at| list.get(*at).copied()).collect::<Vec<_>>();
    let shape = pick(value.shape());
    let walk = walk(&shape, signed(pick(&own)), &strides(&shape));
    cx.assemble(shape, None, &[Part { value, walk, from: 0, to: 0 }])
}

pub fn expand(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let wanted: Result<Vec<usize>, _> = cx.ints(1)?.into_iter().map(usize::try_from).collect();
    let wanted = wanted.map_err(|_| Fault::Invalid("a negative dimension".into()))?;
    let shape = broadcast(value.shape(), &wanted)?;
    elements(&shape)?;
    let walk = walk(&shape, signed(broadcast_strides(value.shape(), &shape)), &strides(&shape));
    cx.assemble(shape, None, &[Part { value, walk, from: 0, to: 0 }])
}

/// Each dimension becomes two, of which the outer one repeats.
pub fn tile(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let repeats: Result<Vec<usize>, _> = cx.ints(1)?.into_iter().map(usize::try_from).collect();
    let repeats = repeats.map_err(|_| Fault::Invalid("negative repeats".into()))?;
    ensure(repeats.len() == value.shape().len(), || format!("{repeats:?} repeats of {:?}", value.shape()))?;
    let tiled: Vec<usize> = value.shape().iter().zip(&repeats).map(|(a, b)| a.saturating_mul(*b)).collect();
    elements(&tiled)?;
    let (mut shape, mut steps) = (Vec::new(), Vec::new());
    for ((count, repeat), (own, to)) in
        value.shape().iter().zip(&repeats).zip(strides(value.shape()).into_iter().zip(strides(&tiled)))
    {
        shape.extend([*repeat, *count]);
        steps.extend([[0, (to * count) as isize], [own as isize, to as isize]]);
    }
    cx.assemble(tiled, None, &[Part { value, walk: Walk::new(&shape, &steps), from: 0, to: 0 }])
}

pub fn concat(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let first = cx.input(0)?;
    let at = axis(cx.int("axis", 1)?, first.shape().len())?;
    let mut values = Vec::with_capacity(cx.inputs.len());
    let mut total = 0_usize;
    for input in 0..cx.inputs.len() {
        let value = cx.input(input)?;
        let (own, others) = (value.shape(), first.shape());
        let fits = own.len() == others.len()
            && own.iter().zip(others).enumerate().all(|(index, (a, b))| index == at || a == b);
        ensure(fits, || format!("{own:?} and {others:?} can't be joined along axis {at}"))?;
        total = total.saturating_add(own.get(at).copied().unwrap_or(0));
        values.push(value);
    }
    let mut shape = first.shape().to_vec();
    shape.iter_mut().skip(at).take(1).for_each(|place| *place = total);
    elements(&shape)?;
    let to = strides(&shape);
    let (mut parts, mut begin) = (Vec::new(), 0);
    for value in values {
        let walk = walk(value.shape(), signed(strides(value.shape())), &to);
        let length = value.shape().get(at).copied().unwrap_or(0);
        parts.push(Part { value, walk, from: 0, to: begin * to.get(at).copied().unwrap_or(1) });
        begin += length;
    }
    cx.assemble(shape, None, &parts)
}

pub fn split(cx: &mut Cx<'_>) -> Result<Vec<Value>, Fault> {
    let value = cx.input(0)?;
    let at = axis(cx.int("axis", 0)?, value.shape().len())?;
    let length = value.shape().get(at).copied().unwrap_or(0);
    let given = match cx.list("split")? {
        Some(split) => Some(split.to_vec()),
        None => cx.optional_ints(1)?,
    };
    let count = cx.node.outputs.len();
    let lengths: Vec<usize> = match given {
        Some(given) => given.iter().filter_map(|length| usize::try_from(*length).ok()).collect(),
        // The last one has what is left.
        None => {
            let each = length.div_ceil(count.max(1));
            (0..count).map(|part| each.min(length.saturating_sub(part * each))).collect()
        }
    };
    let total = lengths.iter().fold(0_usize, |sum, length| sum.saturating_add(*length));
    let fits = lengths.len() == count && total == length;
    ensure(fits, || format!("{lengths:?} are no {count} parts of {length} elements"))?;
    let own = strides(value.shape());
    let mut begin = 0;
    let mut outputs = Vec::with_capacity(count);
    for length in lengths {
        let mut shape = value.shape().to_vec();
        shape.iter_mut().skip(at).take(1).for_each(|place| *place = length);
        let walk = walk(&shape, signed(own.clone()), &strides(&shape));
        // Nothing is taken from behind the end, where an empty part would begin.
        let from = if length == 0 { 0 } else { begin * own.get(at).copied().unwrap_or(1) };
        outputs.push(cx.assemble(shape, None, &[Part { value: value.clone(), walk, from, to: 0 }])?);
        begin += length;
    }
    Ok(outputs)
}

/// Its bounds were attributes before version 10.
pub fn slice(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let rank = value.shape().len();
    let required = |list: Option<&[i64]>| list.map(<[i64]>::to_vec).ok_or_else(|| Fault::Invalid("no bounds".into()));
    let (starts, ends, axes, steps) = if cx.opset < 10 {
        (required(cx.list("starts")?)?, required(cx.list("ends")?)?, cx.list("axes")?.map(<[i64]>::to_vec), None)
    } else {
        (cx.ints(1)?, cx.ints(2)?, cx.optional_ints(3)?, cx.optional_ints(4)?)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    let same = [ends.len(), axes.len(), steps.len()].into_iter().all(|length| length == starts.len());
    ensure(same, || "its starts, ends, axes and steps are not as many of each".into())?;
    let mut shape = value.shape().to_vec();
    let mut from: Vec<isize> = signed(strides(value.shape())).collect();
    let mut begin = 0_isize;
    for (((start, end), counted), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let at = axis(*counted, rank)?;
        ensure(*step != 0, || "a step of 0".into())?;
        let (Some(place), Some(stride)) = (shape.get_mut(at), from.get_mut(at)) else { continue };
        let length = *place as i64;
        // Backwards one goes down to before the first, which is -1; forwards up to behind the last.
        let (low, high) = if *step > 0 { (0, length) } else { (-1, length - 1) };
        let counted = |bound: i64| if bound < 0 { bound.saturating_add(length) } else { bound };
        let first = counted(*start).clamp(if *step > 0 { 0 } else { -1 }, high);
        let end = counted(*end).clamp(low, high.max(low));
        let span = if *step > 0 { end - first } else { first - end };
        let each = step.unsigned_abs();
        let taken = (span.max(0).cast_unsigned()).div_ceil(each);
        *place = usize::try_from(taken).unwrap_or(0);
        if *place > 0 {
            begin += first as isize * *stride;
        }
        // A step longer than the axis takes one element: how far the next one would be is of no interest.
        *stride *= (*step).clamp(-length.max(1), length.max(1)) as isize;
    }
    let to = strides(&shape);
    let from_at = if shape.contains(&0) { 0 } else { begin.max(0).cast_unsigned() };
    let walk = walk(&shape, from, &to);
    cx.assemble(shape, None, &[Part { value, walk, from: from_at, to: 0 }])
}

/// With indices that are known.
pub fn gather(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let at = axis(cx.int("axis", 0)?, value.shape().len())?;
    let Value::Known(indices) = cx.input(1)? else {
        return Err(Fault::Unsupported("indices that are computed from values".into()));
    };
    let length = value.shape().get(at).copied().unwrap_or(0);
    let list = indices.as_ints().ok_or_else(|| Fault::Invalid("its indices must be integers".into()))?;
    let places: Result<Vec<usize>, Fault> = list.iter().map(|index| axis(*index, length)).collect();
    let places = places.map_err(|_| Fault::Invalid(format!("an index beyond the {length} elements of axis {at}")))?;
    let (outer, rest) = value.shape().split_at_checked(at).unwrap_or_default();
    let inner = rest.split_first().map_or(&[][..], |(_, inner)| inner);
    let shape = [outer, indices.shape(), inner].concat();
    let count = elements(&shape)?;
    let (outer, inner): (usize, usize) = (outer.iter().product(), inner.iter().product());
    if let Value::Known(tensor) = &value
        && let Data::Int(kind, values) = tensor.data()
    {
        ensure(count <= INTEGERS_MAX, || format!("{count} integers, of at most {INTEGERS_MAX}"))?;
        cx.planner.remember(count * 8)?;
        let mut taken = Vec::with_capacity(count);
        for block in 0..outer {
            for place in &places {
                let begin = (block * length + place) * inner;
                taken.extend(values.get(begin..begin + inner).unwrap_or_default());
            }
        }
        return Ok(Value::known(Tensor::new(shape, Data::Int(*kind, taken))?));
    }
    let places: Vec<u32> = places.into_iter().filter_map(|place| u32::try_from(place).ok()).collect();
    let (weights, count_out) = (vec![1.0; places.len()], places.len());
    let (x, _) = cx.floats(&value)?;
    let taps = Taps { outer, count_in: length, count_out, inner, taps: 1, places, weights };
    cx.emit(Kernel::Taps(taps), &[x], shape)
}

pub fn depth_to_space(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let block = usize::try_from(cx.int("blocksize", 1)?).ok().filter(|block| (1..=64).contains(block));
    let block = block.ok_or_else(|| Fault::Invalid("a block size beyond 64".into()))?;
    let [batch, channels, height, width] = *value.shape() else {
        return Err(Fault::Invalid(format!("{:?} is no picture", value.shape())));
    };
    ensure(channels % (block * block) == 0, || format!("{channels} channels in blocks of {block} by {block}"))?;
    let depth = channels / (block * block);
    let (split, order) = match cx.text("mode", "DCR")? {
        "DCR" => ([batch, block, block, depth, height, width], [0, 3, 4, 1, 5, 2]),
        _ => ([batch, depth, block, block, height, width], [0, 1, 4, 2, 5, 3]),
    };
    let parted = reshape::reshaped(&value, split.to_vec())?;
    let moved = permute(cx, parted, &order)?;
    reshape::reshaped(&moved, vec![batch, depth, height * block, width * block])
}
