//! What ONNX and ONNX Runtime compute, and what is computed here: `golden.py` made the files. The same for the executor for GPUs is
//! in `host-node/gpu/src/models.rs`.

mod pack;

use onnx_engine::{Error, Model, Tensor, cpu, wgsl};
use pack::{Case, differs};

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

fn execute(model: &Model, inputs: &[Tensor]) -> Result<Vec<(String, Tensor)>, Error> {
    let (program, values) = pack::planned(model, inputs)?;
    for step in &program.steps {
        // Not more than every adapter has.
        let dispatch = wgsl::dispatch(&program, step).unwrap();
        assert!(dispatch.groups.iter().all(|groups| *groups <= 65_535), "{dispatch:?}");
        assert!(dispatch.inputs.len() + 2 <= 8, "{dispatch:?}");
    }
    program.tensors(cpu::run(&program, &values)?).map_err(Error::Graph)
}

#[test]
fn operators_compute_what_onnx_says() {
    let (mut faults, mut passed) = (Vec::new(), 0);
    for (name, Case { model, inputs, outputs }) in pack::operators() {
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

#[test]
fn a_classifier_from_a_package_computes_what_onnx_runtime_does() {
    let Some((model, cases)) = pack::classifier() else { return };
    for Case { inputs, outputs, .. } in cases {
        let actual = execute(&model, &inputs).unwrap();
        assert_eq!(differs(&actual[0].1, &outputs[0], 1e-4), None, "{:?}", inputs[0].shape());
    }
}
