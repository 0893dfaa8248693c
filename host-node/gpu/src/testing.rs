//! What must hold for any shader, whoever wrote it: for the tests of this crate, and for fuzzing (`fuzz/`).

use crate::guard::{check_module, check_source};
use std::thread;

/// A quarter of what a device's thread has.
const STACK_BYTES: usize = 16 << 20;

/// Good examples.
pub const SHADERS: &[&str] = &[
    "@group(0) @binding(0) var<storage, read_write> data: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&data) { data[id.x] = data[id.x] * 2u + 1u; }
}",
    "struct Sizes { rows: u32, columns: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> sum: array<f32>;
var<workgroup> tile: array<f32, 64>;
@compute @workgroup_size(8, 8) fn main(@builtin(local_invocation_index) at: u32) {
    var total = 0.0;
    for (var i = 0u; i < sizes.rows; i++) { total += a[i * sizes.columns + at]; }
    tile[at] = total;
    workgroupBarrier();
    loop { if at == 0u { break; } continuing { break if true; } }
    switch at { case 0u, 1u: { sum[at] = tile[at]; } default: { sum[at] = -tile[at]; } }
}",
    "override N: u32 = 4; alias V = vec4<f32>;
@group(0) @binding(0) var picture: texture_2d<f32>; @group(0) @binding(1) var how: sampler;
@vertex fn v(@builtin(vertex_index) i: u32) -> @builtin(position) V { return V(f32(i), select(0.0, 1.0, i > 1u), 0.0, 1.0); }
@fragment fn f(@location(0) at: vec2<f32>) -> @location(0) V { return textureSample(picture, how, at); }",
];

/// What the guard lets through, naga reads and judges on a small stack, and the guard judges what it read. Panics where
/// something does not hold; an overflow of the stack is the end of the process.
pub fn check_shader(input: &[u8]) {
    let source = String::from_utf8_lossy(input).into_owned();
    if check_source(&source).is_err() {
        return;
    }
    let judge = move || {
        let Ok(module) = wgpu::naga::front::wgsl::parse_str(&source) else { return };
        let _ = check_module(&module, 16 << 10);
        let flags = wgpu::naga::valid::ValidationFlags::all();
        let all = wgpu::naga::valid::Capabilities::all();
        let _ = wgpu::naga::valid::Validator::new(flags, all).validate(&module);
    };
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(judge);
    let judged = thread.map(thread::JoinHandle::join);
    assert!(matches!(judged, Ok(Ok(()))), "naga did not bear it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{ELSE_IFS_MAX, OPERATORS_MAX};
    use proptest::prelude::*;

    fn chain(link: &str, links: usize, tail: &str) -> String {
        format!("fn f(x: u32, b: bool) -> u32 {{ var p = x; var q = b; {} {tail} return p; }}", link.repeat(links))
    }

    #[test]
    fn good_examples_are_good() {
        for shader in SHADERS {
            assert!(check_source(shader).is_ok() && wgpu::naga::front::wgsl::parse_str(shader).is_ok(), "{shader}");
            check_shader(shader.as_bytes());
        }
    }

    /// The longest chains that pass, of every kind.
    #[test]
    fn what_passes_fits_the_stack() {
        let most = OPERATORS_MAX - 8;
        for (head, link, tail) in [
            ("p = ", "x + ", "x;"),
            ("q = ", "b && ", "b;"),
            ("p = ", "1u + ", "1u;"),
            ("p = u32(", "-", "1i);"),
            ("q = ", "!", "b;"),
            ("p = ", "~", "x;"),
        ] {
            let expression = format!("{head}{}", link.repeat(most));
            check_shader(chain(&expression, 1, tail).as_bytes());
        }
        let else_ifs = format!("if b {{}} {}", "else if b {} ".repeat(ELSE_IFS_MAX - 1));
        check_shader(chain(&else_ifs, 1, "").as_bytes());
        // Both of them together.
        let last = format!("else if {}b {{}}", "b && ".repeat(most));
        check_shader(chain(&format!("{else_ifs} {last}"), 1, "").as_bytes());
    }

    const WORDS: [&str; 36] = [
        "fn f(x: u32) -> u32 {",
        "}",
        "return",
        "x",
        ";",
        "var p = ",
        "1u",
        "1.5",
        "+",
        "-",
        "*",
        "&&",
        "!",
        "(",
        ")",
        "[",
        "]",
        "{",
        "if x == 1u {",
        "} else if x == 2u {",
        "} else {",
        "for (var i = 0u; i < 4u; i++) {",
        "loop {",
        "break;",
        "array<u32, 8>",
        "vec4<f32>",
        "(1, 2, 3, 4)",
        ".x",
        "<",
        ">",
        ",",
        "var<private> g: u32;",
        "var<workgroup> w: u32;",
        "@compute @workgroup_size(1) fn main() {",
        "f(x)",
        "/*",
    ];

    /// The same file is the component `gpu-matmul`, where the instance is that of `wasi-wgpu`.
    #[test]
    fn the_code_of_a_guest_runs_natively() {
        use crate::{inventory, matmul};
        if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
            eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
            return;
        }
        let (a, b) = (matmul::example(100, 1), matmul::example(100, 5));
        let product = inventory::now(matmul::on_gpu(&inventory::instance(), 100, &a, &b)).flatten().unwrap();
        assert_eq!(product, matmul::on_cpu(100, &a, &b));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_words_are_borne(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..300)) {
            check_shader(words.join(" ").as_bytes());
        }

        #[test]
        fn words_again_and_again_are_borne(
            words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 1..4),
            times in 0_usize..3_000,
        ) {
            let words = words.join(" ");
            check_shader(format!("fn f(x: u32) -> u32 {{ return {} x; }}", words.repeat(times)).as_bytes());
        }
    }
}
