//! The executor of the guest `onnx-gpu`, natively: of ONNX's test data it computes what ONNX says, and of whole models what ONNX
//! Runtime does. The processor's executor is compared with the same data in `guests/onnx/engine/tests/golden.rs`.

#[path = "../../../guests/onnx-gpu/src/gpu.rs"]
#[expect(unreachable_pub, reason = "it is written for a guest")]
mod executor;
#[path = "../../../guests/onnx/engine/tests/pack/mod.rs"]
#[expect(unreachable_pub, reason = "it is written for another crate's tests")]
mod pack;

use crate::{
    guard::{check_module, check_source},
    inventory,
};
use executor::Gpu;
use onnx_engine::{Error, Executor as _, Model, Tensor, cpu, wgsl::Shader};
use wgpu::naga::{front::wgsl, valid};

/// Of the sum of 1 and a value. Drivers' exponentials and powers are not the processor's to the last bits.
const TOLERANCE: f32 = 1e-3;

/// The adapter that a program gets which does not choose, or nothing where these tests are not wanted.
fn gpu() -> Option<Gpu> {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return None;
    }
    let instance = inventory::instance();
    let adapter = inventory::now(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap().unwrap();
    let gpu = inventory::now(Gpu::open(&adapter)).flatten().unwrap();
    eprintln!("on {}, which is the processor: {}", adapter.get_info().name, gpu.is_processor());
    Some(gpu)
}

/// What the GPU computes, where the processor computes anything of it.
fn execute(gpu: &mut Gpu, model: &Model, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    let (program, values) = pack::planned(model, inputs)?;
    let computed = inventory::now(gpu.run(&program, &values)).map_err(Error::Executor)??;
    let tensors = program.tensors(computed).map_err(Error::Graph)?;
    Ok(tensors.into_iter().map(|(_, tensor)| tensor).collect())
}

fn is_planned(model: &Model, inputs: &[Tensor]) -> bool {
    pack::planned(model, inputs).is_ok_and(|(program, values)| cpu::run(&program, &values).is_ok())
}

#[test]
fn operators_compute_what_onnx_says() {
    let Some(mut gpu) = gpu() else { return };
    let (mut faults, mut passed) = (Vec::new(), 0);
    for (name, case) in pack::operators() {
        let model = Model::parse(&case.model.unwrap()).unwrap();
        if !is_planned(&model, &case.inputs) {
            continue;
        }
        let fault = match execute(&mut gpu, &model, &case.inputs) {
            Ok(actual) => {
                let mut pairs = actual.iter().zip(&case.outputs);
                pairs.find_map(|(actual, expected)| pack::differs(actual, expected, TOLERANCE))
            }
            Err(error) => Some(error.to_string()),
        };
        match fault {
            Some(fault) => faults.push(format!("{name}: {fault}")),
            None => passed += 1,
        }
    }
    assert!(faults.is_empty(), "{passed} passed, {} did not:\n{}", faults.len(), faults.join("\n"));
    assert!(passed > 390, "only {passed} cases");
}

#[test]
fn whole_models_compute_what_onnx_runtime_does() {
    let Some(mut gpu) = gpu() else { return };
    let unet = pack::unet();
    let mut cases = vec![(Model::parse(unet.model.as_deref().unwrap()).unwrap(), unet.inputs, unet.outputs)];
    if let Some((model, pictures)) = pack::classifier() {
        cases.extend(pictures.into_iter().map(|case| (model.clone(), case.inputs, case.outputs)));
    }
    // The weights of one are there no more when it comes again.
    for (model, inputs, outputs) in cases.iter().chain(&cases) {
        let actual = execute(&mut gpu, model, inputs).unwrap();
        assert_eq!(pack::differs(&actual[0], &outputs[0], TOLERANCE), None, "{:?}", inputs[0].shape());
    }
}

#[test]
fn inputs_of_another_program_are_refused() {
    let Some(mut gpu) = gpu() else { return };
    let unet = pack::unet();
    let model = Model::parse(unet.model.as_deref().unwrap()).unwrap();
    let (program, mut values) = pack::planned(&model, &unet.inputs).unwrap();
    values[0] = &values[0][1..];
    let refused = inventory::now(gpu.run(&program, &values)).unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "these are no inputs for this program");
}

/// Without a driver as well.
#[test]
fn every_shader_is_valid_and_passes_the_guard() {
    for shader in Shader::ALL {
        let source = shader.source();
        check_source(&source).unwrap_or_else(|refused| panic!("{shader:?}: {refused:?}"));
        let module = wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        check_module(&module, 16 << 10).unwrap_or_else(|refused| panic!("{shader:?}: {refused:?}"));
        // WebGPU's own, without any feature that must be asked for.
        let mut validator = valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::empty());
        validator.validate(&module).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
    }
}
