//! Models behind HTTP. They are objects of the container `models`, by whatever name; the last one is kept between requests.
//!
//! | request                       | answer                                                                                   |
//! |-------------------------------|------------------------------------------------------------------------------------------|
//! | `GET /NAME`                   | the model's inputs, outputs and operators, and those that are not supported, as JSON       |
//! | `POST /NAME`, `.npy`          | the outputs as `.npy`; several inputs, and several outputs, are one after the other         |
//! | `POST /NAME`, a JPEG or a PNG | what a model that takes one picture says of it, as JSON; see [`picture`]                   |
//!
//! `?on=cpu` names the executor, where there is a choice; the header `x-executor` says which it was, `x-milliseconds` how long it
//! computed. Errors are 400 for what was sent, 404 where there is no such model, 422 for a model that can't be run, 500 for an
//! executor that failed, with a text.

mod json;
mod picture;
mod store;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use onnx_engine::{Error, Executor, Input, Model, Program, Tensor, limits, npy, plan};
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Tensors of a request.
const TENSORS_MAX: usize = 16;
const CHUNK_BYTES: usize = 64 << 10;

/// What is kept of the last model.
struct Loaded {
    version: store::Version,
    model: Model,
    /// The last program, and the shapes of the inputs that it is for.
    program: RefCell<Option<(Shapes, Rc<Program>)>>,
}

/// Of each input.
type Shapes = Vec<Vec<usize>>;

thread_local! {
    static LOADED: RefCell<Option<Rc<Loaded>>> = const { RefCell::new(None) };
}

struct Answer {
    kind: &'static str,
    body: Vec<u8>,
    /// Which executor, and for how many milliseconds.
    computed: Option<(&'static str, f64)>,
}

/// A status and a text.
type Refusal = (u16, String);

/// Answer a request; `choose` makes the executor that is asked for by its name.
pub async fn handle<X: Executor>(
    request: Request,
    choose: impl AsyncFnOnce(Option<&str>) -> Result<X, String>,
) -> Result<Response, ErrorCode> {
    let (status, answer) = match answer(request, choose).await {
        Ok(answer) => (200, answer),
        Err((status, text)) => {
            (status, Answer { kind: "text/plain", body: format!("{text}\n").into_bytes(), computed: None })
        }
    };
    let headers = Fields::new();
    let _ = headers.set("content-type", &[answer.kind.as_bytes().to_vec()]);
    if let Some((executor, milliseconds)) = answer.computed {
        let _ = headers.set("x-executor", &[executor.as_bytes().to_vec()]);
        let _ = headers.set("x-milliseconds", &[format!("{milliseconds:.1}").into_bytes()]);
    }
    let (mut writer, body) = wit_stream::new();
    spawn_local(async move {
        writer.write_all(answer.body).await;
    });
    let (_none, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    // Every status below 1000 is one.
    let _ = response.set_status_code(status);
    Ok(response)
}

async fn answer<X: Executor>(
    request: Request,
    choose: impl AsyncFnOnce(Option<&str>) -> Result<X, String>,
) -> Result<Answer, Refusal> {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let name = path.trim_start_matches('/');
    if name.is_empty() {
        return Err((404, "the path is the name of a model in the container \"models\"".into()));
    }
    match request.get_method() {
        Method::Get => {
            let body = json::describe(&load(name)?.model).into_bytes();
            Ok(Answer { kind: "application/json", body, computed: None })
        }
        Method::Post => {
            let kind = request.get_headers().get("content-type");
            let is_picture = kind.first().is_some_and(|kind| kind.starts_with(b"image/"));
            let body = body(request).await?;
            let loaded = load(name)?;
            let inputs = if is_picture {
                vec![picture::tensor(&body, &query, loaded.model.inputs.first()).map_err(|text| (400, text))?]
            } else {
                npy::read_all(&body, TENSORS_MAX).map_err(|fault| (400, fault.to_string()))?
            };
            drop(body);
            let executor = choose(query.get("on").copied()).await.map_err(|text| (500, text))?;
            run(&loaded, inputs, executor, is_picture).await
        }
        _ => Err((405, "GET or POST".into())),
    }
}

async fn run(
    loaded: &Loaded,
    inputs: Vec<Tensor>,
    mut executor: impl Executor,
    as_json: bool,
) -> Result<Answer, Refusal> {
    let program = program(loaded, &inputs)?;
    let values: Vec<&[f32]> = inputs.iter().filter_map(Tensor::as_floats).collect();
    let begin = Instant::now();
    let computed = executor.run(&program, &values).await.map_err(|error| (500, error.to_string()))?;
    let computed_by = Some((executor.name(), begin.elapsed().as_secs_f64() * 1e3));
    let outputs = program.tensors(computed).map_err(|fault| (500, fault.to_string()))?;
    Ok(if as_json {
        Answer { kind: "application/json", body: json::outputs(&outputs).into_bytes(), computed: computed_by }
    } else {
        let body = outputs.iter().flat_map(|(_, tensor)| npy::write(tensor)).collect();
        Answer { kind: "application/octet-stream", body, computed: computed_by }
    })
}

/// Inputs are given in the order in which the model declares them.
fn program(loaded: &Loaded, inputs: &[Tensor]) -> Result<Rc<Program>, Refusal> {
    let declared = &loaded.model.inputs;
    if declared.len() != inputs.len() {
        let names: Vec<&str> = declared.iter().map(|input| input.name.as_str()).collect();
        return Err((
            400,
            format!("the model has {} inputs ({}), not {}", names.len(), names.join(", "), inputs.len()),
        ));
    }
    let shapes: Shapes = inputs.iter().map(|input| input.shape().to_vec()).collect();
    // What depends on integers is planned for these alone.
    let is_shape_alone = inputs.iter().all(|input| input.as_floats().is_some());
    if let Some((known, program)) = &*loaded.program.borrow()
        && is_shape_alone
        && *known == shapes
    {
        return Ok(program.clone());
    }
    let given = declared.iter().zip(inputs).map(|(declared, tensor)| {
        let input = match tensor.as_floats() {
            Some(_) => Input::Shape(tensor.shape().to_vec()),
            None => Input::Known(tensor.clone()),
        };
        (declared.name.clone(), input)
    });
    let program = plan(&loaded.model, &given.collect()).map_err(|error| match &error {
        Error::Value { .. } => (400, error.to_string()),
        _ => (422, error.to_string()),
    })?;
    let program = Rc::new(program);
    if is_shape_alone {
        *loaded.program.borrow_mut() = Some((shapes, program.clone()));
    }
    Ok(program)
}

/// The model of this name, from the store if it is not the last one, or has changed.
fn load(name: &str) -> Result<Rc<Loaded>, Refusal> {
    let version = store::version(name)?;
    let kept = LOADED.with_borrow(|loaded| loaded.clone().filter(|loaded| loaded.version == version));
    if let Some(loaded) = kept {
        return Ok(loaded);
    }
    // The one before makes room first.
    LOADED.with_borrow_mut(Option::take);
    let bytes = store::read(&version, limits::MODEL_BYTES_MAX)?;
    let model = Model::parse(&bytes).map_err(|error| (422, error.to_string()))?;
    let loaded = Rc::new(Loaded { version, model, program: RefCell::new(None) });
    LOADED.with_borrow_mut(|place| *place = Some(loaded.clone()));
    Ok(loaded)
}

async fn body(request: Request) -> Result<Vec<u8>, Refusal> {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(CHUNK_BYTES)).await;
        if whole.len() + chunk.len() > BODY_BYTES_MAX {
            return Err((413, format!("a body has at most {BODY_BYTES_MAX} bytes")));
        }
        whole.extend(chunk);
        if matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return Ok(whole);
        }
    }
}
