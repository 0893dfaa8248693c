//! Hides 32 bits in a picture, and finds them again after JPEG and a change of size. Two models of `../training` do it: one makes of a
//! small copy of the picture and of bits a mark, which is enlarged and added; one looks for bits in a small copy of any picture.
//! What the bits are, and that there are any: [`code`].

pub mod code;
pub mod sample;

use std::collections::BTreeMap;
use std::fmt;

use onnx_engine::{Error as ModelError, Input, Model, Program, cpu, plan};
use picture::{Picture, Resampling};

pub use code::Found;

/// Pixels along the sides of what the models see, and the fewest along those of a picture that is marked.
pub const SIDE: usize = 128;

const ENCODER: &[u8] = include_bytes!("../models/encoder.onnx");
const DECODER: &[u8] = include_bytes!("../models/decoder.onnx");

#[derive(Debug)]
pub enum Error {
    /// A side of fewer pixels than [`SIDE`].
    TooSmall { width: usize, height: usize },
    /// The models that are built in can't be run.
    Model(ModelError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { width, height } => {
                write!(f, "the picture has {width} by {height} pixels: it must have at least {SIDE} by {SIDE}")
            }
            Self::Model(error) => write!(f, "the model: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// Both models, ready to run.
pub struct Watermark {
    /// Of a picture and bits.
    encoder: Program,
    /// Of a picture.
    decoder: Program,
}

impl Watermark {
    pub fn load() -> Result<Self, Error> {
        Ok(Self { encoder: program(ENCODER)?, decoder: program(DECODER)? })
    }

    /// Hide a payload in a picture. `strength` is a factor of what the models are trained for. Answers the peak signal-to-noise ratio of
    /// what is changed, in decibels: infinite where nothing is.
    pub fn mark(&self, picture: &mut Picture, payload: u32, strength: f32) -> Result<f64, Error> {
        let (width, height) = (picture.width(), picture.height());
        if width < SIDE || height < SIDE {
            return Err(Error::TooSmall { width, height });
        }
        let small = small(picture);
        let bits: Vec<f32> = code::bits(code::word(payload)).map(|is| if is { 1.0 } else { -1.0 }).collect();
        let mark = first(cpu::run(&self.encoder, &[&small, &bits])?);
        Ok(add(picture, &mark, strength))
    }

    /// Look for a payload. `None` if the picture has no mark, or one that too much has happened to.
    pub fn read(&self, picture: &Picture) -> Result<Option<Found>, Error> {
        let small = small(picture);
        Ok(code::read(&first(cpu::run(&self.decoder, &[&small])?)))
    }
}

fn program(bytes: &[u8]) -> Result<Program, Error> {
    let model = Model::parse(bytes)?;
    let shape = |shape: &[Option<usize>]| shape.iter().map(|side| side.unwrap_or(1)).collect();
    let inputs = model.inputs.iter().map(|input| (input.name.clone(), Input::Shape(shape(&input.shape))));
    let inputs: BTreeMap<String, Input> = inputs.collect();
    Ok(plan(&model, &inputs)?)
}

fn first(outputs: Vec<Vec<f32>>) -> Vec<f32> {
    outputs.into_iter().next().unwrap_or_default()
}

/// What the models see of a picture: planes of values between -1 and 1.
fn small(picture: &Picture) -> Vec<f32> {
    let planes = (0..3).flat_map(|colour| picture.plane(colour, SIDE, SIDE));
    planes.map(|value| value / 127.5 - 1.0).collect()
}

/// Adds planes of `SIDE` by `SIDE` values, enlarged to the picture, row by row.
fn add(picture: &mut Picture, mark: &[f32], strength: f32) -> f64 {
    let (width, height) = (picture.width(), picture.height());
    let across = Resampling::new(SIDE, width);
    let down = Resampling::new(SIDE, height);
    let planes: Vec<Vec<f32>> = mark.chunks_exact(SIDE * SIDE).map(|plane| across.lines(plane.to_vec())).collect();
    let mut added = vec![0.0_f32; width];
    let mut noise = 0_u64;
    for (pixels, (top, weights)) in picture.rows_mut().zip(down.taps()) {
        for (colour, plane) in planes.iter().enumerate() {
            added.fill(0.0);
            for (row, weight) in plane.chunks_exact(width).skip(top).zip(weights) {
                added.iter_mut().zip(row).for_each(|(sum, value)| *sum += strength * weight * value);
            }
            let values = pixels.iter_mut().filter_map(|pixel| pixel.get_mut(colour));
            for (value, added) in values.zip(&added) {
                // What is no number becomes 0, what does not fit the nearest that does.
                let marked = (f32::from(*value) + added).round() as u8;
                noise += u64::from(marked.abs_diff(*value)).pow(2);
                *value = marked;
            }
        }
    }
    10.0 * (255.0_f64.powi(2) * (3 * width * height) as f64 / noise as f64).log10()
}
