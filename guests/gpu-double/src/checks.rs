//! What else a GPU does: each answers what came of it, or what went wrong.

use crate::work::{self, *};

pub async fn run(name: &str) -> Result<String, String> {
    match name {
        "add" => add().await,
        "matmul" => matmul().await,
        "f16" => f16().await,
        "indirect" => indirect().await,
        "timestamp" => timestamp().await,
        "storage-texture" => storage_texture().await,
        "render" => render(false).await,
        "bundle" => render(true).await,
        "scopes" => scopes().await,
        "uncaptured" => uncaptured().await,
        "lost" => lost().await,
        "map-write" => map_write().await,
        "override" => overrides().await,
        "async-pipeline" => async_pipeline().await,
        _ => Err(format!("there is no check {name}")),
    }
}

async fn add() -> Result<String, String> {
    let work = Work::open().await?;
    let bytes: Vec<u8> = (0..1_u32 << 16).flat_map(|at| (at as f32).to_le_bytes()).collect();
    let code = "
        @group(0) @binding(0) var<storage, read_write> a: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { a[id.x] += a[id.x] + 1.0; }";
    let sums = work::floats(&work.compute(code, &bytes, (1 << 10, 1, 1)).await?);
    let right = sums.iter().enumerate().all(|(at, sum)| *sum == 2.0 * at as f32 + 1.0);
    if right { Ok(format!("{} sums", sums.len())) } else { Err("wrong sums".into()) }
}

/// Submits that each take a GPU the same time, of one kernel, as fast as they are taken.
pub async fn flood(times: &str) -> Result<String, String> {
    let times: u32 = times.parse().map_err(|_| format!("{times:?} is no number of submits"))?;
    let work = Work::open().await?;
    let code = "
        @group(0) @binding(0) var<storage, read_write> a: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            var x = id.x;
            for (var i = 0u; i < 30000u; i++) { x = x * 1664525u + 1013904223u; }
            a[id.x % 64u] = x;
        }";
    let buffer = work.storage(&[0; 256])?;
    let pipeline = work.pipeline(code);
    let group = work.group(&pipeline, vec![entry(0, &buffer)]);
    for _ in 0..times {
        let encoder = work.encoder();
        let pass = encoder.begin_compute_pass(None);
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
        pass.dispatch_workgroups(8, None, None);
        pass.end();
        work.submit(&encoder);
    }
    work.queue.on_submitted_work_done().await;
    Ok(format!("{times} submits"))
}

/// 256 × 256, the product below the factors in one buffer.
async fn matmul() -> Result<String, String> {
    const N: usize = 256;
    let work = Work::open().await?;
    let value = |at: usize| ((at * 7) % 11) as f32 - 5.0;
    let bytes: Vec<u8> =
        (0..3 * N * N).flat_map(|at| if at < 2 * N * N { value(at) } else { 0.0 }.to_le_bytes()).collect();
    let code = "
        const n = 256u;
        @group(0) @binding(0) var<storage, read_write> m: array<f32>;
        @compute @workgroup_size(8, 8) fn main(@builtin(global_invocation_id) id: vec3u) {
            var sum = 0.0;
            for (var k = 0u; k < n; k++) { sum += m[id.y * n + k] * m[n * n + k * n + id.x]; }
            m[2 * n * n + id.y * n + id.x] = sum;
        }";
    let all = work::floats(&work.compute(code, &bytes, (32, 32, 1)).await?);
    let cell =
        |row: usize, column: usize| (0..N).map(|k| value(row * N + k) * value(N * N + k * N + column)).sum::<f32>();
    let right = (0..N * N).step_by(37).all(|at| all.get(2 * N * N + at) == Some(&cell(at / N, at % N)));
    if right { Ok("right".into()) } else { Err("a wrong product".into()) }
}

async fn f16() -> Result<String, String> {
    let work = Work::open_with(vec![GpuFeatureName::ShaderF16]).await?;
    let code = "
        enable f16;
        @group(0) @binding(0) var<storage, read_write> a: array<f32>;
        @compute @workgroup_size(1) fn main() { let h = f16(a[0]) * 1.5h; a[0] = f32(h); }";
    Ok(format!("{:?}", work::floats(&work.compute(code, &3.0_f32.to_le_bytes(), (1, 1, 1)).await?)))
}

const COUNT: &str = "
    @group(0) @binding(0) var<storage, read_write> a: array<atomic<u32>>;
    @compute @workgroup_size(8) fn main() { atomicAdd(&a[0], 1u); }";

async fn indirect() -> Result<String, String> {
    let work = Work::open().await?;
    let buffer = work.storage(&[0; 4])?;
    let groups: Vec<u8> = [3_u32, 2, 1].iter().flat_map(|count| count.to_le_bytes()).collect();
    let arguments = work.buffer(12, GpuBufferUsage::INDIRECT | GpuBufferUsage::COPY_DST);
    work.queue.write_buffer_with_copy(&arguments, 0, &groups, None, None).map_err(|error| error.message)?;
    let pipeline = work.pipeline(COUNT);
    let group = work.group(&pipeline, vec![entry(0, &buffer)]);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(None);
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
    pass.dispatch_workgroups_indirect(&arguments, 0);
    pass.end();
    work.submit(&encoder);
    Ok(format!("{:?}", work::words(&work.read(&buffer).await?)))
}

async fn timestamp() -> Result<String, String> {
    let work = Work::open_with(vec![GpuFeatureName::TimestampQuery]).await?;
    let descriptor = GpuQuerySetDescriptor { type_: GpuQueryType::Timestamp, count: 2, label: None };
    let set = work.device.create_query_set(&descriptor).map_err(|error| error.message)?;
    let buffer = work.storage(&[0; 4])?;
    let pipeline = work.pipeline(COUNT);
    let group = work.group(&pipeline, vec![entry(0, &buffer)]);
    let times = work.buffer(16, GpuBufferUsage::QUERY_RESOLVE | GpuBufferUsage::COPY_SRC);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(Some(&GpuComputePassDescriptor {
        timestamp_writes: Some(GpuComputePassTimestampWrites {
            query_set: &set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }),
        label: None,
    }));
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
    pass.dispatch_workgroups(4, None, None);
    pass.end();
    encoder.resolve_query_set(&set, 0, 2, &times, 0);
    work.submit(&encoder);
    let times = work::words(&work.read(&times).await?);
    match times.as_slice() {
        [begin, high, end, above] if (above, end) >= (high, begin) => Ok("in order".into()),
        times => Err(format!("{times:?}")),
    }
}

/// The texels of a texture of 64 × 4 with four bytes each.
async fn texels(work: &Work, texture: &GpuTexture) -> Result<Vec<u32>, String> {
    let buffer = work.buffer(1024, GpuBufferUsage::COPY_DST | GpuBufferUsage::COPY_SRC);
    let encoder = work.encoder();
    encoder.copy_texture_to_buffer(
        &GpuTexelCopyTextureInfo { texture, mip_level: None, origin: None, aspect: None },
        &GpuTexelCopyBufferInfo { buffer: &buffer, offset: None, bytes_per_row: Some(256), rows_per_image: Some(4) },
        GpuExtent3D { width: 64, height: Some(4), depth_or_array_layers: None },
    );
    work.submit(&encoder);
    Ok(work::words(&work.read(&buffer).await?))
}

async fn storage_texture() -> Result<String, String> {
    let work = Work::open().await?;
    let picture =
        work.texture(64, 4, GpuTextureFormat::R32uint, GpuTextureUsage::STORAGE_BINDING | GpuTextureUsage::COPY_SRC);
    let pipeline = work.pipeline(
        "@group(0) @binding(0) var picture: texture_storage_2d<r32uint, write>;
         @compute @workgroup_size(8, 4) fn main(@builtin(global_invocation_id) id: vec3u) {
             textureStore(picture, id.xy, vec4u(id.x * 10u + id.y));
         }",
    );
    let view = picture.create_view(None);
    let entries = vec![GpuBindGroupEntry { binding: 0, resource: GpuBindingResource::GpuTextureView(&view) }];
    let group = work.group(&pipeline, entries);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(None);
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
    pass.dispatch_workgroups(8, None, None);
    pass.end();
    work.submit(&encoder);
    let texels = texels(&work, &picture).await?;
    let right = texels.iter().enumerate().all(|(at, texel)| *texel == (at as u32 % 64) * 10 + at as u32 / 64);
    let (width, height) = (picture.width(), picture.height());
    if right { Ok(format!("{width} by {height}")) } else { Err(format!("{texels:?}")) }
}

const TRIANGLE: &str = "
    @vertex fn vertex(@builtin(vertex_index) index: u32) -> @builtin(position) vec4f {
        // All of the picture and more.
        return vec4f(f32(index % 2u) * 4.0 - 1.0, f32(index / 2u) * 4.0 - 1.0, 0.0, 1.0);
    }
    @fragment fn fragment() -> @location(0) vec4f { return vec4f(1.0, 0.0, 1.0, 1.0); }";

async fn render(bundled: bool) -> Result<String, String> {
    let work = Work::open().await?;
    work.device.push_error_scope(GpuErrorFilter::Validation);
    let format = GpuTextureFormat::Rgba8unorm;
    let picture = work.texture(64, 4, format, GpuTextureUsage::RENDER_ATTACHMENT | GpuTextureUsage::COPY_SRC);
    let module = work.module(TRIANGLE);
    let target = GpuColorTargetState { format, blend: None, write_mask: None };
    let pipeline = work.device.create_render_pipeline(GpuRenderPipelineDescriptor {
        vertex: GpuVertexState { buffers: None, module: &module, entry_point: Some("vertex".into()), constants: None },
        primitive: None,
        depth_stencil: None,
        multisample: None,
        fragment: Some(GpuFragmentState {
            targets: vec![Some(target)],
            module: &module,
            entry_point: Some("fragment".into()),
            constants: None,
        }),
        layout: GpuLayoutMode::Auto,
        label: None,
    });
    let view = picture.create_view(None);
    let encoder = work.encoder();
    let pass = encoder.begin_render_pass(&GpuRenderPassDescriptor {
        color_attachments: vec![Some(GpuRenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            clear_value: Some(GpuColor { r: 0.0, g: 1.0, b: 0.0, a: 1.0 }),
            load_op: GpuLoadOp::Clear,
            store_op: GpuStoreOp::Store,
        })],
        depth_stencil_attachment: None,
        occlusion_query_set: None,
        timestamp_writes: None,
        max_draw_count: None,
        label: None,
    });
    if bundled {
        let bundle = work.device.create_render_bundle_encoder(&GpuRenderBundleEncoderDescriptor {
            depth_read_only: None,
            stencil_read_only: None,
            color_formats: vec![Some(format)],
            depth_stencil_format: None,
            sample_count: None,
            label: None,
        });
        bundle.set_pipeline(&pipeline);
        bundle.draw(3, None, None, None);
        let bundle = bundle.finish(None);
        pass.execute_bundles(&[&bundle]);
    } else {
        pass.set_pipeline(&pipeline);
        pass.draw(3, None, None, None);
    }
    pass.end();
    work.submit(&encoder);
    if let Ok(Some(error)) = work.device.pop_error_scope().await {
        return Err(error.message());
    }
    let texels = texels(&work, &picture).await?;
    match texels.iter().all(|texel| *texel == 0xffff_00ff) {
        true => Ok("magenta".into()),
        false => Err(format!("{texels:x?}")),
    }
}

async fn scopes() -> Result<String, String> {
    let work = Work::open().await?;
    work.device.push_error_scope(GpuErrorFilter::Validation);
    work.device.push_error_scope(GpuErrorFilter::OutOfMemory);
    let _ = work.buffer(4, GpuBufferUsage::MAP_READ | GpuBufferUsage::STORAGE);
    let inner = work.device.pop_error_scope().await.map_err(|error| error.message)?;
    let outer = work.device.pop_error_scope().await.map_err(|error| error.message)?;
    let none = work.device.pop_error_scope().await.is_err();
    let kind = outer.map(|error| error.kind());
    Ok(format!("{} {} {none}", inner.is_none(), matches!(kind, Some(GpuErrorKind::ValidationError))))
}

async fn uncaptured() -> Result<String, String> {
    let work = Work::open().await?;
    let mut errors = work.device.on_uncaptured_error();
    let _ = work.buffer(4, GpuBufferUsage::MAP_READ | GpuBufferUsage::STORAGE);
    let error = errors.next().await.ok_or("no error")?;
    Ok(format!("{}", !error.message().is_empty()))
}

async fn lost() -> Result<String, String> {
    let work = Work::open().await?;
    let lost = work.device.lost();
    work.device.destroy();
    let info = lost.await;
    Ok(format!("{}", matches!(info.reason(), GpuDeviceLostReason::Destroyed)))
}

async fn map_write() -> Result<String, String> {
    let work = Work::open().await?;
    let buffer = work.buffer(16, GpuBufferUsage::MAP_WRITE | GpuBufferUsage::COPY_SRC);
    buffer.map_async(GpuMapMode::WRITE, None, None).await.map_err(|error| error.message)?;
    let words: Vec<u8> = [1_u32, 2].iter().flat_map(|word| word.to_le_bytes()).collect();
    buffer.get_mapped_range_set_with_copy(&words, Some(8), None).map_err(|error| error.message)?;
    buffer.unmap().map_err(|error| error.message)?;
    let descriptor =
        GpuBufferDescriptor { size: 8, usage: GpuBufferUsage::COPY_SRC, mapped_at_creation: Some(true), label: None };
    let born = work.device.create_buffer(&descriptor);
    born.get_mapped_range_set_with_copy(&words, None, None).map_err(|error| error.message)?;
    born.unmap().map_err(|error| error.message)?;
    Ok(format!("{:?} {:?}", work::words(&work.read(&buffer).await?), work::words(&work.read(&born).await?)))
}

async fn overrides() -> Result<String, String> {
    let work = Work::open().await?;
    let module = work.module(
        "override factor: f32 = 2.0;
         @group(0) @binding(0) var<storage, read_write> a: array<f32>;
         @compute @workgroup_size(1) fn main() { a[0] *= factor; }",
    );
    let constants = RecordGpuPipelineConstantValue::new();
    constants.add("factor", 5.0);
    let pipeline = work.device.create_compute_pipeline(GpuComputePipelineDescriptor {
        compute: GpuProgrammableStage { module: &module, entry_point: Some("main".into()), constants: Some(constants) },
        layout: GpuLayoutMode::Auto,
        label: None,
    });
    let buffer = work.storage(&3.0_f32.to_le_bytes())?;
    let group = work.group(&pipeline, vec![entry(0, &buffer)]);
    let encoder = work.encoder();
    let pass = encoder.begin_compute_pass(None);
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
    pass.dispatch_workgroups(1, None, None);
    pass.end();
    work.submit(&encoder);
    work.queue.on_submitted_work_done().await;
    Ok(format!("{:?}", work::floats(&work.read(&buffer).await?)))
}

async fn async_pipeline() -> Result<String, String> {
    let work = Work::open().await?;
    let module = work.module(COUNT);
    let good = pipeline_async(&work, &module, "main").await.is_ok();
    let bad = pipeline_async(&work, &module, "nobody").await.is_err();
    Ok(format!("{good} {bad}"))
}

async fn pipeline_async(
    work: &Work,
    module: &GpuShaderModule,
    entry: &str,
) -> Result<GpuComputePipeline, CreatePipelineError> {
    let descriptor = GpuComputePipelineDescriptor {
        compute: GpuProgrammableStage { module, entry_point: Some(entry.into()), constants: None },
        layout: GpuLayoutMode::Auto,
        label: None,
    };
    work.device.create_compute_pipeline_async(descriptor).await
}
