//! What this machine is and has.

use lattice::{spec::is_label_value, units::Millicores};
use std::collections::BTreeMap;

/// Assumed where the system does not tell.
const MEMORY_ASSUMED: u64 = 1 << 30;

/// Labels that every node has.
pub(super) fn labels() -> BTreeMap<String, String> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    [("arch", std::env::consts::ARCH.to_owned()), ("os", std::env::consts::OS.to_owned()), ("hostname", hostname)]
        .into_iter()
        .filter(|(_, value)| is_label_value(value))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Bytes that replicas may reserve by default: three quarters of what this process may use, so that the node itself and
/// its caches have room.
pub fn memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of_meminfo(&text));
    // A container's bound; `max` where there is none.
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let total = [machine, container].into_iter().flatten().min().unwrap_or(MEMORY_ASSUMED);
    total / 4 * 3
}

/// Processors that replicas may reserve by default: those that this process may use, by its affinity and its container's
/// quota. The node's own work is not set apart: what is reserved bounds nobody.
pub fn cpus() -> Millicores {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Millicores::cores(u64::try_from(processors).unwrap_or(u64::MAX))
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kilobytes() {
        assert_eq!(total_of_meminfo("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_of_meminfo("MemFree: 1 kB\n"), None);
        assert!(memory() > 1 << 20);
        assert!(cpus() >= Millicores::cores(1));
    }
}
