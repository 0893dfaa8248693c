//! Limits. Those of wgpu that the standard does not know are what wgpu has by default.

use crate::bindings::{GpuSupportedLimits, RecordOptionGpuSize64};
use wgpu::Limits;

macro_rules! with_limits {
    ($call:ident) => {
        $call! {
            max_texture_dimension1_d max_texture_dimension_1d,
            max_texture_dimension2_d max_texture_dimension_2d,
            max_texture_dimension3_d max_texture_dimension_3d,
            max_texture_array_layers max_texture_array_layers,
            max_bind_groups max_bind_groups,
            max_bind_groups_plus_vertex_buffers max_bind_groups_plus_vertex_buffers,
            max_immediate_size max_immediate_size,
            max_bindings_per_bind_group max_bindings_per_bind_group,
            max_dynamic_uniform_buffers_per_pipeline_layout max_dynamic_uniform_buffers_per_pipeline_layout,
            max_dynamic_storage_buffers_per_pipeline_layout max_dynamic_storage_buffers_per_pipeline_layout,
            max_sampled_textures_per_shader_stage max_sampled_textures_per_shader_stage,
            max_samplers_per_shader_stage max_samplers_per_shader_stage,
            max_storage_buffers_per_shader_stage max_storage_buffers_per_shader_stage,
            max_storage_textures_per_shader_stage max_storage_textures_per_shader_stage,
            max_uniform_buffers_per_shader_stage max_uniform_buffers_per_shader_stage,
            max_uniform_buffer_binding_size max_uniform_buffer_binding_size,
            max_storage_buffer_binding_size max_storage_buffer_binding_size,
            min_uniform_buffer_offset_alignment min_uniform_buffer_offset_alignment,
            min_storage_buffer_offset_alignment min_storage_buffer_offset_alignment,
            max_vertex_buffers max_vertex_buffers,
            max_buffer_size max_buffer_size,
            max_vertex_attributes max_vertex_attributes,
            max_vertex_buffer_array_stride max_vertex_buffer_array_stride,
            max_inter_stage_shader_variables max_inter_stage_shader_variables,
            max_color_attachments max_color_attachments,
            max_color_attachment_bytes_per_sample max_color_attachment_bytes_per_sample,
            max_compute_workgroup_storage_size max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x max_compute_workgroup_size_x,
            max_compute_workgroup_size_y max_compute_workgroup_size_y,
            max_compute_workgroup_size_z max_compute_workgroup_size_z,
            max_compute_workgroups_per_dimension max_compute_workgroups_per_dimension,
        }
    };
}

pub(crate) fn supported(limits: &GpuSupportedLimits) -> Limits {
    let mut all = Limits::default();
    macro_rules! get {
        ($($function:ident $field:ident,)*) => { $(all.$field = limits.$function();)* };
    }
    with_limits!(get);
    all
}

/// All of the standard's, under their names in the interface.
pub(crate) fn required(limits: &Limits) -> RecordOptionGpuSize64 {
    let record = RecordOptionGpuSize64::new();
    macro_rules! add {
        ($($function:ident $field:ident,)*) => {
            $(record.add(&stringify!($function).replace('_', "-"), Some(u64::from(limits.$field)));)*
        };
    }
    with_limits!(add);
    record
}
