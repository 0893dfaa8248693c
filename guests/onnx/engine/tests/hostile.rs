//! Models that are cut, changed and made up: each is an error, or computes; none panics, and none takes more than it may.

mod pack;

use std::collections::BTreeMap;

use onnx_engine::{Error, Fault, Input, Model, cpu, limits, plan};

/// Numbers without an end, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }
}

/// What is small enough to be computed in a test.
const MULTIPLICATIONS: u64 = 1 << 20;
const ELEMENTS: usize = 1 << 16;

/// As far as a model goes. Its inputs are as it says, or as a case has them.
fn attempt(bytes: &[u8], case: &pack::Case) -> Result<(), Error> {
    let model = Model::parse(bytes)?;
    let (mut given, mut values) = (BTreeMap::new(), Vec::new());
    for (declared, tensor) in model.inputs.iter().zip(&case.inputs) {
        let input = match tensor.as_floats() {
            Some(floats) => {
                values.push(floats);
                Input::Shape(tensor.shape().to_vec())
            }
            None => Input::Known(tensor.clone()),
        };
        given.insert(declared.name.clone(), input);
    }
    let program = plan(&model, &given)?;
    let elements: usize = program.slots.iter().map(|slot| slot.length).sum();
    if elements < ELEMENTS && program.multiplications() < MULTIPLICATIONS {
        let outputs = cpu::run(&program, &values)?;
        program.tensors(outputs).map_err(Error::Graph)?;
    }
    Ok(())
}

#[test]
fn models_with_changed_bytes_are_errors_or_compute() {
    let mut random = Random(7);
    let (mut computed, mut refused) = (0, 0);
    for case in pack::operators().into_values().chain([pack::unet()]) {
        let model = case.model.clone().unwrap();
        // Names, attributes and shapes are at the beginning, and of the large one most is weights.
        let reach = model.len().min(2_000);
        for _ in 0..60 {
            let mut changed = model.clone();
            for _ in 0..=random.next(3) {
                let at = random.next(reach);
                changed[at] = match random.next(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => changed[at].wrapping_add(1),
                    _ => random.next(256) as u8,
                };
            }
            if random.next(8) == 0 {
                changed.truncate(random.next(reach));
            }
            match attempt(&changed, &case) {
                Ok(()) => computed += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(computed > 1_000 && refused > 1_000, "{computed} computed, {refused} were refused");
}

/// Writes models as Protocol Buffers have them.
mod write {
    pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
    }

    pub fn number(field: u8, value: i64) -> Vec<u8> {
        [&[field << 3][..], &varint(value.cast_unsigned())].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    pub fn node(operator: &str, inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut node: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
        node.extend(outputs.iter().flat_map(|name| field(2, name.as_bytes())));
        node.extend([field(3, b"mine"), field(4, operator.as_bytes())].concat());
        node.extend(attributes.iter().flat_map(|attribute| field(5, attribute)));
        field(1, &node)
    }

    pub fn ints(name: &str, values: &[i64]) -> Vec<u8> {
        let values: Vec<u8> = values.iter().flat_map(|value| number(8, *value)).collect();
        [field(1, name.as_bytes()), values].concat()
    }

    /// Integers of 64 bits, of one dimension.
    pub fn constant(name: &str, values: &[i64]) -> Vec<u8> {
        let content: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        field(
            5,
            &[number(1, values.len() as i64), number(2, 7), field(8, name.as_bytes()), field(9, &content)].concat(),
        )
    }

    /// A model of version 13 with an input `x` and an output `y`.
    pub fn model(parts: &[Vec<u8>]) -> Vec<u8> {
        let graph = [parts.concat(), field(11, &field(1, b"x")), field(12, &field(1, b"y"))].concat();
        [field(8, &number(2, 13)), field(7, &graph)].concat()
    }
}

fn refusal(model: &[u8], shape: &[usize]) -> Error {
    let model = Model::parse(model).unwrap();
    plan(&model, &BTreeMap::from([("x".to_owned(), Input::Shape(shape.to_vec()))])).unwrap_err()
}

#[test]
fn errors_name_the_node_and_the_operator() {
    let check = |model: Vec<u8>, shape: &[usize], expect: &str| {
        assert_eq!(refusal(&model, shape).to_string(), expect);
    };
    let node = |operator: &str| write::model(&[write::node(operator, &["x"], &["y"], &[])]);
    check(node("Einsum"), &[1], "node \"mine\" (Einsum): not supported: there is no such operator here");
    check(node("Conv"), &[1, 1, 4, 4], "node \"mine\" (Conv): its input 1 is missing");
    let missing = write::model(&[write::node("Add", &["x", "z"], &["y"], &[])]);
    check(missing, &[1], "node \"mine\" (Add): no node before it, no input and no constant is \"z\"");
    let constants = [write::constant("s", &[3, -1]), write::node("Reshape", &["x", "s"], &["y"], &[])];
    check(write::model(&constants), &[4], "node \"mine\" (Reshape): [4] can't be [3, -1]");
    check(write::model(&[]), &[4], "value \"y\": no node has this output of the graph");
}

#[test]
fn sizes_that_a_few_bytes_ask_for_are_refused_before_they_are_taken() {
    let huge = i64::from(i32::MAX);
    let parts = [
        [write::constant("s", &[huge, huge]), write::node("Expand", &["x", "s"], &["y"], &[])],
        [write::constant("s", &[huge]), write::node("ConstantOfShape", &["s"], &["y"], &[])],
        [write::constant("s", &[0, huge]), write::node("Pad", &["x", "s"], &["y"], &[])],
        [write::constant("s", &[1 << 40]), write::node("Tile", &["x", "s"], &["y"], &[])],
    ];
    for parts in parts {
        let error = refusal(&write::model(&parts), &[1]);
        assert!(matches!(error, Error::Node { .. }), "{error}");
    }
    // Each alone is small enough; all of them are not.
    let each = limits::ELEMENTS_MAX as i64;
    let names: Vec<String> = (0..40).map(|at| format!("v{at}")).collect();
    let mut parts = vec![write::constant("s", &[each])];
    parts.extend(names.iter().map(|name| write::node("ConstantOfShape", &["s"], &[name], &[])));
    let error = refusal(&write::model(&parts), &[1]);
    assert!(matches!(error, Error::Node { fault: Fault::TooLarge(_), .. }), "{error}");
    let mut parts = vec![write::constant("s", &[each])];
    parts.extend(names.iter().map(|name| write::node("Expand", &["x", "s"], &[name], &[])));
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    parts.push(write::node("Sum", &all, &["y"], &[]));
    let error = refusal(&write::model(&parts), &[1]);
    assert!(matches!(error, Error::Graph(Fault::TooLarge(_))), "{error}");
}

#[test]
fn numbers_at_their_ends_are_refused_or_computed() {
    for value in [i64::MIN, -1, 0, i64::MAX] {
        for name in ["strides", "dilations", "pads", "kernel_shape"] {
            let list = if name == "pads" { vec![value; 4] } else { vec![value; 2] };
            let mut attributes = vec![write::ints(name, &list)];
            attributes.extend((name != "kernel_shape").then(|| write::ints("kernel_shape", &[2, 2])));
            for operator in ["MaxPool", "AveragePool"] {
                let model = write::model(&[write::node(operator, &["x"], &["y"], &attributes)]);
                let model = Model::parse(&model).unwrap();
                let shape = Input::Shape(vec![1, 1, 4, 4]);
                if let Ok(program) = plan(&model, &BTreeMap::from([("x".to_owned(), shape)])) {
                    cpu::run(&program, &[&[1.0; 16]]).unwrap();
                }
            }
        }
        for operator in ["Squeeze", "Unsqueeze", "ReduceSum", "Reshape", "Expand", "Tile", "Gather"] {
            for length in 1..4 {
                let constants = write::constant("s", &vec![value; length]);
                let model = write::model(&[constants, write::node(operator, &["x", "s"], &["y"], &[])]);
                let _ = plan(
                    &Model::parse(&model).unwrap(),
                    &BTreeMap::from([("x".to_owned(), Input::Shape(vec![2, 1, 0]))]),
                );
            }
        }
    }
}
