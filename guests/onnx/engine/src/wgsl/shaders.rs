//! The shaders. `p` are the parameters, `y` is the output, `x0`, `x1`, … are the inputs.

use super::{CHANNELS, Shader};

pub fn source(shader: Shader) -> String {
    let convolution = match shader {
        Shader::Conv => conv(CHANNELS),
        Shader::Depthwise => conv(1),
        _ => String::new(),
    };
    let (inputs, functions, body) = match shader {
        Shader::Unary => (1, UNARY, UNARY_MAIN),
        Shader::Binary => (2, PLACES, BINARY),
        Shader::Conv | Shader::Depthwise => (3, UNARY, convolution.as_str()),
        Shader::ConvTranspose => (3, UNARY, CONV_TRANSPOSE),
        Shader::Pool => (1, "", POOL),
        Shader::MatMul => (2, PLACES, MATMUL),
        Shader::BatchNorm => (5, "", BATCH_NORM),
        Shader::Softmax => (1, SHARED, SOFTMAX),
        Shader::Reduce => (1, SHARED, REDUCE),
        Shader::Copy => (1, PLACES, COPY),
        Shader::Taps => (1, "", TAPS),
        Shader::Fill => (0, "", "y[i] = bitcast<f32>(p[2]);"),
    };
    let put = if convolution.is_empty() { "" } else { CONV_PUT };
    let bindings: String = (0..inputs)
        .map(|at| format!("@group(0) @binding({}) var<storage, read> x{at}: array<f32>;\n", at + 2))
        .collect();
    let is_lines = matches!(shader, Shader::Softmax | Shader::Reduce);
    let begin = if is_lines { LINES } else { EACH };
    format!("{HEAD}{bindings}{functions}{put}{begin}{body}\n}}\n")
}

const HEAD: &str = "
@group(0) @binding(0) var<storage, read> p: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
";

/// One invocation for an element.
const EACH: &str = "
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
    let i = id.y * p[1] + id.x;
    if i >= p[0] { return; }
";

/// One workgroup for a line.
const LINES: &str = "
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let line = group.y * p[1] + group.x;
    let is_line = line < p[0];
    let count = p[2];
    let inner = p[3];
    let begin = line / inner * count * inner + line % inner;
";

const SHARED: &str = "
var<workgroup> shared_values: array<f32, 64>;

fn together(kind: u32, a: f32, b: f32) -> f32 {
    switch kind {
        case 2u: { return max(a, b); }
        case 3u: { return min(a, b); }
        default: { return a + b; }
    }
}

fn all_of(kind: u32, local: u32, value: f32) -> f32 {
    shared_values[local] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if local < half { shared_values[local] = together(kind, shared_values[local], shared_values[local + half]); }
        workgroupBarrier();
    }
    let result = shared_values[0];
    workgroupBarrier();
    return result;
}
";

const UNARY: &str = "
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let sum = ((((1.0614054 * t - 1.453152) * t + 1.4214137) * t - 0.28449674) * t + 0.2548296) * t;
    return sign(x) * (1.0 - sum * exp(-x * x));
}

fn clip(x: f32, low: f32, high: f32) -> f32 { return min(max(x, low), high); }

fn unary(code: u32, x: f32, a: f32, b: f32) -> f32 {
    switch code {
        case 1u: { return a * x + b; }
        case 2u: { return max(x, 0.0); }
        case 3u: { if x < 0.0 { return a * x; } return x; }
        case 4u: { if x < 0.0 { return a * (exp(x) - 1.0); } return x; }
        case 5u: { return 1.0 / (1.0 + exp(-x)); }
        case 6u: { return clip(a * x + b, 0.0, 1.0); }
        case 7u: { return x * clip(x / 6.0 + 0.5, 0.0, 1.0); }
        case 8u: { return tanh(clip(x, -15.0, 15.0)); }
        case 9u: { return sqrt(x); }
        case 10u: { return exp(x); }
        case 11u: { return log(x); }
        case 12u: { return abs(x); }
        case 13u: { return clip(x, a, b); }
        case 14u: { return erf(x); }
        case 15u: { return floor(x); }
        case 16u: { return ceil(x); }
        case 17u: { return 1.0 / x; }
        case 18u: { return log(1.0 + exp(-abs(x))) + max(x, 0.0); }
        default: { return x; }
    }
}
";

const UNARY_MAIN: &str = "y[i] = unary(p[2], x0[i], bitcast<f32>(p[3]), bitcast<f32>(p[4]));";

/// The places of an element in two buffers, from the parameters that begin at `at`.
const PLACES: &str = "
fn places(at: u32, index: u32) -> vec2i {
    var rest = index;
    var found = vec2i(0, 0);
    for (var dimension = 0u; dimension < p[at]; dimension++) {
        let entry = at + 1u + dimension * 3u;
        let along = i32(rest % p[entry]);
        rest /= p[entry];
        found += along * vec2i(bitcast<i32>(p[entry + 1u]), bitcast<i32>(p[entry + 2u]));
    }
    return found;
}
";

/// `pow` of WGSL knows no negative bases. What is no number can't be written as a constant.
const BINARY: &str = "
    let at = places(3u, i);
    let a = x0[at.x];
    let b = x1[at.y];
    var z = 0.0;
    switch p[2] {
        case 0u: { z = a + b; }
        case 1u: { z = a - b; }
        case 2u: { z = a * b; }
        case 3u: { z = a / b; }
        case 4u: {
            z = pow(abs(a), b);
            if a < 0.0 && abs(b % 2.0) == 1.0 { z = -z; }
            if a < 0.0 && floor(b) != b { z = bitcast<f32>(0x7fc00000u | (p[0] & 0u)); }
            if b == 0.0 { z = 1.0; }
        }
        case 5u: { z = min(a, b); }
        case 6u: { z = max(a, b); }
        default: { if a < 0.0 { z = a * b; } else { z = a; } }
    }
    y[i] = z;";

const COPY: &str = "
    let at = places(4u, i);
    y[i32(p[3]) + at.y] = x0[i32(p[2]) + at.x];";

/// Places, then weights, follow the four numbers.
const TAPS: &str = "
    let count_out = p[3];
    let inner = p[4];
    let taps = p[5];
    let along = i / inner % count_out;
    let block = i / inner / count_out;
    var sum = 0.0;
    for (var tap = 0u; tap < taps; tap++) {
        let at = along * taps + tap;
        let place = p[6u + at];
        let weight = bitcast<f32>(p[6u + count_out * taps + at]);
        sum += weight * x0[(block * p[2] + place) * inner + i % inner];
    }
    y[i] = sum;";

const BATCH_NORM: &str = "
    let channel = i / p[3] % p[2];
    let factor = x1[channel] / sqrt(x4[channel] + bitcast<f32>(p[4]));
    y[i] = (x0[i] - x3[channel]) * factor + x2[channel];";

/// Rows, depth, columns; steps in a and b; scale; the batch.
const MATMUL: &str = "
    let depth = p[3];
    let columns = p[4];
    let matrix = places(10u, i / (p[2] * columns));
    let a = u32(matrix.x) + i / columns % p[2] * p[5];
    let b = u32(matrix.y) + i % columns * p[8];
    var sum = 0.0;
    for (var k = 0u; k < depth; k++) { sum += x0[a + k * p[6]] * x1[b + k * p[7]]; }
    y[i] = sum * bitcast<f32>(p[9]);";

/// The size of the picture and of the output from 2 on, the window from 6 on, the function at 16.
const POOL: &str = "
    let size = vec2u(p[2], p[3]);
    let out = vec2u(p[4], p[5]);
    let window = vec2u(p[6], p[7]);
    let corner = vec2u(i / out.y % out.x, i % out.y) * vec2u(p[8], p[9]);
    let before = vec2u(p[12], p[13]);
    let padded = size + before + vec2u(p[14], p[15]);
    let plane = i / out.y / out.x * size.x * size.y;
    var most = bitcast<f32>(0xff800000u | (p[0] & 0u));
    var sum = 0.0;
    var count = 0u;
    var count_padded = 0u;
    for (var row = 0u; row < window.x; row++) {
        for (var column = 0u; column < window.y; column++) {
            let place = corner + vec2u(row, column) * vec2u(p[10], p[11]);
            if all(place < padded) { count_padded++; }
            if all(place >= before) && all(place - before < size) {
                let value = x0[plane + (place.x - before.x) * size.y + place.y - before.y];
                most = max(most, value);
                sum += value;
                count++;
            }
        }
    }
    switch p[16] {
        case 0u: { y[i] = most; }
        case 1u: { y[i] = sum / f32(count); }
        default: { y[i] = sum / f32(max(count_padded, 1u)); }
    }";

/// Four pixels of each of so many channels, so that what is read of the picture and of the weights serves several times. The pixels
/// are in one row, a quarter of it apart: neighbours read what lies together.
///
/// The padded area at 2; channels, outputs, groups and whether there is a bias from 3 on; sizes from 7 on, the window from 11 on, the
/// function from 21 on.
fn conv(channels: u32) -> String {
    let each = |line: &str| (0..channels).map(|channel| line.replace('#', &channel.to_string())).collect::<String>();
    let begin = each(CONV_CHANNEL);
    let add = each("                sum# += x1[weights# + at] * values;\n");
    let put =
        each("    if first + #u < outputs { put(plane_out + channel# * out.x * out.y, columns, out.y, sum#); }\n");
    let text = CONV.replace("CHANNELS", &format!("{channels}u"));
    text.replace("BEGIN", &begin).replace("ADD", &add).replace("PUT", &put)
}

/// Of a last block that is not full, some channels are computed twice and not written.
const CONV_CHANNEL: &str = "
    let channel# = min(first + #u, outputs - 1u) + group * outputs;
    let weights# = channel# * inputs * window.x * window.y;
    var sum# = vec4f(0.0);
    if p[6] == 1u { sum# = vec4f(x2[channel#]); }
";

const CONV: &str = "
    let area = p[2];
    let out = vec2u(p[9], p[10]);
    let quarter = (out.y + 3u) / 4u;
    let pixel = i % area;
    if pixel >= out.x * quarter { return; }
    let columns = vec4u(pixel % quarter) + vec4u(0u, 1u, 2u, 3u) * quarter;
    let groups = p[5];
    let inputs = p[3] / groups;
    let outputs = p[4] / groups;
    let blocks = (outputs + CHANNELS - 1u) / CHANNELS;
    let first = i / area % blocks * CHANNELS;
    let group = i / area / blocks % groups;
    let batch = i / area / blocks / groups;
    let size = vec2u(p[7], p[8]);
    let window = vec2u(p[11], p[12]);
    let dilation = vec2u(p[15], p[16]);
    // Before the first row or column this wraps to a large number, which is beyond the last one too.
    let top = pixel / quarter * p[13] - p[17];
    let left = columns * p[14] - vec4u(p[18]);
    let plane = (batch * p[3] + group * inputs) * size.x * size.y;
    let plane_out = batch * p[4] * out.x * out.y + pixel / quarter * out.y;
BEGIN
    for (var input = 0u; input < inputs; input++) {
        for (var row = 0u; row < window.x; row++) {
            let line = top + row * dilation.x;
            if line >= size.x { continue; }
            let begin = plane + (input * size.x + line) * size.y;
            for (var column = 0u; column < window.y; column++) {
                let places = left + vec4u(column * dilation.y);
                let near = min(places, vec4u(size.y - 1u)) + vec4u(begin);
                let found = vec4f(x0[near.x], x0[near.y], x0[near.z], x0[near.w]);
                let values = select(vec4f(0.0), found, places < vec4u(size.y));
                let at = (input * window.x + row) * window.y + column;
ADD
            }
        }
    }
PUT";

/// To the columns of a line that there are.
const CONV_PUT: &str = "
fn put(line: u32, columns: vec4u, width: u32, sums: vec4f) {
    let a = bitcast<f32>(p[22]);
    let b = bitcast<f32>(p[23]);
    y[line + columns.x] = unary(p[21], sums.x, a, b);
    if columns.y < width { y[line + columns.y] = unary(p[21], sums.y, a, b); }
    if columns.z < width { y[line + columns.z] = unary(p[21], sums.z, a, b); }
    if columns.w < width { y[line + columns.w] = unary(p[21], sums.w, a, b); }
}
";

/// Channels, outputs, groups and whether there is a bias from 2 on; sizes from 6 on, the window from 10 on, the function from 20 on.
const CONV_TRANSPOSE: &str = "
    let groups = p[4];
    let inputs = p[2] / groups;
    let outputs = p[3] / groups;
    let size = vec2u(p[6], p[7]);
    let out = vec2u(p[8], p[9]);
    let window = vec2u(p[10], p[11]);
    let stride = vec2u(p[12], p[13]);
    let pixel = vec2u(i / out.y % out.x, i % out.y) + vec2u(p[16], p[17]);
    let channel = i / out.y / out.x % p[3];
    let batch = i / out.y / out.x / p[3];
    let group = channel / outputs;
    var sum = 0.0;
    if p[5] == 1u { sum = x2[channel]; }
    for (var row = 0u; row < window.x; row++) {
        let below = pixel.x - row * p[14];
        if pixel.x < row * p[14] || below % stride.x != 0u || below / stride.x >= size.x { continue; }
        for (var column = 0u; column < window.y; column++) {
            let right = pixel.y - column * p[15];
            if pixel.y < column * p[15] || right % stride.y != 0u || right / stride.y >= size.y { continue; }
            let place = below / stride.x * size.y + right / stride.y;
            for (var input = group * inputs; input < (group + 1u) * inputs; input++) {
                let weight = ((input * outputs + channel % outputs) * window.x + row) * window.y + column;
                sum += x0[(batch * p[2] + input) * size.x * size.y + place] * x1[weight];
            }
        }
    }
    y[i] = unary(p[20], sum, bitcast<f32>(p[21]), bitcast<f32>(p[22]));";

const REDUCE: &str = "
    let kind = p[4];
    // What changes nothing: zero, and the infinities.
    var value = bitcast<f32>(select(0u, select(0x7f800000u, 0xff800000u, kind == 2u), kind >= 2u));
    if is_line {
        for (var at = local; at < count; at += 64u) { value = together(kind, value, x0[begin + at * inner]); }
    }
    value = all_of(kind, local, value);
    if kind == 1u { value /= f32(count); }
    if is_line && local == 0u { y[line] = value; }";

const SOFTMAX: &str = "
    var most = bitcast<f32>(0xff800000u | (p[0] & 0u));
    if is_line {
        for (var at = local; at < count; at += 64u) { most = max(most, x0[begin + at * inner]); }
    }
    most = all_of(2u, local, most);
    var sum = 0.0;
    if is_line {
        for (var at = local; at < count; at += 64u) { sum += exp(x0[begin + at * inner] - most); }
    }
    sum = all_of(0u, local, sum);
    if is_line {
        for (var at = local; at < count; at += 64u) {
            let shifted = x0[begin + at * inner] - most;
            y[begin + at * inner] = select(exp(shifted) / sum, shifted - log(sum), p[4] == 1u);
        }
    }";
