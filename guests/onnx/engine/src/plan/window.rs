//! Operators that look at a window around each place: convolutions and pooling. Signals of one dimension are pictures of one row.

use super::{Cx, Value};
use crate::error::{Fault, ensure};
use crate::kernel::{Conv, Kernel, Pool, PoolFunction, Window};
use crate::limits::WINDOW_MAX;
use crate::program::SlotId;
use crate::tensor::elements;

/// Batch, channels and the size of pictures, and whether they are signals.
struct Pictures {
    batch: usize,
    channels: usize,
    size: [usize; 2],
    is_signal: bool,
}

impl Pictures {
    fn new(shape: &[usize]) -> Result<Self, Fault> {
        let (batch, channels, size, is_signal) = match *shape {
            [batch, channels, width] => (batch, channels, [1, width], true),
            [batch, channels, height, width] => (batch, channels, [height, width], false),
            _ => return Err(Fault::Unsupported(format!("{shape:?}, which is no picture and no signal"))),
        };
        elements(shape)?;
        ensure(channels > 0 && !size.contains(&0), || format!("{shape:?}, an empty picture"))?;
        Ok(Self { batch, channels, size, is_signal })
    }

    fn shape(&self, channels: usize, [height, width]: [usize; 2]) -> Vec<usize> {
        if self.is_signal { vec![self.batch, channels, width] } else { vec![self.batch, channels, height, width] }
    }

    /// Two numbers of an attribute, height before width.
    fn pair(&self, cx: &Cx<'_>, name: &str, least: usize, default: usize) -> Result<[usize; 2], Fault> {
        let rest = if least == 0 { 0 } else { 1 };
        let pair = match (cx.list(name)?, self.is_signal) {
            (None, true) => return Ok([rest, default]),
            (None, false) => return Ok([default; 2]),
            (Some([width]), true) => [usize::try_from(*width).ok(), Some(rest)],
            (Some([height, width]), false) => [usize::try_from(*width).ok(), usize::try_from(*height).ok()],
            (Some(list), _) => return Err(Fault::Invalid(format!("{name} of {list:?}"))),
        };
        match pair {
            [Some(width), Some(height)]
                if (least..=WINDOW_MAX).contains(&width) && (least..=WINDOW_MAX).contains(&height) =>
            {
                Ok([height, width])
            }
            _ => Err(Fault::Invalid(format!("{name} beyond {least} to {WINDOW_MAX}"))),
        }
    }

    /// The explicit padding: what begins, then what ends.
    fn pads(&self, cx: &Cx<'_>) -> Result<[[usize; 2]; 2], Fault> {
        let pads: Option<Vec<usize>> =
            cx.list("pads")?.map(|pads| pads.iter().map(|pad| usize::try_from(*pad).unwrap_or(usize::MAX)).collect());
        let pads = match (pads.as_deref(), self.is_signal) {
            (None, _) => [[0; 2]; 2],
            (Some([left, right]), true) => [[0, *left], [0, *right]],
            (Some([top, left, bottom, right]), false) => [[*top, *left], [*bottom, *right]],
            (Some(list), _) => return Err(Fault::Invalid(format!("{} pads", list.len()))),
        };
        let bounded = pads.iter().flatten().all(|pad| *pad <= WINDOW_MAX);
        ensure(bounded, || format!("pads beyond 0 to {WINDOW_MAX}"))?;
        Ok(pads)
    }

    /// The window, and the size of what it is moved over.
    fn window(&self, cx: &Cx<'_>, size: [usize; 2], ceil: bool) -> Result<(Window, [usize; 2]), Fault> {
        ensure(size.iter().all(|side| (1..=WINDOW_MAX).contains(side)), || format!("a window of {size:?}"))?;
        let stride = self.pair(cx, "strides", 1, 1)?;
        let dilation = self.pair(cx, "dilations", 1, 1)?;
        let [before, after] = self.pads(cx)?;
        let mut window = Window { size, stride, dilation, before, after };
        let mut out = [0; 2];
        let mode = cx.text("auto_pad", "NOTSET")?;
        let sides = out.iter_mut().zip(self.size).zip(window.span().into_iter().zip(stride));
        let padding = window.before.iter_mut().zip(&mut window.after);
        for (((out, length), (span, stride)), (before, after)) in sides.zip(padding) {
            *out = match mode {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let count = length.div_ceil(stride);
                    let total = (count.saturating_sub(1) * stride + span).saturating_sub(length);
                    let (less, more) = (total / 2, total.div_ceil(2));
                    (*before, *after) = if mode == "SAME_UPPER" { (less, more) } else { (more, less) };
                    count
                }
                "NOTSET" | "VALID" => {
                    if mode == "VALID" {
                        (*before, *after) = (0, 0);
                    }
                    let padded = length + *before + *after;
                    ensure(padded >= span, || format!("a window over {span} elements, of {padded}"))?;
                    let rest = padded - span;
                    let count = if ceil { rest.div_ceil(stride) } else { rest / stride } + 1;
                    // A window that begins behind the picture is none.
                    if ceil && (count - 1) * stride >= length + *before { count - 1 } else { count }
                }
                other => return Err(Fault::Invalid(format!("auto_pad of {other:?}"))),
            };
        }
        Ok((window, out))
    }
}

impl Window {
    /// Elements from the first to the last of a window, these included.
    fn span(&self) -> [usize; 2] {
        let [height, width] = self.size;
        [self.dilation[0] * (height - 1) + 1, self.dilation[1] * (width - 1) + 1]
    }
}

struct Weights {
    shape: Vec<usize>,
    /// Of the window.
    size: [usize; 2],
    groups: usize,
    /// Slots of the picture, the weights and perhaps the bias.
    inputs: Vec<SlotId>,
}

/// The weights' shape and the bias of a convolution, checked as far as both kinds have it in common.
fn weights(cx: &mut Cx<'_>, pictures: &Pictures) -> Result<Weights, Fault> {
    let (x, _) = cx.input_floats(0)?;
    let (w, shape) = cx.input_floats(1)?;
    let size = match (shape.as_slice(), pictures.is_signal) {
        ([_, _, width], true) => [1, *width],
        ([_, _, height, width], false) => [*height, *width],
        _ => return Err(Fault::Invalid(format!("weights of the shape {shape:?}"))),
    };
    if let Some(said) = cx.list("kernel_shape")? {
        let own: Vec<i64> = shape.iter().skip(2).map(|side| *side as i64).collect();
        ensure(own == said, || format!("kernel_shape of {said:?}, and weights of the shape {shape:?}"))?;
    }
    let groups = usize::try_from(cx.int("group", 1)?).ok().filter(|groups| *groups > 0);
    let groups = groups.ok_or_else(|| Fault::Invalid("no groups".into()))?;
    let mut inputs = vec![x, w];
    if cx.optional(2).is_some() {
        inputs.push(cx.input_floats(2)?.0);
    }
    Ok(Weights { shape, size, groups, inputs })
}

fn check_bias(cx: &Cx<'_>, channels: usize) -> Result<(), Fault> {
    let bias = cx.optional(2);
    let fits = bias.as_ref().is_none_or(|bias| bias.shape() == [channels]);
    ensure(fits, || format!("a bias of the shape {:?} for {channels} channels", bias.iter().map(Value::shape).next()))
}

pub fn conv(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let pictures = Pictures::new(cx.input(0)?.shape())?;
    let Weights { shape, size, groups, inputs } = weights(cx, &pictures)?;
    let [out_channels, each, ..] = *shape.as_slice() else { return Err(Fault::Invalid("no weights".into())) };
    let fits = each.checked_mul(groups) == Some(pictures.channels) && out_channels % groups == 0 && out_channels > 0;
    ensure(fits, || format!("weights of the shape {shape:?}, {groups} groups and {} channels", pictures.channels))?;
    check_bias(cx, out_channels)?;
    let (window, out_size) = pictures.window(cx, size, false)?;
    let Pictures { batch, channels, size, .. } = pictures;
    let conv = Conv { batch, channels, size, out_channels, out_size, groups, window, then: None };
    cx.emit(Kernel::Conv(conv), &inputs, pictures.shape(out_channels, out_size))
}

pub fn conv_transpose(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let pictures = Pictures::new(cx.input(0)?.shape())?;
    let Weights { shape, size, groups, inputs } = weights(cx, &pictures)?;
    let [channels, each, ..] = *shape.as_slice() else { return Err(Fault::Invalid("no weights".into())) };
    let fits = channels == pictures.channels && channels % groups == 0 && channels > 0;
    ensure(fits, || format!("weights of the shape {shape:?}, {groups} groups and {} channels", pictures.channels))?;
    let out_channels = each.saturating_mul(groups);
    check_bias(cx, out_channels)?;
    ensure(size.iter().all(|side| (1..=WINDOW_MAX).contains(side)), || format!("a window of {size:?}"))?;
    let stride = pictures.pair(cx, "strides", 1, 1)?;
    let dilation = pictures.pair(cx, "dilations", 1, 1)?;
    let extra = pictures.pair(cx, "output_padding", 0, 0)?;
    let [before, after] = pictures.pads(cx)?;
    let mut window = Window { size, stride, dilation, before, after };
    let mode = cx.text("auto_pad", "NOTSET")?;
    let wanted = match (cx.list("output_shape")?, pictures.is_signal) {
        (None, _) => [None; 2],
        (Some([.., width]), true) => [Some(1), usize::try_from(*width).ok()],
        (Some([.., height, width]), false) => [usize::try_from(*height).ok(), usize::try_from(*width).ok()],
        (Some(other), _) => return Err(Fault::Invalid(format!("output_shape of {other:?}"))),
    };
    let mut out_size = [0; 2];
    let sides = out_size.iter_mut().zip(pictures.size).zip(window.span().into_iter().zip(stride).zip(extra));
    let padding = window.before.iter_mut().zip(&mut window.after).zip(wanted);
    for (((out, length), ((span, stride), extra)), ((before, after), wanted)) in sides.zip(padding) {
        ensure(length > 0, || "an empty picture".into())?;
        let full = (length - 1) * stride + span + extra;
        let wanted = wanted.or((mode.starts_with("SAME")).then_some(length * stride));
        if let Some(wanted) = wanted {
            let total = full.saturating_sub(wanted);
            let (less, more) = (total / 2, total.div_ceil(2));
            (*before, *after) = if mode == "SAME_UPPER" { (less, more) } else { (more, less) };
            *out = wanted;
        } else {
            if mode == "VALID" {
                (*before, *after) = (0, 0);
            }
            *out = full.saturating_sub(*before + *after);
        }
        ensure(*out > 0, || format!("{full} elements with {before} and {after} taken away"))?;
    }
    let Pictures { batch, size, .. } = pictures;
    let conv = Conv { batch, channels, size, out_channels, out_size, groups, window, then: None };
    cx.emit(Kernel::ConvTranspose(conv), &inputs, pictures.shape(out_channels, out_size))
}

pub fn average_pool(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let is_padded = cx.int("count_include_pad", 0)? != 0;
    pool(cx, if is_padded { PoolFunction::AveragePadded } else { PoolFunction::Average })
}

pub fn pool(cx: &mut Cx<'_>, function: PoolFunction) -> Result<Value, Fault> {
    let (x, shape) = cx.input_floats(0)?;
    let pictures = Pictures::new(&shape)?;
    ensure(cx.list("kernel_shape")?.is_some(), || "it has no kernel_shape".into())?;
    let size = pictures.pair(cx, "kernel_shape", 1, 1)?;
    let (window, out_size) = pictures.window(cx, size, cx.int("ceil_mode", 0)? != 0)?;
    let Pictures { batch, channels, size, .. } = pictures;
    let pool = Pool { planes: batch * channels, size, out_size, window, function };
    cx.emit(Kernel::Pool(pool), &[x], pictures.shape(channels, out_size))
}
