//! Reads the bytes of an ONNX model. Numbers of fields: `onnx.proto` of <https://github.com/onnx/onnx>.
//!
//! Only what inference needs is read. Graphs within attributes (loops, branches) are not descended into; the operators that have
//! them are refused when a model is planned.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::limits::{ATTRIBUTE_NUMBERS_MAX, CONSTANT_BYTES_MAX, MODEL_BYTES_MAX, NAMES_MAX, NODES_MAX, RANK_MAX};
use crate::tensor::{Data, Kind, Tensor, elements};
use crate::wire::{Field, Message};

#[derive(Debug, Clone)]
pub struct Model {
    /// The version of ONNX's own operators that it is written for.
    pub opset: i64,
    /// In an order in which each comes after those that it needs: ONNX demands it, planning checks it.
    pub nodes: Vec<Node>,
    /// Weights and other constants, by their names.
    pub constants: BTreeMap<String, Rc<Tensor>>,
    /// Inputs of the graph that are no constants.
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
}

#[derive(Debug, Clone)]
pub struct Declared {
    pub name: String,
    /// `TensorProto.DataType`, 0 if it is not said.
    pub kind: i64,
    /// `None` for a dimension that depends on what is given.
    pub shape: Vec<Option<usize>>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub operator: String,
    pub domain: String,
    /// An empty name stands for an input that is left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
}

#[derive(Debug, Clone)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(Rc<Tensor>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// Graphs, lists of tensors, and others that no operator here has.
    Other,
}

impl Model {
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MODEL_BYTES_MAX {
            let what = format!("{} bytes, of at most {MODEL_BYTES_MAX}", bytes.len());
            return Err(Error::Graph(Fault::TooLarge(what)));
        }
        let mut reader = Reader { constant_bytes: 0 };
        let (mut graph, mut opset) = (None, None);
        let mut message = Message::new(bytes);
        while let Some((number, field)) = message.next()? {
            match number {
                7 => graph = Some(field.bytes()?),
                8 => opset = opset_of_onnx(field.bytes()?)?.or(opset),
                _ => {}
            }
        }
        let graph = graph.ok_or(Error::Malformed { at: bytes.len(), what: "there is no graph" })?;
        reader.graph(graph, opset.unwrap_or(1))
    }
}

/// `None` if it is the version of other operators.
fn opset_of_onnx(bytes: &[u8]) -> Result<Option<i64>, Error> {
    let (mut domain, mut version) = (String::new(), None);
    let mut message = Message::new(bytes);
    while let Some((number, field)) = message.next()? {
        match number {
            1 => domain = field.text()?,
            2 => version = Some(field.integer()?),
            _ => {}
        }
    }
    Ok(version.filter(|_| matches!(domain.as_str(), "" | "ai.onnx")))
}

struct Reader {
    /// What was read so far takes about so much.
    constant_bytes: usize,
}

/// What a name, an attribute or the frame of a tensor takes at least, whatever is in it.
const ENTRY_BYTES: usize = 128;

impl Reader {
    /// A few bytes of a model may stand for many in memory: they are counted as they are read.
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.constant_bytes = self.constant_bytes.saturating_add(bytes);
        if self.constant_bytes <= CONSTANT_BYTES_MAX {
            return Ok(());
        }
        Err(Fault::TooLarge(format!("more than {CONSTANT_BYTES_MAX} bytes of names, attributes and constants")))
    }

    fn graph(&mut self, bytes: &[u8], opset: i64) -> Result<Model, Error> {
        let (inputs, outputs) = (Vec::new(), Vec::new());
        let mut model = Model { opset, nodes: Vec::new(), constants: BTreeMap::new(), inputs, outputs };
        let mut message = Message::new(bytes);
        while let Some((number, field)) = message.next()? {
            match number {
                1 => {
                    if model.nodes.len() >= NODES_MAX {
                        return Err(Error::Graph(Fault::TooLarge(format!("more than {NODES_MAX} nodes"))));
                    }
                    model.nodes.push(self.node(field.bytes()?)?);
                }
                5 => {
                    let (name, tensor) = self.tensor(field.bytes()?)?;
                    model.constants.insert(name, Rc::new(tensor));
                }
                11 | 12 => {
                    let list = if number == 11 { &mut model.inputs } else { &mut model.outputs };
                    if list.len() >= NODES_MAX {
                        return Err(Error::Graph(Fault::TooLarge(format!("more than {NODES_MAX} inputs or outputs"))));
                    }
                    list.push(declared(field.bytes()?)?);
                }
                15 => return Err(Error::Graph(Fault::Unsupported("sparse constants".into()))),
                _ => {}
            }
        }
        // Up to version 3 of the format, constants are among the inputs too.
        model.inputs.retain(|input| !model.constants.contains_key(&input.name));
        Ok(model)
    }

    fn node(&mut self, bytes: &[u8]) -> Result<Node, Error> {
        let mut node = Node {
            name: String::new(),
            operator: String::new(),
            domain: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: BTreeMap::new(),
        };
        let mut message = Message::new(bytes);
        while let Some((number, field)) = message.next()? {
            match number {
                1 | 2 if node.inputs.len() + node.outputs.len() >= NAMES_MAX => {
                    return Err(message.malformed("a node with more inputs and outputs than are allowed"));
                }
                1 | 2 => {
                    self.charge(ENTRY_BYTES).map_err(Error::Graph)?;
                    let list = if number == 1 { &mut node.inputs } else { &mut node.outputs };
                    list.push(field.text()?);
                }
                3 => node.name = field.text()?,
                4 => node.operator = field.text()?,
                5 => {
                    let (name, attribute) = self.attribute(field.bytes()?)?;
                    node.attributes.insert(name, attribute);
                }
                7 => node.domain = field.text()?,
                _ => {}
            }
        }
        Ok(node)
    }

    fn attribute(&mut self, bytes: &[u8]) -> Result<(String, Attribute), Error> {
        let (mut name, mut kind, mut guess) = (String::new(), 0, 0);
        let (mut float, mut int, mut text, mut tensor) = (0.0, 0, String::new(), None);
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        let mut message = Message::new(bytes);
        while let Some((number, field)) = message.next()? {
            // The types that these fields stand for, where a model does not say which.
            guess = match number {
                2 => 1,
                3 => 2,
                4 => 3,
                5 => 4,
                7 => 6,
                8 => 7,
                _ => guess,
            };
            match number {
                1 => name = field.text()?,
                2 => float = field.float()?,
                3 => int = field.integer()?,
                4 => text = field.text()?,
                5 => tensor = Some(self.tensor(field.bytes()?)?.1),
                7 => field.floats(&mut floats, ATTRIBUTE_NUMBERS_MAX)?,
                8 => field.integers(&mut ints, ATTRIBUTE_NUMBERS_MAX)?,
                20 => kind = field.integer()?,
                _ => {}
            }
        }
        self.charge(ENTRY_BYTES + 4 * floats.len() + 8 * ints.len()).map_err(Error::Graph)?;
        let attribute = match (if kind == 0 { guess } else { kind }, tensor) {
            (1, _) => Attribute::Float(float),
            (2, _) => Attribute::Int(int),
            (3, _) => Attribute::Text(text),
            (4, Some(tensor)) => Attribute::Tensor(Rc::new(tensor)),
            (6, _) => Attribute::Floats(floats),
            (7, _) => Attribute::Ints(ints),
            _ => Attribute::Other,
        };
        Ok((name, attribute))
    }

    fn tensor(&mut self, bytes: &[u8]) -> Result<(String, Tensor), Error> {
        let (mut name, mut shape, mut kind) = (String::new(), Vec::new(), 0);
        let mut parts = Vec::new();
        let mut message = Message::new(bytes);
        while let Some((number, field)) = message.next()? {
            match number {
                1 => field.integers(&mut shape, RANK_MAX)?,
                2 => kind = field.integer()?,
                // Lists may be long, and how many numbers belong there is known at the end.
                4 | 5 | 7 | 9 if parts.len() < NODES_MAX => parts.push((number, field)),
                4 | 5 | 7 | 9 => return Err(message.malformed("a tensor in too many parts")),
                8 => name = field.text()?,
                13 => {
                    let fault = Fault::Unsupported("weights in another file: write the model as one".into());
                    return Err(Error::Value { name, fault });
                }
                _ => {}
            }
        }
        match self.decode(kind, &shape, &parts) {
            Ok(tensor) => Ok((name, tensor?)),
            Err(fault) => Err(Error::Value { name, fault }),
        }
    }

    /// The content of a tensor: what bytes say wrongly is an error within, what they say too much of is a fault.
    fn decode(&mut self, kind: i64, shape: &[i64], parts: &[(u64, Field<'_>)]) -> Result<Result<Tensor, Error>, Fault> {
        let kind = Kind::of_onnx(kind)?;
        let dimensions: Result<Vec<usize>, _> = shape.iter().map(|dimension| usize::try_from(*dimension)).collect();
        let shape = dimensions.map_err(|_| Fault::Invalid(format!("the shape {shape:?}")))?;
        let count = elements(&shape)?;
        self.charge(ENTRY_BYTES + count * if kind == Kind::F32 { 4 } else { 8 })?;
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        for (number, field) in parts {
            let read = match (number, kind) {
                (9, _) => field.bytes().map(|bytes| match raw(kind, bytes) {
                    Data::F32(values) => floats = values,
                    Data::Int(_, values) => ints = values,
                }),
                (4, Kind::F32) => field.floats(&mut floats, count),
                (7, Kind::I64) | (5, Kind::I32 | Kind::U8 | Kind::I8 | Kind::Bool) => field.integers(&mut ints, count),
                _ => Ok(()),
            };
            if let Err(error) = read {
                return Ok(Err(error));
            }
        }
        let data = match kind {
            Kind::F32 => Data::F32(floats),
            kind => Data::Int(kind, ints.into_iter().map(|value| kind.wrap(value)).collect()),
        };
        Tensor::new(shape, data).map(Ok)
    }
}

/// Elements in little-endian order. A rest that is no whole element is left out.
pub fn raw(kind: Kind, bytes: &[u8]) -> Data {
    fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
    }
    let ints = match kind {
        Kind::F32 => return Data::F32(each(bytes, f32::from_le_bytes)),
        Kind::U8 => each(bytes, |[byte]| i64::from(byte)),
        Kind::I8 => each(bytes, |byte| i64::from(i8::from_le_bytes(byte))),
        Kind::Bool => each(bytes, |[byte]| i64::from(byte != 0)),
        Kind::I32 => each(bytes, |bytes| i64::from(i32::from_le_bytes(bytes))),
        Kind::I64 => each(bytes, i64::from_le_bytes),
    };
    Data::Int(kind, ints)
}

fn declared(bytes: &[u8]) -> Result<Declared, Error> {
    let mut declared = Declared { name: String::new(), kind: 0, shape: Vec::new() };
    let mut message = Message::new(bytes);
    while let Some((number, field)) = message.next()? {
        match number {
            1 => declared.name = field.text()?,
            2 => {
                let mut message = Message::new(field.bytes()?);
                while let Some((number, field)) = message.next()? {
                    if number == 1 {
                        tensor_type(field.bytes()?, &mut declared)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(declared)
}

fn tensor_type(bytes: &[u8], declared: &mut Declared) -> Result<(), Error> {
    let mut message = Message::new(bytes);
    while let Some((number, field)) = message.next()? {
        match number {
            1 => declared.kind = field.integer()?,
            2 => {
                let mut shape = Message::new(field.bytes()?);
                while let Some((number, field)) = shape.next()? {
                    if number == 1 {
                        if declared.shape.len() >= RANK_MAX {
                            return Err(shape.malformed("a shape of too many dimensions"));
                        }
                        declared.shape.push(dimension(field.bytes()?)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Some models write -1 for a dimension that is not known.
fn dimension(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let mut known = None;
    let mut message = Message::new(bytes);
    while let Some((number, field)) = message.next()? {
        if number == 1 {
            known = usize::try_from(field.integer()?).ok();
        }
    }
    Ok(known)
}
