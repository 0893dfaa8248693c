//! Which operators there are, and where each is planned.

use super::{Cx, Value, elementwise, integers, matrix, movement, reshape, resize, window};
use crate::error::Fault;
use crate::kernel::{Binary, PoolFunction, Reduce, Unary};

type Planned = Result<Vec<Value>, Fault>;

/// Whether there is an operator of this name. A use of it may still be refused.
pub fn is_supported(operator: &str) -> bool {
    find(operator).is_some()
}

pub(super) fn plan(cx: &mut Cx<'_>) -> Planned {
    let operator = find(&cx.node.operator);
    operator.ok_or_else(|| Fault::Unsupported("there is no such operator here".into()))?(cx)
}

fn one(value: Result<Value, Fault>) -> Planned {
    Ok(vec![value?])
}

fn find(operator: &str) -> Option<fn(&mut Cx<'_>) -> Planned> {
    Some(match operator {
        "Abs" => |cx| one(elementwise::unary(cx, Unary::Abs)),
        "Add" => |cx| one(elementwise::binary(cx, Binary::Add)),
        "AveragePool" => |cx| one(window::average_pool(cx)),
        "BatchNormalization" => |cx| one(matrix::batch_norm(cx)),
        "Cast" => |cx| one(integers::cast(cx)),
        "Ceil" => |cx| one(elementwise::unary(cx, Unary::Ceil)),
        "Clip" => |cx| one(elementwise::clip(cx)),
        "Concat" => |cx| one(movement::concat(cx)),
        "Constant" => |cx| one(integers::constant(cx)),
        "ConstantOfShape" => |cx| one(integers::constant_of_shape(cx)),
        "Conv" => |cx| one(window::conv(cx)),
        "ConvTranspose" => |cx| one(window::conv_transpose(cx)),
        "DepthToSpace" => |cx| one(movement::depth_to_space(cx)),
        "Div" => |cx| one(elementwise::binary(cx, Binary::Div)),
        "Dropout" | "Identity" => |cx| one(cx.input(0)),
        "Elu" => |cx| one(elementwise::elu(cx)),
        "Erf" => |cx| one(elementwise::unary(cx, Unary::Erf)),
        "Exp" => |cx| one(elementwise::unary(cx, Unary::Exp)),
        "Expand" => |cx| one(movement::expand(cx)),
        "Flatten" => |cx| one(reshape::flatten(cx)),
        "Floor" => |cx| one(elementwise::unary(cx, Unary::Floor)),
        "Gather" => |cx| one(movement::gather(cx)),
        "Gemm" => |cx| one(matrix::gemm(cx)),
        "GlobalAveragePool" => |cx| one(matrix::global_pool(cx, Reduce::Mean)),
        "GlobalMaxPool" => |cx| one(matrix::global_pool(cx, Reduce::Max)),
        "HardSigmoid" => |cx| one(elementwise::hard_sigmoid(cx)),
        "HardSwish" => |cx| one(elementwise::unary(cx, Unary::HardSwish)),
        "LeakyRelu" => |cx| one(elementwise::leaky_relu(cx)),
        "Log" => |cx| one(elementwise::unary(cx, Unary::Log)),
        "LogSoftmax" => |cx| one(matrix::softmax(cx, true)),
        "MatMul" => |cx| one(matrix::matmul(cx)),
        "Max" => |cx| one(elementwise::variadic(cx, Binary::Max)),
        "MaxPool" => |cx| one(window::pool(cx, PoolFunction::Max)),
        "Min" => |cx| one(elementwise::variadic(cx, Binary::Min)),
        "Mul" => |cx| one(elementwise::binary(cx, Binary::Mul)),
        "Neg" => |cx| one(elementwise::unary(cx, Unary::Affine { scale: -1.0, shift: 0.0 })),
        "PRelu" => |cx| one(elementwise::prelu(cx)),
        "Pad" => |cx| one(resize::pad(cx)),
        "Pow" => |cx| one(elementwise::binary(cx, Binary::Pow)),
        "Reciprocal" => |cx| one(elementwise::unary(cx, Unary::Reciprocal)),
        "ReduceMax" => |cx| one(matrix::reduce(cx, Reduce::Max)),
        "ReduceMean" => |cx| one(matrix::reduce(cx, Reduce::Mean)),
        "ReduceMin" => |cx| one(matrix::reduce(cx, Reduce::Min)),
        "ReduceSum" => |cx| one(matrix::reduce(cx, Reduce::Sum)),
        "Relu" => |cx| one(elementwise::unary(cx, Unary::Relu)),
        "Reshape" => |cx| one(reshape::reshape(cx)),
        "Resize" | "Upsample" => |cx| one(resize::resize(cx)),
        "Shape" => |cx| one(integers::shape(cx)),
        "Sigmoid" => |cx| one(elementwise::unary(cx, Unary::Sigmoid)),
        "Slice" => |cx| one(movement::slice(cx)),
        "Softmax" => |cx| one(matrix::softmax(cx, false)),
        "Softplus" => |cx| one(elementwise::unary(cx, Unary::Softplus)),
        "Split" => movement::split,
        "Sqrt" => |cx| one(elementwise::unary(cx, Unary::Sqrt)),
        "Squeeze" => |cx| one(reshape::squeeze(cx)),
        "Sub" => |cx| one(elementwise::binary(cx, Binary::Sub)),
        "Sum" => |cx| one(elementwise::variadic(cx, Binary::Add)),
        "Tanh" => |cx| one(elementwise::unary(cx, Unary::Tanh)),
        "Tile" => |cx| one(movement::tile(cx)),
        "Transpose" => |cx| one(movement::transpose(cx)),
        "Unsqueeze" => |cx| one(reshape::unsqueeze(cx)),
        _ => return None,
    })
}
