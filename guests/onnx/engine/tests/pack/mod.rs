//! Reads packs of test data: `golden.py` says what is in them.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_engine::Tensor;

#[derive(Default)]
pub struct Case {
    pub model: Option<Vec<u8>>,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

fn read(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A U-Net of the architecture of TrustMark's encoder, small, with random weights.
#[allow(dead_code, reason = "not every test wants it")]
pub fn unet() -> Case {
    let tensors = |file: &str| onnx_engine::npy::read_all(&read(file), 2).unwrap();
    Case { model: Some(read("unet.onnx")), inputs: tensors("unet.inputs.npy"), outputs: tensors("unet.output.npy") }
}

/// By their names.
pub fn cases(file: &str) -> BTreeMap<String, Case> {
    let bytes = read(file);
    let mut rest = bytes.as_slice();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    while !rest.is_empty() {
        let name = take(&mut rest, 2);
        let name = take(&mut rest, usize::from(u16::from_le_bytes(name.try_into().unwrap())));
        let (case, file) = std::str::from_utf8(name).unwrap().split_once('/').unwrap();
        let length = take(&mut rest, 4);
        let content = take(&mut rest, u32::from_le_bytes(length.try_into().unwrap()) as usize);
        let case = cases.entry(case.to_owned()).or_default();
        match file.split_once('-') {
            Some(("input", _)) => case.inputs.push(onnx_engine::npy::read(content).unwrap().0),
            Some(("output", _)) => case.outputs.push(onnx_engine::npy::read(content).unwrap().0),
            _ => case.model = Some(content.to_vec()),
        }
    }
    cases
}

/// A model of a package, from the folder that `LATTICE_MODELS` names or from `target/models`. Where it is not, a test is
/// skipped and says so.
#[allow(dead_code, reason = "not every test wants one")]
pub fn model(file: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("LATTICE_MODELS").map(std::path::PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/models"));
    let read = std::fs::read(folder.join(file));
    if read.is_err() {
        eprintln!("SKIPPED: {file} is not in {}: run `cargo xtask models`", folder.display());
    }
    read.ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

#[allow(dead_code, reason = "not every test wants them")]
/// Numbers between -1 and 1, the same as the function of this name in `golden.py` makes.
pub fn numbers(count: usize) -> Vec<f32> {
    let number = |at: u64| {
        let hashed = (at * 2_654_435_761 + 12_345) % (1 << 32);
        (hashed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(number).collect()
}
