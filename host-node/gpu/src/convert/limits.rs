//! Limits by their names.

use std::collections::BTreeMap;
use wgpu::Limits;

/// Calls a macro with every limit of the standard: its function, its field in wgpu, its type. wgpu has one limit for storage
/// in the stages together where the standard has one for each stage besides.
macro_rules! with_limits {
    ($call:ident) => {
        $call! {
            max_texture_dimension1_d max_texture_dimension_1d u32;
            max_texture_dimension2_d max_texture_dimension_2d u32;
            max_texture_dimension3_d max_texture_dimension_3d u32;
            max_texture_array_layers max_texture_array_layers u32;
            max_bind_groups max_bind_groups u32;
            max_bind_groups_plus_vertex_buffers max_bind_groups_plus_vertex_buffers u32;
            max_immediate_size max_immediate_size u32;
            max_bindings_per_bind_group max_bindings_per_bind_group u32;
            max_dynamic_uniform_buffers_per_pipeline_layout max_dynamic_uniform_buffers_per_pipeline_layout u32;
            max_dynamic_storage_buffers_per_pipeline_layout max_dynamic_storage_buffers_per_pipeline_layout u32;
            max_sampled_textures_per_shader_stage max_sampled_textures_per_shader_stage u32;
            max_samplers_per_shader_stage max_samplers_per_shader_stage u32;
            max_storage_buffers_per_shader_stage max_storage_buffers_per_shader_stage u32;
            max_storage_buffers_in_vertex_stage max_storage_buffers_per_shader_stage u32;
            max_storage_buffers_in_fragment_stage max_storage_buffers_per_shader_stage u32;
            max_storage_textures_per_shader_stage max_storage_textures_per_shader_stage u32;
            max_storage_textures_in_vertex_stage max_storage_textures_per_shader_stage u32;
            max_storage_textures_in_fragment_stage max_storage_textures_per_shader_stage u32;
            max_uniform_buffers_per_shader_stage max_uniform_buffers_per_shader_stage u32;
            max_uniform_buffer_binding_size max_uniform_buffer_binding_size u64;
            max_storage_buffer_binding_size max_storage_buffer_binding_size u64;
            min_uniform_buffer_offset_alignment min_uniform_buffer_offset_alignment u32;
            min_storage_buffer_offset_alignment min_storage_buffer_offset_alignment u32;
            max_vertex_buffers max_vertex_buffers u32;
            max_buffer_size max_buffer_size u64;
            max_vertex_attributes max_vertex_attributes u32;
            max_vertex_buffer_array_stride max_vertex_buffer_array_stride u32;
            max_inter_stage_shader_variables max_inter_stage_shader_variables u32;
            max_color_attachments max_color_attachments u32;
            max_color_attachment_bytes_per_sample max_color_attachment_bytes_per_sample u32;
            max_compute_workgroup_storage_size max_compute_workgroup_storage_size u32;
            max_compute_invocations_per_workgroup max_compute_invocations_per_workgroup u32;
            max_compute_workgroup_size_x max_compute_workgroup_size_x u32;
            max_compute_workgroup_size_y max_compute_workgroup_size_y u32;
            max_compute_workgroup_size_z max_compute_workgroup_size_z u32;
            max_compute_workgroups_per_dimension max_compute_workgroups_per_dimension u32;
        }
    };
}
pub(crate) use with_limits;

/// As a guest may write it: `maxBufferSize`, `max-buffer-size` and `max_buffer_size` are the same.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Sets a limit by its name. False where there is none of that name.
pub(crate) fn set(limits: &mut Limits, name: &str, value: u64) -> bool {
    let name = plain(name);
    macro_rules! find {
        ($($function:ident $field:ident $type:ident;)*) => {
            $(if name == plain(stringify!($function)) {
                // More than fits is more than any adapter has.
                limits.$field = $type::try_from(value).unwrap_or($type::MAX);
                return true;
            })*
        };
    }
    with_limits!(find);
    false
}

/// All of them by the names of their fields, with hyphens: `max-texture-dimension-2d`.
pub(crate) fn all(limits: &Limits) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    macro_rules! list {
        ($($function:ident $field:ident $type:ident;)*) => {
            $(all.insert(stringify!($field).replace('_', "-"), limits.$field as u64);)*
        };
    }
    with_limits!(list);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found_however_it_is_written() {
        let mut limits = Limits::default();
        for (name, value) in [
            ("maxBufferSize", 8),
            ("max-texture-dimension2-d", 9),
            ("maxTextureDimension3D", 10),
            ("max_bind_groups", 3),
        ] {
            assert!(set(&mut limits, name, value), "{name}");
        }
        assert_eq!((limits.max_buffer_size, limits.max_texture_dimension_2d), (8, 9));
        assert_eq!((limits.max_texture_dimension_3d, limits.max_bind_groups), (10, 3));
        assert!(set(&mut limits, "maxBindGroups", u64::MAX));
        assert_eq!(limits.max_bind_groups, u32::MAX);
        assert!(!set(&mut limits, "nope", 1));
        let all = all(&limits);
        assert_eq!((all.len(), all.get("max-texture-dimension-2d")), (32, Some(&9)));
    }
}
