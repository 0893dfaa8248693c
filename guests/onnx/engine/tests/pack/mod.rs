//! Test data that others computed, and what is compared with it: `golden.py` says what is in the files. The tests of the executor
//! for GPUs, which are not in this workspace, read it as well.

#![allow(dead_code, reason = "not every test wants all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnx_engine::{Error, Input, Model, Program, Tensor, npy, plan};

#[derive(Default)]
pub struct Case {
    pub model: Option<Vec<u8>>,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

/// The test data of the operators, by their names.
pub fn operators() -> BTreeMap<String, Case> {
    cases(include_bytes!("../operators.pack"))
}

/// A U-Net of the architecture of TrustMark's encoder, small, with random weights.
pub fn unet() -> Case {
    let tensors = |bytes: &[u8]| npy::read_all(bytes, 2).unwrap();
    Case {
        model: Some(include_bytes!("../unet.onnx").to_vec()),
        inputs: tensors(include_bytes!("../unet.inputs.npy")),
        outputs: tensors(include_bytes!("../unet.output.npy")),
    }
}

/// A classifier of a package, with what comes out for pictures of some shapes. `cargo xtask models` brings the model; where it is
/// not, a test is skipped and says so.
pub fn classifier() -> Option<(Model, Vec<Case>)> {
    let file = "ch_ppocr_mobile_v2.0_cls_infer.onnx";
    let named = std::env::var_os("LATTICE_MODELS").map(PathBuf::from);
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("target/models"));
    let folder = named.or_else(|| folders.find(|folder| folder.is_dir())).unwrap_or_default();
    let Ok(model) = std::fs::read(folder.join(file)) else {
        eprintln!("SKIPPED: {file} is not in {}: run `cargo xtask models`", folder.display());
        return None;
    };
    let with_picture = |(shape, case): (String, Case)| {
        let shape: Vec<usize> = shape.split('x').map(|dimension| dimension.parse().unwrap()).collect();
        let picture = Tensor::floats(shape.clone(), numbers(shape.iter().product())).unwrap();
        Case { inputs: vec![picture], ..case }
    };
    let cases = cases(include_bytes!("../classifier.pack")).into_iter().map(with_picture).collect();
    Some((Model::parse(&model).unwrap(), cases))
}

fn cases(bytes: &[u8]) -> BTreeMap<String, Case> {
    let mut rest = bytes;
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    while !rest.is_empty() {
        let name = take(&mut rest, 2);
        let name = take(&mut rest, usize::from(u16::from_le_bytes(name.try_into().unwrap())));
        let (case, file) = std::str::from_utf8(name).unwrap().split_once('/').unwrap();
        let length = take(&mut rest, 4);
        let content = take(&mut rest, u32::from_le_bytes(length.try_into().unwrap()) as usize);
        let case = cases.entry(case.to_owned()).or_default();
        match file.split_once('-') {
            Some(("input", _)) => case.inputs.push(npy::read(content).unwrap().0),
            Some(("output", _)) => case.outputs.push(npy::read(content).unwrap().0),
            _ => case.model = Some(content.to_vec()),
        }
    }
    cases
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

/// Numbers between -1 and 1, the same as the function of this name in `golden.py` makes.
fn numbers(count: usize) -> Vec<f32> {
    let number = |at: u64| {
        let hashed = (at * 2_654_435_761 + 12_345) % (1 << 32);
        (hashed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(number).collect()
}

/// Operators whose inputs after the first are parameters, which must be known when planning.
const PARAMETERS: [&str; 4] = ["Clip", "Pad", "Resize", "Upsample"];

/// A program for these inputs, and the values that it takes.
pub fn planned<'a>(model: &Model, inputs: &'a [Tensor]) -> Result<(Program, Vec<&'a [f32]>), Error> {
    let (mut given, mut values) = (BTreeMap::new(), Vec::new());
    let has_parameters = model.nodes.iter().any(|node| PARAMETERS.contains(&node.operator.as_str()));
    for (at, (declared, tensor)) in model.inputs.iter().zip(inputs).enumerate() {
        let input = match tensor.as_floats() {
            Some(floats) if at == 0 || !has_parameters => {
                values.push(floats);
                Input::Shape(tensor.shape().to_vec())
            }
            _ => Input::Known(tensor.clone()),
        };
        given.insert(declared.name.clone(), input);
    }
    Ok((plan(model, &given)?, values))
}

/// Where two tensors are not the same, up to a part of 1 and the value together.
pub fn differs(actual: &Tensor, expected: &Tensor, tolerance: f32) -> Option<String> {
    if actual.shape() != expected.shape() || actual.kind() != expected.kind() {
        return Some(format!(
            "{:?} {:?}, not {:?} {:?}",
            actual.kind(),
            actual.shape(),
            expected.kind(),
            expected.shape()
        ));
    }
    let (Some(a), Some(b)) = (actual.as_floats(), expected.as_floats()) else {
        return (actual != expected).then(|| format!("{actual:?}, not {expected:?}"));
    };
    let is_near = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * (1.0 + b.abs());
    let wrong = a.iter().zip(b).position(|(a, b)| !is_near(*a, *b))?;
    Some(format!("{} at {wrong}, not {}", a[wrong], b[wrong]))
}
