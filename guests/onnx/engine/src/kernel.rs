//! What programs consist of: a dozen kernels, with everything worked out that does not depend on values. Each operator of ONNX is
//! planned as one or a few of them, so an executor need know no operator.
//!
//! Elements are counted in `f32`s. Pictures are of two dimensions; signals of one are pictures of one row.

/// How a kernel gets from the index of an element to its place in a buffer: for each dimension, outermost first, how many
/// there are and how far one is from the next. Neighbours that can be one dimension are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk<const N: usize> {
    pub shape: Vec<usize>,
    /// For each dimension, the step in each of `N` buffers.
    pub steps: Vec<[isize; N]>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kernel {
    /// Inputs: x. Of the output's length.
    Unary(Unary),
    /// Inputs: a, b. Each is walked over as the shape says, repeating where a step is 0.
    Binary { function: Binary, walk: Walk<2> },
    /// Inputs: x, weights (out, in / groups, height, width), and perhaps a bias.
    Conv(Conv),
    /// Inputs: x, weights (in, out / groups, height, width), and perhaps a bias. Its `window` is that of the convolution that it
    /// is the transpose of, from the output to the input.
    ConvTranspose(Conv),
    /// Inputs: x.
    Pool(Pool),
    /// Inputs: a, b.
    MatMul(MatMul),
    /// Inputs: x (outer, channels, inner), scale, bias, mean, variance.
    BatchNorm { channels: usize, inner: usize, epsilon: f32 },
    /// Inputs: x (outer, count, inner). Each line along the middle sums up to 1; of `log`, its logarithm.
    Softmax { outer: usize, count: usize, inner: usize, log: bool },
    /// Inputs: x (outer, count, inner), of which the middle goes away.
    Reduce { function: Reduce, outer: usize, count: usize, inner: usize },
    /// Inputs: x. Elements of it to a part of the output: first x, then the output.
    Copy { walk: Walk<2>, from: usize, to: usize },
    /// Inputs: x. Along one axis, each element of the output is a sum of weighted ones.
    Taps(Taps),
    /// No inputs: the whole output is this.
    Fill(f32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `scale * x + shift`
    Affine {
        scale: f32,
        shift: f32,
    },
    Relu,
    LeakyRelu {
        alpha: f32,
    },
    Elu {
        alpha: f32,
    },
    Sigmoid,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Tanh,
    Sqrt,
    Exp,
    Log,
    Abs,
    Clip {
        min: f32,
        max: f32,
    },
    Erf,
    Floor,
    Ceil,
    Reciprocal,
    Softplus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    /// `a` where it is not negative, else `a * b`.
    PRelu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
}

/// Height before width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub size: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows above and columns to the left of the picture.
    pub before: [usize; 2],
    /// Rows below and columns to the right.
    pub after: [usize; 2],
}

#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    pub batch: usize,
    pub channels: usize,
    pub size: [usize; 2],
    pub out_channels: usize,
    pub out_size: [usize; 2],
    /// Divides both numbers of channels.
    pub groups: usize,
    pub window: Window,
    /// Done to each element of the output.
    pub then: Option<Unary>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Batch times channels.
    pub planes: usize,
    pub size: [usize; 2],
    pub out_size: [usize; 2],
    pub window: Window,
    pub function: PoolFunction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFunction {
    Max,
    /// Of the elements of the window that are in the picture.
    Average,
    /// Padding counts as zeros.
    AveragePadded,
}

/// `scale` times the product of a (rows, depth) and b (depth, columns), for each of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct MatMul {
    pub rows: usize,
    pub depth: usize,
    pub columns: usize,
    /// How far a row of a is from the next, and an element of a row.
    pub a: [usize; 2],
    /// The same of b: rows, and elements of a row.
    pub b: [usize; 2],
    /// Which matrices of a and b: offsets of the first elements.
    pub batch: Walk<2>,
    pub scale: f32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Taps {
    pub outer: usize,
    pub count_in: usize,
    pub count_out: usize,
    pub inner: usize,
    /// How many elements of the input each of the output is made of.
    pub taps: usize,
    /// For each of the output's places on the axis, `taps` places on the input's: each below `count_in`.
    pub places: Vec<u32>,
    /// As long as `places`.
    pub weights: Vec<f32>,
}

impl Kernel {
    /// A word for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unary(_) => "unary",
            Self::Binary { .. } => "binary",
            Self::Conv(_) => "conv",
            Self::ConvTranspose(_) => "conv-transpose",
            Self::Pool(_) => "pool",
            Self::MatMul(_) => "matmul",
            Self::BatchNorm { .. } => "batch-norm",
            Self::Softmax { .. } => "softmax",
            Self::Reduce { .. } => "reduce",
            Self::Copy { .. } => "copy",
            Self::Taps(_) => "taps",
            Self::Fill(_) => "fill",
        }
    }

    /// Multiplications that it takes, where that tells how long it takes.
    pub fn multiplications(&self) -> u64 {
        let product =
            |factors: &[usize]| factors.iter().fold(1_u64, |product, factor| product.saturating_mul(*factor as u64));
        match self {
            Self::Conv(conv) | Self::ConvTranspose(conv) => {
                let area = if matches!(self, Self::Conv(_)) { conv.out_size } else { conv.size };
                let [height, width] = area;
                let [window_height, window_width] = conv.window.size;
                let channels = conv.channels / conv.groups.max(1);
                product(&[conv.batch, height, width, conv.out_channels, channels, window_height, window_width])
            }
            Self::MatMul(matmul) => {
                let batch: usize = matmul.batch.shape.iter().product();
                product(&[batch, matmul.rows, matmul.depth, matmul.columns])
            }
            _ => 0,
        }
    }
}

impl<const N: usize> Walk<N> {
    /// With dimensions of one element left out, and neighbours made one where each step of the outer is a whole inner dimension.
    pub fn new(shape: &[usize], steps: &[[isize; N]]) -> Self {
        let mut walk = Self { shape: Vec::new(), steps: Vec::new() };
        for (count, step) in shape.iter().zip(steps) {
            if *count == 1 {
                continue;
            }
            let inner = step.map(|step| step.saturating_mul(*count as isize));
            match (walk.shape.last_mut(), walk.steps.last_mut()) {
                (Some(outer_count), Some(outer_step)) if *outer_step == inner => {
                    *outer_count *= count;
                    *outer_step = *step;
                }
                _ => {
                    walk.shape.push(*count);
                    walk.steps.push(*step);
                }
            }
        }
        walk
    }

    /// Whether each place is one of a buffer, where the first places are `at` and the buffers have `lengths`.
    pub fn fits(&self, at: [usize; N], lengths: [usize; N]) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        (0..N).zip(at).zip(lengths).all(|((buffer, at), length)| {
            let (mut first, mut last) = (at as i64, at as i64);
            for (count, step) in self.shape.iter().zip(&self.steps) {
                let step = step.get(buffer).copied().unwrap_or(0) as i64;
                let reach = step.saturating_mul(*count as i64 - 1);
                first = first.saturating_add(reach.min(0));
                last = last.saturating_add(reach.max(0));
            }
            first >= 0 && last < length as i64
        })
    }

    /// How many elements there are.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The innermost dimension, and all others one after the other: for each the places of its first element.
    pub fn lines(&self) -> (usize, [isize; N], impl Iterator<Item = [isize; N]>) {
        let (count, step) = match (self.shape.split_last(), self.steps.split_last()) {
            (Some((count, _)), Some((step, _))) => (*count, *step),
            _ => (1, [0; N]),
        };
        let outer = self.shape.len().saturating_sub(1);
        let shape = self.shape.get(..outer).unwrap_or_default();
        let steps = self.steps.get(..outer).unwrap_or_default();
        let total = if count == 0 { 0 } else { shape.iter().product() };
        let lines = (0..total).map(move |mut line: usize| {
            let mut at = [0; N];
            for (count, step) in shape.iter().zip(steps).rev() {
                let index = (line % count) as isize;
                line /= count;
                for (at, step) in at.iter_mut().zip(step) {
                    *at += index * step;
                }
            }
            at
        });
        (count, step, lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_dimension() {
        let walk = Walk::new(&[2, 1, 3, 4], &[[12, 0], [0, 0], [4, 0], [1, 0]]);
        assert_eq!(walk, Walk { shape: vec![24], steps: vec![[1, 0]] });
        let bias = Walk::new(&[2, 3, 4], &[[12, 0], [4, 1], [1, 0]]);
        assert_eq!(bias.shape, [2, 3, 4]);
        let (count, step, lines) = bias.lines();
        assert_eq!((count, step), (4, [1, 0]));
        assert_eq!(lines.last(), Some([20, 2]));
    }

    #[test]
    fn a_scalar_is_one_line_of_one_and_nothing_is_none() {
        let scalar = Walk::<1>::new(&[], &[]);
        let (count, _, lines) = scalar.lines();
        assert_eq!((count, lines.count()), (1, 1));
        assert_eq!(Walk::new(&[3, 0], &[[0], [1]]).lines().2.count(), 0);
    }
}
