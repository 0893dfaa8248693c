//! Operators that make an axis longer or shorter: padding and resampling.

use super::{Cx, Part, Value, movement, reshape};
use crate::error::{Fault, ensure};
use crate::kernel::{Kernel, Taps};
use crate::limits::ELEMENTS_MAX;
use crate::tensor::{axis, elements, strides};

/// Its amounts were an attribute before version 11. Negative ones take away.
pub fn pad(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let value = cx.input(0)?;
    let rank = value.shape().len();
    let (given, fill) = match cx.list("pads")? {
        Some(pads) => (pads.to_vec(), cx.float("value", 0.0)?),
        None => {
            let fill = match cx.optional(2) {
                Some(Value::Known(tensor)) if tensor.as_ints() == Some(&[0]) => 0.0,
                _ => cx.scalar(2, 0.0)?,
            };
            (cx.ints(1)?, fill)
        }
    };
    let axes = cx.optional_ints(3)?.unwrap_or_else(|| (0..rank as i64).collect());
    ensure(given.len() == 2 * axes.len(), || format!("{} amounts for {} axes", given.len(), axes.len()))?;
    let mut amounts = vec![(0_i64, 0_i64); rank];
    let (before, after) = given.split_at_checked(axes.len()).unwrap_or_default();
    for ((counted, before), after) in axes.iter().zip(before).zip(after) {
        let bounded = [*before, *after].iter().all(|amount| amount.unsigned_abs() <= ELEMENTS_MAX as u64);
        ensure(bounded, || format!("padding of {before} and {after}"))?;
        let at = axis(*counted, rank)?;
        amounts.iter_mut().skip(at).take(1).for_each(|place| *place = (*before, *after));
    }
    match cx.text("mode", "constant")? {
        "constant" => constant(cx, value, &amounts, fill),
        mode @ ("reflect" | "edge" | "wrap") => repeated(cx, value, &amounts, mode),
        other => Err(Fault::Unsupported(format!("padding of the mode {other:?}"))),
    }
}

fn longer(length: usize, (before, after): (i64, i64)) -> Result<usize, Fault> {
    let total = length as i64 + before + after;
    usize::try_from(total).map_err(|_| Fault::Invalid(format!("padding of {before} and {after} takes all of {length}")))
}

fn constant(cx: &mut Cx<'_>, value: Value, amounts: &[(i64, i64)], fill: f32) -> Result<Value, Fault> {
    let mut shape = Vec::with_capacity(amounts.len());
    for (length, amounts) in value.shape().iter().zip(amounts) {
        shape.push(longer(*length, *amounts)?);
    }
    elements(&shape)?;
    let (own, padded) = (strides(value.shape()), strides(&shape));
    let (mut from, mut to, mut kept) = (0, 0, Vec::with_capacity(shape.len()));
    for (((length, (before, after)), own), padded) in value.shape().iter().zip(amounts).zip(&own).zip(&padded) {
        let cut = |amount: &i64| usize::try_from(-amount).unwrap_or(0).min(*length);
        kept.push(length - (cut(before) + cut(after)).min(*length));
        from += cut(before) * own;
        to += usize::try_from(*before).unwrap_or(0) * padded;
    }
    if kept.contains(&0) {
        (from, to) = (0, 0);
    }
    let walk = movement::walk(&kept, own.into_iter().map(|stride| stride as isize), &padded);
    cx.assemble(shape, Some(fill), &[Part { value, walk, from, to }])
}

/// Each axis after the other: an element of the output is one of the input.
fn repeated(cx: &mut Cx<'_>, mut value: Value, amounts: &[(i64, i64)], mode: &str) -> Result<Value, Fault> {
    for (at, amounts) in amounts.iter().enumerate().filter(|(_, amounts)| **amounts != (0, 0)) {
        let length = value.shape().get(at).copied().unwrap_or(0);
        let count = longer(length, *amounts)?;
        let mut shape = value.shape().to_vec();
        shape.iter_mut().skip(at).take(1).for_each(|place| *place = count);
        elements(&shape)?;
        ensure(length > 0, || "padding of nothing with what is there".into())?;
        let last = length as i64 - 1;
        let place = |index: usize| {
            let index = index as i64 - amounts.0;
            let found = match mode {
                "edge" => index.clamp(0, last),
                "wrap" => index.rem_euclid(last + 1),
                _ if last == 0 => 0,
                _ => {
                    let folded = index.rem_euclid(2 * last);
                    folded.min(2 * last - folded)
                }
            };
            vec![(found, 1.0)]
        };
        value = resampled(cx, &value, at, count, place)?;
    }
    Ok(value)
}

/// An axis of which each element is a weighted sum of others, all of them of equally many.
fn resampled(
    cx: &mut Cx<'_>,
    value: &Value,
    at: usize,
    count_out: usize,
    place: impl Fn(usize) -> Vec<(i64, f32)>,
) -> Result<Value, Fault> {
    let mut shape = value.shape().to_vec();
    let (outer, rest) = value.shape().split_at_checked(at).unwrap_or_default();
    let (count_in, inner) = rest.split_first().map_or((1, &[][..]), |(count, inner)| (*count, inner));
    let (outer, inner) = (outer.iter().product(), inner.iter().product());
    shape.iter_mut().skip(at).take(1).for_each(|place| *place = count_out);
    elements(&shape)?;
    let all: Vec<(i64, f32)> = (0..count_out).flat_map(place).collect();
    let last = (count_in as i64 - 1).max(0);
    let places = all.iter().map(|(place, _)| u32::try_from((*place).clamp(0, last)).unwrap_or(0)).collect();
    let weights = all.iter().map(|(_, weight)| *weight).collect();
    let taps = Taps { outer, count_in, count_out, inner, taps: all.len() / count_out.max(1), places, weights };
    let (x, _) = cx.floats(value)?;
    cx.emit(Kernel::Taps(taps), &[x], shape)
}

/// How places of the output are mapped to the input's.
struct Resampling<'a> {
    mode: &'a str,
    coordinates: &'a str,
    nearest: &'a str,
    cubic: f32,
    exclude_outside: bool,
}

/// Also `Upsample`, and the version 10, which had no choice of coordinates.
pub fn resize(cx: &mut Cx<'_>) -> Result<Value, Fault> {
    let mut value = cx.input(0)?;
    let is_old = cx.opset < 11 || cx.node.operator == "Upsample";
    let resampling = Resampling {
        mode: cx.text("mode", "nearest")?,
        coordinates: if is_old { "asymmetric" } else { cx.text("coordinate_transformation_mode", "half_pixel")? },
        nearest: if is_old { "floor" } else { cx.text("nearest_mode", "round_prefer_floor")? },
        cubic: cx.float("cubic_coeff_a", -0.75)?,
        exclude_outside: cx.int("exclude_outside", 0)? != 0,
    };
    let policy = cx.text("keep_aspect_ratio_policy", "stretch")?;
    if cx.int("antialias", 0)? != 0 || policy != "stretch" {
        return Err(Fault::Unsupported(format!("resizing with antialias, or with the policy {policy:?}")));
    }
    let rank = value.shape().len();
    let axes: Result<Vec<usize>, Fault> = match cx.list("axes")? {
        Some(axes) => axes.iter().map(|counted| axis(*counted, rank)).collect(),
        None => Ok((0..rank).collect()),
    };
    let axes = axes?;
    let scales = match cx.attribute("scales") {
        Some(crate::model::Attribute::Floats(scales)) => Some(scales.clone()),
        _ => cx.optional_floats(if is_old { 1 } else { 2 })?.filter(|scales| !scales.is_empty()),
    };
    let sizes = if is_old { None } else { cx.optional_ints(3)? };
    let given = scales.as_ref().map_or_else(|| sizes.as_ref().map_or(0, Vec::len), Vec::len);
    ensure(given == axes.len(), || format!("{given} scales or sizes for {} axes", axes.len()))?;
    for (index, at) in axes.into_iter().enumerate() {
        let length = value.shape().get(at).copied().unwrap_or(0);
        let scale = scales.as_ref().and_then(|scales| scales.get(index).copied());
        let (count, scale) = match (scale, sizes.as_ref().and_then(|sizes| sizes.get(index))) {
            (Some(scale), _) => {
                let count = f64::from(scale) * length as f64;
                let is_size = scale > 0.0 && count <= ELEMENTS_MAX as f64;
                ensure(is_size, || format!("a scale of {scale} for {length} elements"))?;
                (count.floor() as usize, scale)
            }
            (None, size) => {
                let count = size.and_then(|size| usize::try_from(*size).ok()).unwrap_or(0);
                (count, count as f32 / length.max(1) as f32)
            }
        };
        if count == length && scale == 1.0 {
            continue;
        }
        let mut shape = value.shape().to_vec();
        shape.iter_mut().skip(at).take(1).for_each(|place| *place = count);
        elements(&shape)?;
        ensure(length > 0 && count > 0, || format!("{length} elements can't become {count}"))?;
        let taps = resampling.check()?;
        ensure(count * taps <= ELEMENTS_MAX, || format!("{count} elements of {taps} others each"))?;
        value = resampled(cx, &value, at, count, |index| resampling.taps(index, scale, length, count))?;
    }
    reshape::reshaped(&value, value.shape().to_vec())
}

impl Resampling<'_> {
    /// How many elements each is made of.
    fn check(&self) -> Result<usize, Fault> {
        let known = ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"];
        if !known.contains(&self.coordinates) {
            return Err(Fault::Unsupported(format!("coordinates by {:?}", self.coordinates)));
        }
        match self.mode {
            "nearest" => Ok(1),
            "linear" => Ok(2),
            "cubic" => Ok(4),
            other => Err(Fault::Unsupported(format!("resizing of the mode {other:?}"))),
        }
    }

    fn taps(&self, index: usize, scale: f32, length: usize, count: usize) -> Vec<(i64, f32)> {
        let (at, long, out) = (index as f32, length as f32, count as f32);
        let x = match self.coordinates {
            "asymmetric" => at / scale,
            "align_corners" if count == 1 => 0.0,
            "align_corners" => at * (long - 1.0) / (scale * long - 1.0),
            "pytorch_half_pixel" if count == 1 => 0.0,
            "half_pixel_symmetric" => {
                let adjustment = out / (scale * long);
                let center = long / 2.0;
                center * (1.0 - adjustment) + (at + 0.5) / scale - 0.5
            }
            _ => (at + 0.5) / scale - 0.5,
        };
        let (floor, last) = (x.floor(), length as i64 - 1);
        let part = x - floor;
        let floor = floor as i64;
        match self.mode {
            "nearest" => {
                let is_up = match self.nearest {
                    "floor" => false,
                    "ceil" => part > 0.0,
                    "round_prefer_ceil" => part >= 0.5,
                    _ => part > 0.5,
                };
                vec![(floor + i64::from(is_up), 1.0)]
            }
            "linear" => self.inside(vec![(floor, 1.0 - part), (floor + 1, part)], last),
            _ => {
                let a = self.cubic;
                let near = |d: f32| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
                let far = |d: f32| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
                let weights = [far(1.0 + part), near(part), near(1.0 - part), far(2.0 - part)];
                self.inside((floor - 1..).zip(weights).collect(), last)
            }
        }
    }

    /// What is beyond the ends counts as the ends, or not at all.
    fn inside(&self, mut taps: Vec<(i64, f32)>, last: i64) -> Vec<(i64, f32)> {
        if self.exclude_outside {
            taps.iter_mut().filter(|(place, _)| !(0..=last).contains(place)).for_each(|(_, weight)| *weight = 0.0);
            let sum: f32 = taps.iter().map(|(_, weight)| weight).sum();
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        taps
    }
}
