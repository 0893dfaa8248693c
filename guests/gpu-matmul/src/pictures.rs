//! Textures: written by a shader, and drawn to.

use crate::checks::Work;

const SIZE: wgpu::Extent3d = wgpu::Extent3d { width: 64, height: 4, depth_or_array_layers: 1 };

fn picture(work: &Work, format: wgpu::TextureFormat, usage: wgpu::TextureUsages) -> wgpu::Texture {
    work.device.create_texture(&wgpu::TextureDescriptor {
        label: Some("picture"),
        size: SIZE,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: usage | wgpu::TextureUsages::COPY_SRC,
        view_formats: &[],
    })
}

/// Its texels, of four bytes each.
async fn texels(work: &Work, picture: &wgpu::Texture) -> Result<Vec<u32>, String> {
    let buffer = work.buffer(64 * 4 * 4, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC);
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(256), rows_per_image: None };
    let mut encoder = work.encoder();
    let destination = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
    encoder.copy_texture_to_buffer(picture.as_image_copy(), destination, SIZE);
    work.queue.submit([encoder.finish()]);
    work.read(&buffer).await
}

pub async fn storage_texture() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let picture = picture(&work, wgpu::TextureFormat::R32Uint, wgpu::TextureUsages::STORAGE_BINDING);
    let pipeline = work.pipeline(
        "@group(0) @binding(0) var picture: texture_storage_2d<r32uint, write>;
         @compute @workgroup_size(8, 4) fn main(@builtin(global_invocation_id) id: vec3u) {
             textureStore(picture, id.xy, vec4u(id.x * 10u + id.y));
         }",
    );
    let view = picture.create_view(&Default::default());
    let group = work.group(&pipeline, wgpu::BindingResource::TextureView(&view));
    let mut encoder = work.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(8, 1, 1);
    drop(pass);
    work.queue.submit([encoder.finish()]);
    let texels = texels(&work, &picture).await?;
    let right = texels.iter().enumerate().all(|(at, texel)| *texel == (at as u32 % 64) * 10 + at as u32 / 64);
    if right { Ok(format!("{} texels", texels.len())) } else { Err(format!("{texels:?}")) }
}

const TRIANGLE: &str = "
    @vertex fn vertex(@location(0) at: vec2f) -> @builtin(position) vec4f { return vec4f(at, 0.0, 1.0); }
    @fragment fn fragment() -> @location(0) vec4f { return vec4f(1.0, 0.0, 1.0, 1.0); }";

/// A triangle that covers all, in one half of the picture by a scissor, by a bundle.
pub async fn render() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let format = wgpu::TextureFormat::Rgba8Unorm;
    let picture = picture(&work, format, wgpu::TextureUsages::RENDER_ATTACHMENT);
    let source = wgpu::ShaderSource::Wgsl(TRIANGLE.into());
    let module = work.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let corners = wgpu::VertexBufferLayout {
        array_stride: 8,
        step_mode: wgpu::VertexStepMode::Vertex,
        attributes: &wgpu::vertex_attr_array![0 => Float32x2],
    };
    let pipeline = work.device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: None,
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            buffers: &[Some(corners)],
        },
        primitive: Default::default(),
        depth_stencil: None,
        multisample: Default::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            targets: &[Some(format.into())],
        }),
        multiview_mask: None,
        cache: None,
    });
    let vertices = work.buffer(24, wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::COPY_DST);
    let at: Vec<u8> = [-1.0_f32, -1.0, 3.0, -1.0, -1.0, 3.0].iter().flat_map(|at| at.to_le_bytes()).collect();
    work.queue.write_buffer(&vertices, 0, &at);
    let mut bundle = work.device.create_render_bundle_encoder(&wgpu::RenderBundleEncoderDescriptor {
        label: None,
        color_formats: &[Some(format)],
        depth_stencil: None,
        sample_count: 1,
        multiview: None,
    });
    bundle.set_pipeline(&pipeline);
    bundle.set_vertex_buffer(0, vertices.slice(..));
    bundle.draw(0..3, 0..1);
    let bundle = bundle.finish(&Default::default());

    let view = picture.create_view(&Default::default());
    let ops = wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::GREEN), store: wgpu::StoreOp::Store };
    let mut encoder = work.encoder();
    let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
        color_attachments: &[Some(wgpu::RenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            ops,
        })],
        ..Default::default()
    });
    pass.set_scissor_rect(0, 0, 32, 4);
    pass.execute_bundles([&bundle]);
    drop(pass);
    work.queue.submit([encoder.finish()]);
    let texels = texels(&work, &picture).await?;
    let (magenta, green) = (0xffff_00ff, 0xff00_ff00);
    let right = texels.iter().enumerate().all(|(at, texel)| *texel == if at % 64 < 32 { magenta } else { green });
    if right { Ok("half of it".into()) } else { Err(format!("{texels:x?}")) }
}
