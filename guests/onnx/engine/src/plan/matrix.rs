//! Products of matrices, and operators that take together what is along an axis.

use super::{Cx, Value, elementwise, reshape};
use crate::error::{Fault, ensure};
use crate::kernel::{Binary, Kernel, MatMul, Reduce, Unary, Walk};
use crate::tensor::{axis, broadcast, broadcast_strides, elements};

/// By the rules of NumPy: vectors are matrices of one row or one column, all dimensions before the last two are a batch.
pub fn matmul(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let ((a, shape_a), (b, shape_b)) = (cx.input_floats(0)?, cx.input_floats(1)?);
    let (batch_a, rows, depth) = match shape_a.as_slice() {
        [batch @ .., rows, depth] => (batch, *rows, *depth),
        [depth] => (&[][..], 1, *depth),
        [] => return Err(Fault::Invalid("a product with a scalar".into())),
    };
    let (batch_b, depth_b, columns) = match shape_b.as_slice() {
        [batch @ .., depth, columns] => (batch, *depth, *columns),
        [depth] => (&[][..], *depth, 1),
        [] => return Err(Fault::Invalid("a product with a scalar".into())),
    };
    ensure(depth == depth_b, || format!("{shape_a:?} by {shape_b:?}"))?;
    let batch = broadcast(batch_a, batch_b)?;
    let mut shape = batch.clone();
    shape.extend((shape_a.len() > 1).then_some(rows));
    shape.extend((shape_b.len() > 1).then_some(columns));
    elements(&shape)?;
    let strides = broadcast_strides(batch_a, &batch).into_iter().zip(broadcast_strides(batch_b, &batch));
    let steps: Vec<_> = strides.map(|(a, b)| [(a * rows * depth) as isize, (b * depth * columns) as isize]).collect();
    let batch = Walk::new(&batch, &steps);
    let matmul = MatMul { rows, depth, columns, a: [depth, 1], b: [columns, 1], batch, scale: 1.0 };
    product(cx, matmul, a, b, shape)
}

fn product(cx: &mut Cx<'_>, matmul: MatMul, a: usize, b: usize, shape: Vec<usize>) -> Result<Value, Fault> {
    if matmul.depth == 0 {
        return cx.emit(Kernel::Fill(0.0), &[], shape);
    }
    cx.emit(Kernel::MatMul(matmul), &[a, b], shape)
}

/// `alpha * a * b + beta * c`, of matrices that may be transposed.
pub fn gemm(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let ((a, shape_a), (b, shape_b)) = (cx.input_floats(0)?, cx.input_floats(1)?);
    let ([rows_a, columns_a], [rows_b, columns_b]) = (shape_a.as_slice(), shape_b.as_slice()) else {
        return Err(Fault::Invalid(format!("{shape_a:?} and {shape_b:?} are not two matrices")));
    };
    let oriented = |rows: usize, columns: usize, is_transposed: i64| match is_transposed {
        0 => (rows, columns, [columns, 1]),
        _ => (columns, rows, [1, columns]),
    };
    let (rows, depth, strides_a) = oriented(*rows_a, *columns_a, cx.int("transA", 0)?);
    let (depth_b, columns, strides_b) = oriented(*rows_b, *columns_b, cx.int("transB", 0)?);
    ensure(depth == depth_b, || format!("{shape_a:?} by {shape_b:?}"))?;
    let (scale, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let shape = vec![rows, columns];
    elements(&shape)?;
    let batch = Walk::new(&[], &[]);
    let matmul = MatMul { rows, depth, columns, a: strides_a, b: strides_b, batch, scale };
    let value = product(cx, matmul, a, b, shape.clone())?;
    let Some(mut added) = cx.optional(2) else { return Ok(value) };
    ensure(broadcast(added.shape(), &shape)? == shape, || format!("{:?} added to {shape:?}", added.shape()))?;
    if beta != 1.0 {
        let (c, shape) = cx.floats(&added)?;
        added = cx.emit(Kernel::Unary(Unary::Affine { scale: beta, shift: 0.0 }), &[c], shape)?;
    }
    elementwise::apply(cx, Binary::Add, &value, &added)
}

/// With the means and variances of training.
pub fn batch_norm(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let is_training = cx.int("training_mode", 0)? != 0 || cx.opset < 9 && cx.int("spatial", 1)? == 0;
    ensure(!is_training, || "it is in the mode for training".into())?;
    let (x, shape) = cx.input_floats(0)?;
    let channels = shape.get(1).copied().unwrap_or(1);
    let mut inputs = vec![x];
    for at in 1..5 {
        let (slot, own) = cx.input_floats(at)?;
        ensure(own == [channels], || format!("its input {at} has the shape {own:?} for {channels} channels"))?;
        inputs.push(slot);
    }
    let inner = shape.iter().skip(2).product();
    let epsilon = cx.float("epsilon", 1e-5)?;
    cx.emit(Kernel::BatchNorm { channels, inner, epsilon }, &inputs, shape)
}

/// Before version 13, all dimensions from the axis on were one.
pub fn softmax(cx: &mut Cx<'_>, log: bool) -> Result<Value, Fault> {
    let (x, shape) = cx.input_floats(0)?;
    let kernel = if cx.opset < 13 {
        let (outer, count) = reshape::split(&shape, cx.int("axis", 1)?)?;
        Kernel::Softmax { outer, count, inner: 1, log }
    } else {
        let at = axis(cx.int("axis", -1)?, shape.len())?;
        let (outer, count, inner) = around(&shape, at);
        Kernel::Softmax { outer, count, inner, log }
    };
    cx.emit(kernel, &[x], shape)
}

/// Elements before an axis, along it, and behind it.
fn around(shape: &[usize], at: usize) -> (usize, usize, usize) {
    let (outer, rest) = shape.split_at_checked(at).unwrap_or_default();
    let (count, inner) = rest.split_first().map_or((1, &[][..]), |(count, inner)| (*count, inner));
    (outer.iter().product(), count, inner.iter().product())
}

/// Over all dimensions of a picture.
pub fn global_pool(cx: &mut Cx<'_>, function: Reduce) -> Result<Value, Fault> {
    let (x, shape) = cx.input_floats(0)?;
    let [batch, channels, rest @ ..] = shape.as_slice() else {
        return Err(Fault::Invalid(format!("{shape:?} is no picture")));
    };
    let (outer, count) = (batch * channels, rest.iter().product());
    ensure(count > 0, || "an empty picture".into())?;
    let mut out = vec![*batch, *channels];
    out.extend(rest.iter().map(|_| 1));
    cx.emit(Kernel::Reduce { function, outer, count, inner: 1 }, &[x], out)
}

/// One axis after the other, neighbours together: means of means of equally many are means.
pub fn reduce(cx: &mut Cx<'_>, function: Reduce) -> Result<Value, Fault> {
    let (mut x, shape) = cx.input_floats(0)?;
    let axes = reshape::axes(cx, 1)?.filter(|axes| !axes.is_empty());
    if axes.is_none() && cx.int("noop_with_empty_axes", 0)? != 0 {
        return cx.input(0);
    }
    let gone: Result<Vec<usize>, Fault> = match axes {
        Some(axes) => axes.into_iter().map(|counted| axis(counted, shape.len())).collect(),
        None => Ok((0..shape.len()).collect()),
    };
    let gone = gone?;
    // Shapes with one dimension for each run of axes that stay, or go.
    let mut runs: Vec<(bool, usize)> = Vec::new();
    for (at, dimension) in shape.iter().enumerate() {
        let goes = gone.contains(&at);
        match runs.last_mut() {
            Some((run, count)) if *run == goes => *count *= dimension,
            _ => runs.push((goes, *dimension)),
        }
    }
    while let Some(at) = runs.iter().position(|(goes, count)| *goes && *count != 1) {
        let counts: Vec<usize> = runs.iter().map(|(_, count)| *count).collect();
        let (outer, count, inner) = around(&counts, at);
        runs.iter_mut().skip(at).take(1).for_each(|(_, count)| *count = 1);
        let rest = runs.iter().map(|(_, count)| *count).collect();
        let kernel = match (count, function) {
            (0, Reduce::Sum) => Kernel::Fill(0.0),
            (0, Reduce::Max) => Kernel::Fill(f32::NEG_INFINITY),
            (0, Reduce::Min) => Kernel::Fill(f32::INFINITY),
            (0, Reduce::Mean) => Kernel::Fill(f32::NAN),
            _ => Kernel::Reduce { function, outer, count, inner },
        };
        let inputs = if count == 0 { &[][..] } else { &[x] };
        let value = cx.emit(kernel, inputs, rest)?;
        (x, _) = cx.floats(&value)?;
    }
    let keeps = cx.int("keepdims", 1)? != 0;
    let dimensions = shape.iter().enumerate().filter_map(|(at, dimension)| match gone.contains(&at) {
        false => Some(*dimension),
        true => keeps.then_some(1),
    });
    Ok(Value::Slot { id: x, shape: dimensions.collect() })
}
