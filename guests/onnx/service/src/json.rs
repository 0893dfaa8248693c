//! What is answered as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use onnx_engine::{Data, Model, Tensor};

/// Values of an output that are shown.
const VALUES_MAX: usize = 1_000;

pub fn describe(model: &Model) -> String {
    let declared = |list: &[onnx_engine::model::Declared]| {
        let one = |value: &onnx_engine::model::Declared| {
            let dimension = |side: &Option<usize>| side.map_or("null".to_owned(), |side| side.to_string());
            let shape: Vec<String> = value.shape.iter().map(dimension).collect();
            format!("{{\"name\":{},\"shape\":[{}]}}", text(&value.name), shape.join(","))
        };
        list.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    model.nodes.iter().for_each(|node| *operators.entry(&node.operator).or_default() += 1);
    let is_unknown = |operator: &&&str| !onnx_engine::plan::is_supported(operator);
    let unknown: Vec<String> = operators.keys().filter(is_unknown).map(|operator| text(operator)).collect();
    let counts: Vec<String> = operators.iter().map(|(operator, count)| format!("{}:{count}", text(operator))).collect();
    format!(
        "{{\"opset\":{},\"inputs\":[{}],\"outputs\":[{}],\"operators\":{{{}}},\"not-supported\":[{}]}}\n",
        model.opset,
        declared(&model.inputs),
        declared(&model.outputs),
        counts.join(","),
        unknown.join(",")
    )
}

/// The beginning of each output, and for those of one line which of its values is the largest.
pub fn outputs(outputs: &[(String, Tensor)]) -> String {
    let one = |(name, tensor): &(String, Tensor)| {
        let values: Vec<String> = match tensor.data() {
            Data::F32(values) => values.iter().take(VALUES_MAX).map(|value| number(*value)).collect(),
            Data::Int(_, values) => values.iter().take(VALUES_MAX).map(i64::to_string).collect(),
        };
        let best = tensor.as_floats().and_then(|values| {
            values.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
        });
        let best = best.map_or("null".to_owned(), |best| best.to_string());
        let (name, shape) = (text(name), tensor.shape());
        format!("{{\"name\":{name},\"shape\":{shape:?},\"best\":{best},\"values\":[{}]}}", values.join(","))
    };
    format!("{{\"outputs\":[{}]}}\n", outputs.iter().map(one).collect::<Vec<_>>().join(","))
}

/// JSON has no infinities.
fn number(value: f32) -> String {
    if value.is_finite() { value.to_string() } else { "null".to_owned() }
}

fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_infinities_are_null() {
        assert_eq!(text("a\"\\\n"), "\"a\\\"\\\\\\u000a\"");
        let tensor = Tensor::floats(vec![1, 3], vec![0.5, f32::INFINITY, -1.0]).unwrap();
        let expected = "{\"outputs\":[{\"name\":\"y\",\"shape\":[1, 3],\"best\":1,\"values\":[0.5,null,-1]}]}\n";
        assert_eq!(outputs(&[("y".to_owned(), tensor)]), expected);
    }
}
