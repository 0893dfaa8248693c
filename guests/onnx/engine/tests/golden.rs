//! What ONNX and ONNX Runtime compute, and what is computed here: `golden.py` made the files.

mod pack;

use std::collections::BTreeMap;

use onnx_engine::{Error, Input, Model, Tensor, cpu, plan, wgsl};
use pack::{Case, numbers};

/// Words of the names of cases that are refused, and of the reasons.
const REFUSED: [(&str, &str); 12] = [
    ("_3d", "which is no picture and no signal"),
    ("_training_mode", "the mode for training"),
    ("_with_argmax_", "not supported: its output \"z\""),
    ("_pow_types_", "not supported: computing with I"),
    ("_bool", "not supported: computing with Bool"),
    ("_edge_pad", "not supported: computing with I32"),
    ("_reflect_pad", "not supported: computing with I32"),
    ("_wrap_pad", "not supported: computing with I32"),
    ("_antialias", "not supported: resizing with antialias"),
    ("_not_larger", "not supported: resizing with antialias, or with the policy"),
    ("_not_smaller", "not supported: resizing with antialias, or with the policy"),
    ("_tf_crop_and_resize", "not supported: coordinates by \"tf_crop_and_resize\""),
];
/// Operators whose inputs after the first are parameters, which must be known when planning.
const PARAMETERS: [&str; 4] = ["Clip", "Pad", "Resize", "Upsample"];

fn execute(model: &Model, inputs: &[Tensor]) -> Result<Vec<(String, Tensor)>, Error> {
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
    let program = plan(model, &given)?;
    for step in &program.steps {
        let dispatch = wgsl::dispatch(&program, step).unwrap();
        assert!(dispatch.groups.iter().all(|groups| *groups > 0), "{dispatch:?}");
    }
    program.tensors(cpu::run(&program, &values)?).map_err(Error::Graph)
}

/// Whether two tensors are the same, up to a part of the values and something beside it.
fn differs(actual: &Tensor, expected: &Tensor, tolerance: f32) -> Option<String> {
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

#[test]
fn operators_compute_what_onnx_says() {
    let (mut faults, mut passed) = (Vec::new(), 0);
    for (name, Case { model, inputs, outputs }) in pack::cases("operators.pack") {
        let model = Model::parse(&model.unwrap()).unwrap();
        match execute(&model, &inputs) {
            Ok(actual) => {
                let wrong =
                    actual.iter().zip(&outputs).find_map(|((_, actual), expected)| differs(actual, expected, 1e-4));
                match wrong {
                    Some(wrong) => faults.push(format!("{name}: {wrong}")),
                    None => passed += 1,
                }
            }
            Err(error) => {
                let says = error.to_string();
                if !REFUSED.iter().any(|(word, why)| name.contains(word) && says.contains(why)) {
                    faults.push(format!("{name}: {says}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{passed} passed, {} did not:\n{}", faults.len(), faults.join("\n"));
    assert!(passed > 390, "only {passed} cases");
}

#[test]
fn a_unet_of_the_architecture_of_trustmark_computes_what_onnx_runtime_does() {
    let Case { model, inputs, outputs } = pack::unet();
    let model = Model::parse(&model.unwrap()).unwrap();
    let actual = execute(&model, &inputs).unwrap();
    assert_eq!(differs(&actual[0].1, &outputs[0], 1e-4), None);
    let spread = outputs[0].as_floats().unwrap().iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    assert!(spread > 0.1, "an output that says something: {spread}");
}

/// `cargo xtask models` brings the model.
#[test]
fn a_classifier_from_a_package_computes_what_onnx_runtime_does() {
    let Some(model) = pack::model("ch_ppocr_mobile_v2.0_cls_infer.onnx") else { return };
    let model = Model::parse(&model).unwrap();
    for (shape, Case { outputs, .. }) in pack::cases("classifier.pack") {
        let shape: Vec<usize> = shape.split('x').map(|dimension| dimension.parse().unwrap()).collect();
        let picture = Tensor::floats(shape.clone(), numbers(shape.iter().product())).unwrap();
        let actual = execute(&model, &[picture]).unwrap();
        assert_eq!(differs(&actual[0].1, &outputs[0], 1e-4), None, "{shape:?}");
    }
}
