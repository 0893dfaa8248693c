//! From the entry to a device.

use crate::{
    bindings::webgpu::{self, *},
    convert::{features, limits},
    device::shared::Shared,
    host::{
        GpuView, HasGpu, dropped,
        resources::{self as r, label},
    },
    inventory::Class,
};
use std::sync::{Arc, Mutex};
use wasmtime::component::{Accessor, Resource};

impl HostGpu for GpuView<'_> {
    /// Nothing is shown anywhere; the one that most have.
    fn get_preferred_canvas_format(&mut self, _: Resource<r::Entry>) -> wasmtime::Result<GpuTextureFormat> {
        Ok(GpuTextureFormat::Bgra8unorm)
    }

    fn wgsl_language_features(&mut self, _: Resource<r::Entry>) -> wasmtime::Result<Resource<r::LanguageFeatures>> {
        Ok(self.table.push(r::LanguageFeatures)?)
    }

    dropped!(r::Entry);
}

impl<T: Send + 'static> HostGpuWithStore<T> for HasGpu {
    async fn request_adapter(
        accessor: &Accessor<T, Self>,
        _: Resource<r::Entry>,
        options: Option<GpuRequestAdapterOptions>,
    ) -> wasmtime::Result<Option<Resource<r::Adapter>>> {
        let Some(workspace) = accessor.with(|mut access| access.get().ctx.workspace.clone()) else {
            return Ok(None);
        };
        if let Some(options) = options {
            let level = options.feature_level.as_deref();
            let is_known = level.is_none_or(|level| matches!(level, "core" | "compatibility"));
            let fallback = options.force_fallback_adapter == Some(true) && workspace.class() != Class::Cpu;
            if !is_known || fallback || options.xr_compatible == Some(true) {
                return Ok(None);
            }
        }
        let Ok(opened) = workspace.opened().await else { return Ok(None) };
        accessor.with(|mut access| Ok(Some(access.get().table.push(r::Adapter { workspace, opened })?)))
    }
}

impl HostGpuAdapter for GpuView<'_> {
    fn features(&mut self, it: Resource<r::Adapter>) -> wasmtime::Result<Resource<r::Features>> {
        let names = features::names(self.table.get(&it)?.opened.features);
        Ok(self.table.push(r::Features(names))?)
    }

    fn limits(&mut self, it: Resource<r::Adapter>) -> wasmtime::Result<Resource<r::Limits>> {
        let limits = self.table.get(&it)?.opened.limits.clone();
        Ok(self.table.push(r::Limits(limits))?)
    }

    fn info(&mut self, it: Resource<r::Adapter>) -> wasmtime::Result<Resource<r::AdapterInfo>> {
        let opened = self.table.get(&it)?.opened.clone();
        Ok(self.table.push(r::AdapterInfo(opened))?)
    }

    dropped!(r::Adapter);
}

struct Wanted {
    features: wgpu::Features,
    limits: wgpu::Limits,
    label: String,
    queue_label: String,
}

type Refusal = (RequestDeviceErrorKind, String);

/// What a guest asks of a device, of what this adapter has. Takes the map of limits out of the table.
fn wanted(
    view: &mut GpuView<'_>,
    adapter: &Resource<r::Adapter>,
    descriptor: Option<GpuDeviceDescriptor>,
) -> wasmtime::Result<Result<Wanted, Refusal>> {
    let opened = view.table.get(adapter)?.opened.clone();
    // An adapter with less than the standard's defaults is still one.
    let mut wanted = Wanted {
        features: wgpu::Features::empty(),
        limits: wgpu::Limits::default().or_worse_values_from(&opened.limits),
        label: String::new(),
        queue_label: String::new(),
    };
    let Some(descriptor) = descriptor else { return Ok(Ok(wanted)) };
    let required = descriptor.required_limits.map(|limits| view.table.delete(limits)).transpose()?;
    wanted.label = label(descriptor.label);
    wanted.queue_label = label(descriptor.default_queue.and_then(|queue| queue.label));
    let mut lacking = Vec::new();
    for name in descriptor.required_features.unwrap_or_default().into_iter().take(64) {
        match features::required(name) {
            Ok((feature, _)) if opened.features.contains(feature) => wanted.features |= feature,
            Ok((_, name)) | Err(name) => lacking.push(name),
        }
    }
    if !lacking.is_empty() {
        let message = format!("the adapter has no {}", lacking.join(", "));
        return Ok(Err((RequestDeviceErrorKind::TypeError, message)));
    }
    for (name, value) in required.unwrap_or_default() {
        let Some(value) = value else { continue };
        let mut alone = wanted.limits.clone();
        if !limits::set(&mut alone, &name, value) {
            return Ok(Err((RequestDeviceErrorKind::OperationError, format!("there is no limit {name:?}"))));
        }
        // Never less than the defaults: the standard has it so.
        wanted.limits = wanted.limits.or_better_values_from(&alone);
    }
    if wanted.limits.max_immediate_size > 0 {
        wanted.features |= wgpu::Features::IMMEDIATES;
    }
    let mut beyond = None;
    wanted.limits.check_limits_with_fail_fn(&opened.limits, false, |name, wanted, allowed| {
        beyond.get_or_insert_with(|| format!("the limit {name} of {wanted} is beyond the adapter's {allowed}"));
    });
    if let Some(message) = beyond {
        return Ok(Err((RequestDeviceErrorKind::OperationError, message)));
    }
    Ok(Ok(wanted))
}

impl<T: Send + 'static> HostGpuAdapterWithStore<T> for HasGpu {
    async fn request_device(
        accessor: &Accessor<T, Self>,
        adapter: Resource<r::Adapter>,
        descriptor: Option<GpuDeviceDescriptor>,
    ) -> wasmtime::Result<Result<Resource<r::Device>, RequestDeviceError>> {
        let asked = accessor.with(|mut access| {
            let mut view = access.get();
            let wanted = wanted(&mut view, &adapter, descriptor)?;
            let adapter = view.table.get(&adapter)?;
            wasmtime::error::Ok((adapter.workspace.clone(), adapter.opened.clone(), wanted))
        });
        let (workspace, opened, wanted) = asked?;
        let error = |(kind, message)| Ok(Err(RequestDeviceError { kind, message }));
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(refusal) => return error(refusal),
        };
        let shared = Shared::new(workspace.account().clone());
        let (features, limits, text) = (wanted.features, wanted.limits.clone(), wanted.label.clone());
        let lane = match workspace.device(shared, opened.clone(), features, limits, text).await {
            Ok(lane) => lane,
            Err(message) => return error((RequestDeviceErrorKind::OperationError, message)),
        };
        let device = r::Device {
            lane,
            opened,
            features: wanted.features,
            limits: wanted.limits,
            label: wanted.label,
            queue_label: Arc::new(Mutex::new(wanted.queue_label)),
        };
        accessor.with(|mut access| Ok(Ok(access.get().table.push(device)?)))
    }
}

impl HostGpuAdapterInfo for GpuView<'_> {
    fn vendor(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.adapter_info().vendor_name().to_owned())
    }

    /// wgpu does not know it.
    fn architecture(&mut self, _: Resource<r::AdapterInfo>) -> wasmtime::Result<String> {
        Ok(String::new())
    }

    fn device(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<String> {
        Ok(format!("{:#06x}", self.table.get(&it)?.0.info.device))
    }

    fn description(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.info.name.clone())
    }

    fn subgroup_min_size(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.0.info.subgroup_min_size)
    }

    fn subgroup_max_size(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.0.info.subgroup_max_size)
    }

    fn is_fallback_adapter(&mut self, it: Resource<r::AdapterInfo>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&it)?.0.adapter_info().class == Class::Cpu)
    }

    dropped!(r::AdapterInfo);
}

/// `texture-compression-bc-sliced-3d` and `texture-compression-bc-sliced3d` are the same: the standard and its WIT differ.
fn same(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    plain(one) == plain(other)
}

impl HostGpuSupportedFeatures for GpuView<'_> {
    fn has(&mut self, it: Resource<r::Features>, name: String) -> wasmtime::Result<bool> {
        Ok(self.table.get(&it)?.0.iter().any(|known| same(known, &name)))
    }

    dropped!(r::Features);
}

/// Of WGSL, what naga reads.
const LANGUAGE: &[&str] =
    &["readonly_and_readwrite_storage_textures", "packed_4x8_integer_dot_product", "pointer_composite_access"];

impl HostWgslLanguageFeatures for GpuView<'_> {
    fn has(&mut self, _: Resource<r::LanguageFeatures>, name: String) -> wasmtime::Result<bool> {
        Ok(LANGUAGE.contains(&name.as_str()))
    }

    dropped!(r::LanguageFeatures);
}

macro_rules! limits_of {
    ($($function:ident $field:ident $type:ident;)*) => {
        impl webgpu::HostGpuSupportedLimits for GpuView<'_> {
            $(fn $function(&mut self, it: Resource<r::Limits>) -> wasmtime::Result<$type> {
                Ok(self.table.get(&it)?.0.$field)
            })*

            dropped!(r::Limits);
        }
    };
}
limits::with_limits!(limits_of);
