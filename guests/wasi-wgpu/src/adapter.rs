//! The instance, and the adapter that the host gives.

use crate::{
    bindings::*,
    convert::{enums, features, limits},
    device::Device,
    queue::Queue,
    shared::{self, Shared},
};
use std::pin::Pin;
use wgpu::{
    Backends,
    custom::{self, DispatchAdapter, DispatchDevice, DispatchQueue, DispatchSurface},
    rwh,
};

#[derive(Debug)]
pub(crate) struct Instance;

fn not_found() -> wgpu::RequestAdapterError {
    wgpu::RequestAdapterError::NotFound {
        active_backends: Backends::BROWSER_WEBGPU,
        requested_backends: Backends::BROWSER_WEBGPU,
        supported_backends: Backends::BROWSER_WEBGPU,
        no_fallback_backends: Backends::empty(),
        no_adapter_backends: Backends::BROWSER_WEBGPU,
        incompatible_surface_backends: Backends::empty(),
    }
}

/// A window that nobody has. wgpu makes the error of a surface only from what it asked a window.
struct NoWindow;

impl rwh::HasWindowHandle for NoWindow {
    fn window_handle(&self) -> Result<rwh::WindowHandle<'_>, rwh::HandleError> {
        Err(rwh::HandleError::NotSupported)
    }
}

impl rwh::HasDisplayHandle for NoWindow {
    fn display_handle(&self) -> Result<rwh::DisplayHandle<'_>, rwh::HandleError> {
        Err(rwh::HandleError::NotSupported)
    }
}

impl custom::InstanceInterface for Instance {
    fn new(_: wgpu::InstanceDescriptor) -> Self {
        Self
    }

    unsafe fn create_surface(&self, _: wgpu::SurfaceTargetUnsafe) -> Result<DispatchSurface, wgpu::CreateSurfaceError> {
        match wgpu::Instance::from_custom(Self).create_surface(NoWindow) {
            Err(error) => Err(error),
            Ok(_) => unreachable!("it has no window handle"),
        }
    }

    fn request_adapter(
        &self,
        options: &wgpu::RequestAdapterOptions<'_, '_>,
    ) -> Pin<Box<dyn custom::RequestAdapterFuture>> {
        let options = GpuRequestAdapterOptions {
            feature_level: None,
            power_preference: enums::power(options.power_preference),
            force_fallback_adapter: Some(options.force_fallback_adapter),
            xr_compatible: None,
        };
        Box::pin(async {
            let found = get_gpu().request_adapter(Some(options)).await;
            found.map(Adapter::dispatch).ok_or_else(not_found)
        })
    }

    fn poll_all_devices(&self, force_wait: bool) -> bool {
        shared::poll_all(force_wait)
    }

    fn wgsl_language_features(&self) -> wgpu::WgslLanguageFeatures {
        use wgpu::WgslLanguageFeatures as All;
        let host = get_gpu().wgsl_language_features();
        let known = [
            ("readonly_and_readwrite_storage_textures", All::ReadOnlyAndReadWriteStorageTextures),
            ("packed_4x8_integer_dot_product", All::Packed4x8IntegerDotProduct),
            ("unrestricted_pointer_parameters", All::UnrestrictedPointerParameters),
            ("pointer_composite_access", All::PointerCompositeAccess),
        ];
        known.iter().filter(|(name, _)| host.has(name)).fold(All::empty(), |all, (_, it)| all | it.clone())
    }

    /// The host gives one.
    fn enumerate_adapters(&self, _: Backends) -> Pin<Box<dyn custom::EnumerateAdapterFuture>> {
        Box::pin(async { get_gpu().request_adapter(None).await.map(Adapter::dispatch).into_iter().collect::<Vec<_>>() })
    }
}

#[derive(Debug)]
struct Adapter {
    gpu: std::rc::Rc<GpuAdapter>,
    features: wgpu::Features,
    limits: wgpu::Limits,
    info: wgpu::AdapterInfo,
}

fn info(host: &GpuAdapterInfo) -> wgpu::AdapterInfo {
    let device = host.device();
    wgpu::AdapterInfo {
        name: host.description(),
        vendor: 0,
        device: u32::from_str_radix(device.trim_start_matches("0x"), 16).unwrap_or(0),
        device_type: if host.is_fallback_adapter() { wgpu::DeviceType::Cpu } else { wgpu::DeviceType::Other },
        device_pci_bus_id: String::new(),
        driver: host.vendor(),
        driver_info: host.architecture(),
        backend: wgpu::Backend::BrowserWebGpu,
        subgroup_min_size: host.subgroup_min_size(),
        subgroup_max_size: host.subgroup_max_size(),
        transient_saves_memory: None,
        limit_bucket: None,
    }
}

impl Adapter {
    fn dispatch(gpu: GpuAdapter) -> DispatchAdapter {
        let limits = limits::supported(&gpu.limits());
        let features = features::supported(&gpu.features(), &limits);
        let info = info(&gpu.info());
        DispatchAdapter::custom(Self { gpu: gpu.into(), features, limits, info })
    }

    /// Why the adapter has no such device, if it has none: what the host would not understand at all is among it.
    fn refuses(&self, wanted: &wgpu::DeviceDescriptor<'_>) -> Option<String> {
        let lacking = wanted.required_features - self.features;
        if !lacking.is_empty() {
            return Some(format!("the adapter has no {lacking}"));
        }
        let mut beyond = None;
        wanted.required_limits.check_limits_with_fail_fn(&self.limits, true, |name, wanted, allowed| {
            beyond = Some(format!("the limit {name} of {wanted} is beyond the adapter's {allowed}"));
        });
        beyond
    }
}

impl custom::AdapterInterface for Adapter {
    fn request_device(&self, wanted: &wgpu::DeviceDescriptor<'_>) -> Pin<Box<dyn custom::RequestDeviceFuture>> {
        if let Some(message) = self.refuses(wanted) {
            return Box::pin(std::future::ready(Err(wgpu::RequestDeviceError::from_message(message))));
        }
        let descriptor = GpuDeviceDescriptor {
            required_features: Some(features::required(wanted.required_features)),
            required_limits: Some(limits::required(&wanted.required_limits)),
            default_queue: None,
            label: wanted.label.map(str::to_owned),
        };
        let gpu = self.gpu.clone();
        let info = self.info.clone();
        Box::pin(async move {
            let made = gpu.request_device(Some(descriptor)).await;
            let device = made.map_err(|error| wgpu::RequestDeviceError::from_message(error.message))?;
            let limits = limits::supported(&device.limits());
            let features = features::supported(&device.features(), &limits);
            let shared = Shared::new(device, features, limits, info);
            Ok((DispatchDevice::custom(Device(shared.clone())), DispatchQueue::custom(Queue(shared))))
        })
    }

    /// There are no surfaces.
    fn is_surface_supported(&self, _: &DispatchSurface) -> bool {
        false
    }

    fn features(&self) -> wgpu::Features {
        self.features
    }

    fn limits(&self) -> wgpu::Limits {
        self.limits.clone()
    }

    /// All of them: a host of the interface does what the standard says.
    fn downlevel_capabilities(&self) -> wgpu::DownlevelCapabilities {
        wgpu::DownlevelCapabilities::default()
    }

    fn get_info(&self) -> wgpu::AdapterInfo {
        self.info.clone()
    }

    fn get_texture_format_features(&self, format: wgpu::TextureFormat) -> wgpu::TextureFormatFeatures {
        format.guaranteed_format_features(self.features)
    }

    fn get_presentation_timestamp(&self) -> wgpu::PresentationTimestamp {
        wgpu::PresentationTimestamp::INVALID_TIMESTAMP
    }

    fn cooperative_matrix_properties(&self) -> Vec<wgpu::CooperativeMatrixProperties> {
        Vec::new()
    }
}
