//! What the units of this node count, for `/metrics`. Read when asked, so that nothing is counted twice.

use crate::instances::ReadyUnits;
use lattice::id::SlotId;
use lattice_runtime::{GpuStats, Runtime, Unit, UnitStats, WAIT_BUCKETS, WaitStats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{counter::ConstCounter, exemplar::Exemplar, gauge::ConstGauge},
    registry::Registry,
};
use std::sync::Arc;

pub(crate) fn register(registry: &mut Registry, units: Arc<ReadyUnits>, runtime: Runtime) {
    registry.register_collector(Box::new(Units { units, runtime }));
}

struct Units {
    units: Arc<ReadyUnits>,
    runtime: Runtime,
}

impl std::fmt::Debug for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Units")
    }
}

/// A counter of each unit: name, help, value.
type Sum = (&'static str, &'static str, fn(&UnitStats) -> u64);
const SUMS: [Sum; 13] = [
    ("lattice_unit_requests", "Calls of a replica, refused ones too", |stats| stats.requests),
    ("lattice_unit_refused", "Calls refused before any guest code ran", |stats| stats.refused),
    ("lattice_unit_collateral", "Calls that were in an instance which another call ended", |stats| stats.collateral),
    ("lattice_unit_reuse_hits", "Calls that found an instance that had served before", |stats| stats.reuse_hits),
    ("lattice_unit_instances_created", "Instances made", |stats| stats.instances_created),
    ("lattice_unit_messages", "Messages handed to a replica", |stats| stats.messages),
    ("lattice_unit_messages_failed", "Those that were not handled", |stats| stats.messages_failed),
    ("lattice_unit_messages_dropped", "Messages dropped since too many waited", |stats| stats.messages_dropped),
    ("lattice_unit_outgoing_requests", "HTTP requests that guests sent, denied ones too", |stats| {
        stats.network.requests
    }),
    ("lattice_unit_outgoing_failures", "Those without a response, denied ones not counted", |stats| {
        stats.network.failures
    }),
    ("lattice_unit_outgoing_connections", "Connections opened for them", |stats| stats.network.connections),
    ("lattice_unit_outgoing_denied", "Requests, lookups and sockets that were denied", |stats| stats.network.denied),
    ("lattice_unit_strikes", "Failures held against keeping instances", |stats| stats.strikes),
];

/// Counters of each unit by one more label, whose values are those of a closed set: name, help, label, values that are not
/// zero.
type SumBy = (&'static str, &'static str, &'static str, fn(&UnitStats) -> Vec<(&'static str, u64)>);
const SUMS_BY: [SumBy; 3] = [
    ("lattice_unit_failures", "Calls that failed once a guest had them", "kind", |stats| {
        stats.tally.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
    }),
    ("lattice_unit_limit_hits", "How often a replica reached a limit", "limit", |stats| {
        stats.tally.limits.iter().map(|(limit, count)| (limit.as_str(), *count)).collect()
    }),
    ("lattice_unit_instances_retired", "Instances dropped", "reason", |stats| {
        stats.instances_retired.iter().map(|(reason, count)| (reason.as_str(), *count)).collect()
    }),
];

/// A level of each unit.
type Level = (&'static str, &'static str, fn(&UnitStats) -> f64);
const LEVELS: [Level; 7] = [
    ("lattice_unit_in_flight", "Calls inside a replica now", |stats| stats.in_flight.into()),
    ("lattice_unit_queued", "Calls that wait for a replica now", |stats| stats.queued.into()),
    ("lattice_unit_instances", "Instances alive now", |stats| stats.instances_live.into()),
    ("lattice_unit_instances_idle", "Instances that wait for a call", |stats| stats.instances_idle.into()),
    ("lattice_unit_reuse_off", "1 where reuse was switched off by strikes", |stats| {
        f64::from(u8::from(stats.reuse_disabled.is_some()))
    }),
    ("lattice_unit_memory_peak_bytes", "The most linear memory that one instance had", |stats| {
        stats.tally.memory_peak as f64
    }),
    (
        "lattice_unit_cpu_peak_seconds",
        "The most processor time that one call took; short ones are not measured",
        |stats| stats.tally.cpu_peak.as_secs_f64(),
    ),
];

/// Counters of each unit that uses GPUs.
type GpuSum = (&'static str, &'static str, fn(&GpuStats) -> f64);
const GPU_SUMS: [GpuSum; 7] = [
    ("lattice_unit_gpu_seconds", "Time in which the GPU worked on what a replica submitted", |gpu| {
        gpu.gpu_time.as_secs_f64()
    }),
    ("lattice_unit_gpu_compile_seconds", "Time in shader modules and pipelines", |gpu| gpu.compile_time.as_secs_f64()),
    ("lattice_unit_gpu_submits", "Submits to the GPU", |gpu| gpu.submits as f64),
    ("lattice_unit_gpu_bytes_up", "Bytes written to the GPU", |gpu| gpu.bytes_up as f64),
    ("lattice_unit_gpu_bytes_down", "Bytes read back from the GPU", |gpu| gpu.bytes_down as f64),
    ("lattice_unit_gpu_losses", "Devices that a fault or a deadline ended", |gpu| gpu.losses as f64),
    ("lattice_unit_gpu_refused", "Allocations beyond the quota", |gpu| gpu.refused as f64),
];
/// Levels of the same.
const GPU_LEVELS: [GpuSum; 3] = [
    ("lattice_unit_gpu_memory_bytes", "Memory of the GPU that a replica has", |gpu| gpu.memory_bytes as f64),
    ("lattice_unit_gpu_memory_peak_bytes", "The most that it had", |gpu| gpu.memory_peak_bytes as f64),
    ("lattice_unit_gpu_devices", "Devices that are open", |gpu| gpu.devices as f64),
];

impl Collector for Units {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let units: Vec<(SlotId, Arc<Unit>)> = self.units.all();
        let stats: Vec<([(&str, String); 2], UnitStats)> = units
            .iter()
            .map(|(slot, unit)| {
                let labels = [("workload", slot.workload.to_string()), ("replica", slot.index.to_string())];
                (labels, unit.stats())
            })
            .collect();
        for (name, help, value) in SUMS {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, stats) in &stats {
                ConstCounter::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, label, values) in SUMS_BY {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for ([workload, replica], stats) in &stats {
                for (value, count) in values(stats) {
                    let labels = [workload.clone(), replica.clone(), (label, value.to_owned())];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        for (name, help, value) in LEVELS {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, stats) in &stats {
                ConstGauge::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, value) in GPU_SUMS {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, gpu) in stats.iter().filter_map(|(labels, stats)| Some((labels, stats.gpu.as_ref()?))) {
                ConstCounter::new(value(gpu)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, value) in GPU_LEVELS {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, gpu) in stats.iter().filter_map(|(labels, stats)| Some((labels, stats.gpu.as_ref()?))) {
                ConstGauge::new(value(gpu)).encode(family.encode_family(labels)?)?;
            }
        }
        let (name, help) =
            ("lattice_unit_queue_seconds", "Time that calls waited for their turn; those that did not are not in it");
        let mut family =
            encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Histogram)?;
        for (labels, stats) in &stats {
            let WaitStats { buckets, sum } = stats.waits;
            let bounds = WAIT_BUCKETS.into_iter().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(buckets).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let no_exemplars = None::<&std::collections::HashMap<usize, Exemplar<NoLabelSet, f64>>>;
            family.encode_family(labels)?.encode_histogram(sum.as_secs_f64(), count, &buckets, no_exemplars)?;
        }
        let loads = self.runtime.load_stats();
        for (name, help, value) in [
            ("lattice_components_compiled", "Components compiled", loads.compiled),
            ("lattice_components_from_disk", "Components whose code was found on disk", loads.from_disk),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let (instances, instances_limit) = self.runtime.instances();
        for (name, help, value) in [
            ("lattice_instances", "Instances of all replicas", instances),
            ("lattice_instances_limit", "Instances that there may be", instances_limit),
            (
                "lattice_instances_memory_bytes",
                "Linear memory of all instances together",
                self.runtime.memory_bytes_used(),
            ),
            (
                "lattice_instances_memory_limit_bytes",
                "Linear memory that they may have together",
                self.runtime.memory_bytes_total(),
            ),
        ] {
            let level = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            level.encode(encoder.encode_descriptor(name, help, None, level.metric_type())?)?;
        }
        Ok(())
    }
}
