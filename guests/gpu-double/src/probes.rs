//! What a guest should not do: mistakes that developers make, and what an attacker would try. Each answers what it was told,
//! in one line.

use crate::work::*;

pub async fn run(name: &str) -> Result<String, String> {
    let work = Work::open().await?;
    work.device.push_error_scope(GpuErrorFilter::OutOfMemory);
    work.device.push_error_scope(GpuErrorFilter::Validation);
    let told = match name {
        "labels" => labels(&work).await,
        "lost" => {
            // Nobody waits for it.
            let _lost = work.device.lost();
            "a future".into()
        }
        "typo-info" => {
            let info = work.module("fn f() { return 1 +; }").get_compilation_info().await;
            let lines: Vec<u64> = info.messages().iter().map(GpuCompilationMessage::line_num).collect();
            format!("{} message on line {lines:?}", lines.len())
        }
        "typo" => compute(&work, "fn f() { return 1 +; }"),
        "getters" => getters(&work),
        "submit-twice" => {
            let commands = work.encoder().finish(None);
            work.queue.submit(&[&commands]);
            work.queue.submit(&[&commands]);
            String::new()
        }
        "end-twice" => {
            let encoder = work.encoder();
            let pass = encoder.begin_compute_pass(None);
            pass.end();
            pass.end();
            work.submit(&encoder);
            String::new()
        }
        "finish-twice" => {
            let encoder = work.encoder();
            let (_one, _two) = (encoder.finish(None), encoder.finish(None));
            encoder.push_debug_group("late");
            String::new()
        }
        "open-pass" => {
            let encoder = work.encoder();
            let _pass = encoder.begin_compute_pass(None);
            work.submit(&encoder);
            String::new()
        }
        "read-unmapped" => {
            let buffer = work.buffer(16, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
            refusal(buffer.get_mapped_range_get_with_copy(None, None).map_err(|error| error.message))
        }
        "map-storage" => {
            let buffer = work.buffer(16, GpuBufferUsage::STORAGE);
            refusal(buffer.map_async(GpuMapMode::READ, None, None).await.map_err(|error| error.message))
        }
        "map-twice" => {
            let buffer = work.buffer(16, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
            let first = buffer.map_async(GpuMapMode::READ, None, None).await.is_ok();
            let second = refusal(buffer.map_async(GpuMapMode::READ, None, None).await.map_err(|error| error.message));
            format!("{first} {second}")
        }
        "map-beyond" => {
            let buffer = work.buffer(16, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
            refusal(
                buffer.map_async(GpuMapMode::READ, Some(8), Some(u64::MAX - 7)).await.map_err(|error| error.message),
            )
        }
        "write-offset" => {
            let buffer = work.buffer(16, GpuBufferUsage::COPY_DST);
            let written = work.queue.write_buffer_with_copy(&buffer, 0, &[0; 8], Some(12), None);
            refusal(written.map_err(|error| error.message))
        }
        "write-past-end" => {
            let buffer = work.buffer(16, GpuBufferUsage::COPY_DST);
            let written = work.queue.write_buffer_with_copy(&buffer, 12, &[0; 8], None, None);
            format!("{}", written.is_ok())
        }
        "set-too-much" => {
            let descriptor = GpuBufferDescriptor {
                size: 8,
                usage: GpuBufferUsage::COPY_SRC,
                mapped_at_creation: Some(true),
                label: None,
            };
            let buffer = work.device.create_buffer(&descriptor);
            let too_much = buffer.get_mapped_range_set_with_copy(&[0; 12], None, None).map_err(|error| error.message);
            let odd = buffer.get_mapped_range_set_with_copy(&[0; 3], Some(0), Some(4)).map_err(|error| error.message);
            format!("{} {}", refusal(too_much), refusal(odd))
        }
        "unknown-limit" => {
            let limits = RecordOptionGpuSize64::new();
            limits.add("nope", Some(1));
            device_with(limits).await
        }
        "huge-limit" => {
            let limits = RecordOptionGpuSize64::new();
            limits.add("maxBindGroups", Some(u64::MAX));
            device_with(limits).await
        }
        "astc" => {
            let _texture = work.texture(12, 12, GpuTextureFormat::Astc12x12UnormSrgb, GpuTextureUsage::TEXTURE_BINDING);
            String::new()
        }
        "huge-texture" => {
            let _texture = work.texture(u32::MAX, u32::MAX, GpuTextureFormat::Rgba32float, GpuTextureUsage::COPY_DST);
            String::new()
        }
        "empty-entry" => {
            let entry = GpuBindGroupLayoutEntry {
                binding: 0,
                visibility: GpuShaderStage::COMPUTE,
                buffer: None,
                sampler: None,
                texture: None,
                storage_texture: None,
            };
            let descriptor = GpuBindGroupLayoutDescriptor { entries: vec![entry], label: None };
            let _layout = work.device.create_bind_group_layout(&descriptor);
            String::new()
        }
        "work-done" => {
            work.queue.on_submitted_work_done().await;
            work.submit(&work.encoder());
            work.queue.on_submitted_work_done().await;
            "done".into()
        }
        "parens" => {
            compute(&work, &format!("fn f() -> u32 {{ return {}1u{}; }}", "(".repeat(20_000), ")".repeat(20_000)))
        }
        "types" => compute(&work, &format!("var<private> a: {}u32{};", "array<".repeat(5_000), ", 2>".repeat(5_000))),
        "chain" => compute(&work, &format!("fn f(x: u32) -> u32 {{ return {}x; }}", "x + ".repeat(20_000))),
        "else-ifs" => {
            compute(&work, &format!("fn f(x: u32) {{ if x == 0u {{}} {} }}", "else if x == 1u {} ".repeat(10_000)))
        }
        "private" => compute(
            &work,
            "var<private> a: array<u32, 100000>; @compute @workgroup_size(1) fn main() { a[a[1]] = 2u; }",
        ),
        "workgroup" => compute(
            &work,
            "var<workgroup> a: array<u32, 100000>; @compute @workgroup_size(1) fn main() { a[a[1]] = 2u; }",
        ),
        "calls" => {
            let mut code = String::from("var<private> p: u32; fn f0() { p = p * 3u + 1u; }\n");
            for at in 1..=18 {
                code += &format!("fn f{at}() {{ f{0}(); f{0}(); }}\n", at - 1);
            }
            compute(&work, &format!("{code} @compute @workgroup_size(1) fn main() {{ f18(); }}"))
        }
        "terabyte" => {
            let _buffer = work.buffer(1 << 40, GpuBufferUsage::STORAGE);
            String::new()
        }
        "hoard" => {
            let buffers: Vec<GpuBuffer> = (0..64).map(|_| work.buffer(128 << 20, GpuBufferUsage::COPY_DST)).collect();
            format!("{} buffers", buffers.len())
        }
        "out-of-bounds" => {
            let code = "
                @group(0) @binding(0) var<storage, read_write> a: array<u32>;
                @compute @workgroup_size(1) fn main() { a[a[0] * 1000000u] = 7u; a[1] = a[a[0] * 1000000u + 5u]; }";
            let bytes: Vec<u8> = [1_u32, 2, 3].iter().flat_map(|word| word.to_le_bytes()).collect();
            format!("{:?}", work.compute(code, &bytes, (1, 1, 1)).await.map(|bytes| bytes.len()))
        }
        "use-after-destroy" => {
            let buffer = work.storage(&[0; 16])?;
            buffer.destroy();
            let encoder = work.encoder();
            encoder.clear_buffer(&buffer, None, None);
            work.submit(&encoder);
            String::new()
        }
        "after-destroy" => {
            work.device.destroy();
            let buffer = work.buffer(16, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
            let mapped = refusal(buffer.map_async(GpuMapMode::READ, None, None).await.map_err(|error| error.message));
            work.queue.on_submitted_work_done().await;
            format!("{mapped}, and all work done")
        }
        "bundle-error" => {
            let bundle = work.device.create_render_bundle_encoder(&GpuRenderBundleEncoderDescriptor {
                depth_read_only: None,
                stencil_read_only: None,
                color_formats: vec![Some(GpuTextureFormat::Rgba8unorm)],
                depth_stencil_format: None,
                sample_count: None,
                label: None,
            });
            bundle.draw(3, None, None, None);
            let _bundle = bundle.finish(None);
            String::new()
        }
        "many-commands" => {
            let encoder = work.encoder();
            let pass = encoder.begin_compute_pass(None);
            for _ in 0..400_000 {
                pass.dispatch_workgroups(1, None, None);
            }
            pass.end();
            let _commands = encoder.finish(None);
            String::new()
        }
        "burn" => return burn(&work).await,
        name => return Err(format!("there is no probe {name}")),
    };
    let validation = work.device.pop_error_scope().await;
    let memory = work.device.pop_error_scope().await;
    Ok(one_line(&format!("{told}; validation: {}; memory: {}", text(validation), text(memory))))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn text(popped: Result<Option<GpuError>, PopErrorScopeError>) -> String {
    match popped {
        Ok(None) => "none".into(),
        Ok(Some(error)) => error.message(),
        Err(error) => format!("? {}", error.message),
    }
}

fn refusal<T>(result: Result<T, String>) -> String {
    match result {
        Ok(_) => "allowed".into(),
        Err(message) => format!("refused: {message}"),
    }
}

/// A pipeline of that shader, used.
fn compute(work: &Work, code: &str) -> String {
    let pipeline = work.pipeline(code);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(None);
    pass.set_pipeline(&pipeline);
    pass.dispatch_workgroups(1, None, None);
    pass.end();
    work.submit(&encoder);
    String::new()
}

async fn device_with(limits: RecordOptionGpuSize64) -> String {
    let descriptor = GpuDeviceDescriptor {
        required_features: None,
        required_limits: Some(limits),
        default_queue: None,
        label: None,
    };
    match adapter().await {
        Err(error) => error,
        Ok(adapter) => refusal(adapter.request_device(Some(descriptor)).await.map_err(|error| error.message)),
    }
}

async fn labels(work: &Work) -> String {
    let buffer = work.buffer(4, GpuBufferUsage::COPY_DST);
    buffer.set_label("mine");
    work.device.set_label(&"x".repeat(10_000));
    format!("{} {}", buffer.label(), work.device.label().len())
}

fn getters(work: &Work) -> String {
    let texture = work.texture(8, 8, GpuTextureFormat::Rgba8unorm, GpuTextureUsage::COPY_DST);
    let limits = work.device.limits();
    let stages = limits.max_storage_buffers_in_vertex_stage() > 0;
    format!("{} {} {} {stages}", texture.width(), texture.depth_or_array_layers(), texture.sample_count())
}

/// Work for some seconds on a processor: dispatches that each take long, none of them endless.
async fn burn(work: &Work) -> Result<String, String> {
    let code = "
        @group(0) @binding(0) var<storage, read_write> a: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            var x = id.x;
            for (var i = 0u; i < 60000u; i++) { x = x * 1664525u + 1013904223u; }
            a[id.x % 64u] = x;
        }";
    let buffer = work.storage(&[0; 256])?;
    let pipeline = work.pipeline(code);
    let group = work.group(&pipeline, vec![entry(0, &buffer)]);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(None);
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
    for _ in 0..8 {
        pass.dispatch_workgroups(1_024, None, None);
    }
    pass.end();
    work.submit(&encoder);
    match work.read(&buffer).await {
        Ok(bytes) => Ok(format!("{} bytes", bytes.len())),
        Err(message) => Ok(one_line(&format!("refused: {message}"))),
    }
}
