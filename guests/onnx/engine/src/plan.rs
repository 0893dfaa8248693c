//! From a model and the shapes of its inputs to a program.
//!
//! Goes through the nodes once. A value is known (constants, integers, and what follows from them alone) or a slot with a shape; each
//! operator in [`operators`] makes outputs of its inputs, by computing what is known and by emitting steps for the rest.

mod elementwise;
mod fuse;
mod integers;
mod matrix;
mod movement;
mod operators;
mod reshape;
mod resize;
mod window;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::cpu;
use crate::error::{Error, Fault, ensure};
use crate::kernel::{Kernel, Walk};
use crate::limits::{CONSTANT_BYTES_MAX, INTEGERS_MAX, NODES_MAX};
use crate::model::{Attribute, Model, Node};
use crate::program::{Output, OutputValue, Program, Slot, SlotId, Step};
use crate::tensor::{Data, Kind, Tensor, elements};

pub use operators::is_supported;

/// What is said of an input when a model is planned.
#[derive(Debug, Clone)]
pub enum Input {
    /// Floats of this shape, given when the program runs.
    Shape(Vec<usize>),
    /// Its value: for integers, which programs don't compute with.
    Known(Tensor),
}

/// What a name in the graph stands for.
#[derive(Debug, Clone)]
enum Value {
    Known(Rc<Tensor>),
    Slot { id: SlotId, shape: Vec<usize> },
}

impl Value {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Known(tensor) => tensor.shape(),
            Self::Slot { shape, .. } => shape,
        }
    }

    fn known(tensor: Tensor) -> Self {
        Self::Known(Rc::new(tensor))
    }
}

/// Plan a model for inputs by their names. Each input of the model must be there.
pub fn plan(model: &Model, inputs: &BTreeMap<String, Input>) -> Result<Program, Error> {
    let mut planner = Planner { program: Program::default(), constants: BTreeMap::new(), known_bytes: 0 };
    let mut values: BTreeMap<&str, Value> = BTreeMap::new();
    for (name, tensor) in &model.constants {
        values.insert(name, Value::Known(tensor.clone()));
    }
    if let Some(name) = inputs.keys().find(|name| model.inputs.iter().all(|input| input.name != **name)) {
        let fault = Fault::Invalid("the model has no input of this name".into());
        return Err(Error::Value { name: name.clone(), fault });
    }
    for declared in &model.inputs {
        let at = |fault| Error::Value { name: declared.name.clone(), fault };
        let input = inputs.get(&declared.name).ok_or_else(|| at(Fault::Invalid("this input is not given".into())))?;
        let value = planner.input(input, &declared.shape, declared.kind).map_err(at)?;
        values.insert(&declared.name, value);
    }
    for (index, node) in model.nodes.iter().enumerate() {
        let at = |fault| {
            let name = if node.name.is_empty() { node.outputs.first() } else { Some(&node.name) };
            Error::Node { node: name.cloned().unwrap_or_default(), operator: node.operator.clone(), fault }
        };
        let outputs = planner.node(model.opset, index, node, &values).map_err(at)?;
        for (name, value) in node.outputs.iter().zip(outputs) {
            if !name.is_empty() && values.insert(name, value).is_some() {
                return Err(at(Fault::Invalid(format!("its output {name:?} is there already"))));
            }
        }
    }
    let mut program = planner.program;
    for declared in &model.outputs {
        let at = |what: &str| Error::Value { name: declared.name.clone(), fault: Fault::Invalid(what.into()) };
        let value = values.get(declared.name.as_str()).ok_or_else(|| at("no node has this output of the graph"))?;
        let shape = value.shape().to_vec();
        let value = match value {
            Value::Known(tensor) => OutputValue::Known(tensor.clone()),
            Value::Slot { id, .. } => OutputValue::Slot(*id),
        };
        program.outputs.push(Output { name: declared.name.clone(), shape, value });
    }
    fuse::fuse(&mut program);
    program.finish().map_err(Error::Graph)?;
    Ok(program)
}

struct Planner {
    program: Program,
    /// Slots of constants that steps use, by where they are in memory: the slots keep them there.
    constants: BTreeMap<*const Tensor, SlotId>,
    /// Of what was computed while planning.
    known_bytes: usize,
}

impl Planner {
    fn input(&mut self, input: &Input, declared: &[Option<usize>], kind: i64) -> Result<Value, Fault> {
        let (shape, given) = match input {
            Input::Shape(shape) => (shape.as_slice(), Kind::F32),
            Input::Known(tensor) => (tensor.shape(), tensor.kind()),
        };
        if kind != 0 {
            let declared = Kind::of_onnx(kind)?;
            ensure(given == declared, || format!("it is {given:?}, and the model wants {declared:?}"))?;
        }
        let fits = declared.is_empty()
            || declared.len() == shape.len()
                && declared
                    .iter()
                    .zip(shape)
                    .all(|(declared, given)| declared.is_none_or(|declared| declared == *given));
        ensure(fits, || {
            let dimension = |dimension: &Option<usize>| dimension.map_or("?".to_owned(), |known| known.to_string());
            let declared: Vec<String> = declared.iter().map(dimension).collect();
            format!("its shape is {shape:?}, and the model wants [{}]", declared.join(", "))
        })?;
        match input {
            Input::Known(tensor) => Ok(Value::known(tensor.clone())),
            Input::Shape(shape) => {
                let id = self.slot(elements(shape)?, None);
                self.program.inputs.push(id);
                Ok(Value::Slot { id, shape: shape.clone() })
            }
        }
    }

    fn slot(&mut self, length: usize, constant: Option<Rc<Tensor>>) -> SlotId {
        self.program.slots.push(Slot { length, constant });
        self.program.slots.len() - 1
    }

    fn node(
        &mut self,
        opset: i64,
        index: usize,
        node: &Node,
        values: &BTreeMap<&str, Value>,
    ) -> Result<Vec<Value>, Fault> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(Fault::Unsupported(format!("operators of the domain {:?}", node.domain)));
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(values.get(name).cloned().ok_or_else(|| {
                    Fault::Invalid(format!("no node before it, no input and no constant is {name:?}"))
                })?),
            });
        }
        let is_known = inputs.iter().flatten().all(|value| matches!(value, Value::Known(_)));
        let (steps, slots) = (self.program.steps.len(), self.program.slots.len());
        let mut cx = Cx { node, index, opset, inputs, planner: self };
        let mut outputs = operators::plan(&mut cx)?;
        if let Some(name) = node.outputs.iter().skip(outputs.len()).find(|name| !name.is_empty()) {
            return Err(Fault::Unsupported(format!("its output {name:?}")));
        }
        if is_known {
            self.fold(steps, slots, &mut outputs)?;
        }
        Ok(outputs)
    }

    /// Computes what a node of known inputs emitted, and forgets the steps.
    fn fold(&mut self, steps: usize, slots: usize, outputs: &mut [Value]) -> Result<(), Fault> {
        let emitted = self.program.steps.split_off(steps);
        let added = self.program.slots.iter().skip(slots).filter(|slot| slot.constant.is_none());
        let bytes = added.fold(0_usize, |sum, slot| sum.saturating_add(slot.length * 4));
        self.remember(bytes)?;
        let kept = outputs.iter().filter_map(|value| match value {
            Value::Slot { id, .. } => Some(*id),
            Value::Known(_) => None,
        });
        let mut computed = cpu::steps(&self.program.slots, &emitted, &[], &kept.collect::<Vec<_>>())?.into_iter();
        for value in outputs {
            if let Value::Slot { shape, .. } = value {
                *value = Value::known(Tensor::floats(shape.clone(), computed.next().unwrap_or_default())?);
            }
        }
        self.program.slots.truncate(slots);
        self.constants.retain(|_, slot| *slot < slots);
        Ok(())
    }

    /// Counts what is about to be computed while planning.
    fn remember(&mut self, bytes: usize) -> Result<(), Fault> {
        self.known_bytes = self.known_bytes.saturating_add(bytes);
        if self.known_bytes <= CONSTANT_BYTES_MAX {
            return Ok(());
        }
        Err(Fault::TooLarge(format!("constants that take more than {CONSTANT_BYTES_MAX} bytes to compute")))
    }
}

/// One node that is being planned.
struct Cx<'a> {
    node: &'a Node,
    index: usize,
    opset: i64,
    inputs: Vec<Option<Value>>,
    planner: &'a mut Planner,
}

impl<'a> Cx<'a> {
    fn optional(&self, at: usize) -> Option<Value> {
        self.inputs.get(at).cloned().flatten()
    }

    fn input(&self, at: usize) -> Result<Value, Fault> {
        self.optional(at).ok_or_else(|| Fault::Invalid(format!("its input {at} is missing")))
    }

    /// An input of integers, which must be known. `None` if it is left out.
    fn optional_ints(&self, at: usize) -> Result<Option<Vec<i64>>, Fault> {
        let Some(value) = self.optional(at) else { return Ok(None) };
        let Value::Known(tensor) = &value else {
            return Err(Fault::Unsupported(format!(
                "its input {at} is computed from values; only shapes and constants can be there"
            )));
        };
        let ints = tensor.as_ints().ok_or_else(|| Fault::Invalid(format!("its input {at} must be integers")))?;
        Ok(Some(ints.to_vec()))
    }

    fn ints(&self, at: usize) -> Result<Vec<i64>, Fault> {
        self.optional_ints(at)?.ok_or_else(|| Fault::Invalid(format!("its input {at} is missing")))
    }

    /// An input of floats that must be known. `None` if it is left out.
    fn optional_floats(&self, at: usize) -> Result<Option<Vec<f32>>, Fault> {
        let Some(value) = self.optional(at) else { return Ok(None) };
        let Value::Known(tensor) = &value else {
            return Err(Fault::Unsupported(format!("its input {at} is computed from values; it must be a constant")));
        };
        let floats = tensor.as_floats().ok_or_else(|| Fault::Invalid(format!("its input {at} must be floats")))?;
        Ok(Some(floats.to_vec()))
    }

    /// One float that may be left out.
    fn scalar(&self, at: usize, default: f32) -> Result<f32, Fault> {
        match self.optional_floats(at)?.as_deref() {
            None => Ok(default),
            Some([value]) => Ok(*value),
            Some(_) => Err(Fault::Invalid(format!("its input {at} must be one number"))),
        }
    }

    fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attributes.get(name)
    }

    fn wrong(name: &str) -> Fault {
        Fault::Invalid(format!("its attribute {name:?} is of another type"))
    }

    fn int(&self, name: &str, default: i64) -> Result<i64, Fault> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, Fault> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    fn text(&self, name: &str, default: &'a str) -> Result<&'a str, Fault> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::Text(value)) => Ok(value),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    fn list(&self, name: &str) -> Result<Option<&'a [i64]>, Fault> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// A slot with the floats of a value, and their shape.
    fn floats(&mut self, value: &Value) -> Result<(SlotId, Vec<usize>), Fault> {
        match value {
            Value::Slot { id, shape } => Ok((*id, shape.clone())),
            Value::Known(tensor) if tensor.kind() == Kind::F32 => {
                let found = self.planner.constants.get(&Rc::as_ptr(tensor)).copied();
                let id = found.unwrap_or_else(|| {
                    let length = tensor.as_floats().map_or(0, <[f32]>::len);
                    let id = self.planner.slot(length, Some(tensor.clone()));
                    self.planner.constants.insert(Rc::as_ptr(tensor), id);
                    id
                });
                Ok((id, tensor.shape().to_vec()))
            }
            Value::Known(tensor) => Err(Fault::Unsupported(format!("computing with {:?}", tensor.kind()))),
        }
    }

    fn input_floats(&mut self, at: usize) -> Result<(SlotId, Vec<usize>), Fault> {
        let value = self.input(at)?;
        self.floats(&value)
    }

    /// A slot of this shape that the next steps write.
    fn output(&mut self, shape: &[usize]) -> Result<SlotId, Fault> {
        let length = elements(shape)?;
        Ok(self.planner.slot(length, None))
    }

    /// A step into such a slot.
    fn step(&mut self, kernel: Kernel, inputs: &[SlotId], output: SlotId) -> Result<(), Fault> {
        if self.planner.program.steps.len() >= NODES_MAX {
            return Err(Fault::TooLarge(format!("more than {NODES_MAX} steps")));
        }
        let length = |slot: Option<&SlotId>| {
            slot.and_then(|slot| self.planner.program.slots.get(*slot)).map_or(0, |slot| slot.length)
        };
        let fits = match &kernel {
            Kernel::Binary { walk, .. } => walk.fits([0; 2], [length(inputs.first()), length(inputs.get(1))]),
            Kernel::Copy { walk, from, to } => walk.fits([*from, *to], [length(inputs.first()), length(Some(&output))]),
            _ => true,
        };
        ensure(fits, || format!("a {} beyond its tensor", kernel.name()))?;
        // What computes nothing is no step: sizes in kernels are never 0.
        if length(Some(&output)) > 0 {
            let step = Step { node: self.index, kernel, inputs: inputs.to_vec(), output, frees: Vec::new() };
            self.planner.program.steps.push(step);
        }
        Ok(())
    }

    /// One step that writes all of a value.
    fn emit(&mut self, kernel: Kernel, inputs: &[SlotId], shape: Vec<usize>) -> Result<Value, Fault> {
        let id = self.output(&shape)?;
        self.step(kernel, inputs, id)?;
        Ok(Value::Slot { id, shape })
    }

    /// A value that is put together of parts of others, over `fill` where no part is. All are floats, or all are known integers.
    fn assemble(&mut self, shape: Vec<usize>, fill: Option<f32>, parts: &[Part]) -> Result<Value, Fault> {
        let count = elements(&shape)?;
        let ints: Option<Vec<&Rc<Tensor>>> = parts.iter().map(|part| part.known_ints()).collect();
        if let Some(tensors) = ints.filter(|tensors| !tensors.is_empty()) {
            ensure(count <= INTEGERS_MAX, || format!("{count} integers, of at most {INTEGERS_MAX}"))?;
            self.planner.remember(count * 8)?;
            #[allow(clippy::cast_possible_truncation, reason = "padding of integers is one")]
            let mut values = vec![fill.unwrap_or(0.0) as i64; count];
            let mut kind = Kind::I64;
            for (part, tensor) in parts.iter().zip(tensors) {
                let from = tensor.as_ints().unwrap_or_default();
                ensure(part.walk.fits([part.from, part.to], [from.len(), count]), || {
                    "a part beyond its tensor".into()
                })?;
                cpu::copy(&part.walk, part.from, part.to, from, &mut values);
                kind = tensor.kind();
            }
            return Ok(Value::known(Tensor::new(shape, Data::Int(kind, values))?));
        }
        let output = self.output(&shape)?;
        if let Some(value) = fill {
            self.step(Kernel::Fill(value), &[], output)?;
        }
        for part in parts {
            let (from, _) = self.floats(&part.value)?;
            let kernel = Kernel::Copy { walk: part.walk.clone(), from: part.from, to: part.to };
            if part.walk.count() > 0 {
                self.step(kernel, &[from], output)?;
            }
        }
        Ok(Value::Slot { id: output, shape })
    }
}

/// Elements of a value that go to another one.
struct Part {
    value: Value,
    walk: Walk<2>,
    from: usize,
    to: usize,
}

impl Part {
    fn known_ints(&self) -> Option<&Rc<Tensor>> {
        match &self.value {
            Value::Known(tensor) if tensor.kind() != Kind::F32 => Some(tensor),
            _ => None,
        }
    }
}
