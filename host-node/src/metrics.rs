//! What the units of this node count, for `/metrics`. Read when asked, so that nothing is counted twice.

use crate::instances::ReadyUnits;
use lattice::id::SlotId;
use lattice_runtime::{GpuStats, OPERATION_BUCKETS, OperationStats, Runtime, Unit, UnitStats, WAIT_BUCKETS, WaitStats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, exemplar::Exemplar, gauge::ConstGauge},
    registry::Registry,
};
use std::{collections::HashMap, sync::Arc};

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

const NO_EXEMPLARS: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;

/// Its workload and replica, and what it counts.
type OfUnit = ([(&'static str, String); 2], UnitStats);

impl Collector for Units {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let units: Vec<(SlotId, Arc<Unit>)> = self.units.all();
        let stats: Vec<OfUnit> = units
            .iter()
            .map(|(slot, unit)| {
                let labels = [("workload", slot.workload.to_string()), ("replica", slot.index.to_string())];
                (labels, unit.stats())
            })
            .collect();
        for (name, help, value) in SUMS {
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, stats) in &stats {
                ConstCounter::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, label, values) in SUMS_BY {
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for ([workload, replica], stats) in &stats {
                for (value, count) in values(stats) {
                    let labels = [workload.clone(), replica.clone(), (label, value.to_owned())];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        for (name, help, value) in LEVELS {
            let kind = MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, stats) in &stats {
                ConstGauge::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, value) in GPU_SUMS {
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, gpu) in stats.iter().filter_map(|(labels, stats)| Some((labels, stats.gpu.as_ref()?))) {
                ConstCounter::new(value(gpu)).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, value) in GPU_LEVELS {
            let kind = MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, gpu) in stats.iter().filter_map(|(labels, stats)| Some((labels, stats.gpu.as_ref()?))) {
                ConstGauge::new(value(gpu)).encode(family.encode_family(labels)?)?;
            }
        }
        let (name, help) =
            ("lattice_unit_queue_seconds", "Time that calls waited for their turn; those that did not are not in it");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, stats) in &stats {
            let WaitStats { buckets, sum } = stats.waits;
            let bounds = WAIT_BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(buckets).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            family.encode_family(labels)?.encode_histogram(sum.as_secs_f64(), count, &buckets, NO_EXEMPLARS)?;
        }
        encode_operations(&mut encoder, &stats)?;
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

/// What guests did with NATS. What a replica's guests never did has no series.
fn encode_operations(encoder: &mut DescriptorEncoder<'_>, units: &[OfUnit]) -> Result<(), std::fmt::Error> {
    let operations = || {
        units.iter().flat_map(|([workload, replica], stats)| {
            stats.operations.iter().map(move |stats| {
                let OperationStats { interface, operation, outcome, .. } = stats;
                let words = [("interface", *interface), ("operation", *operation), ("outcome", *outcome)];
                let [interface, operation, outcome] = words.map(|(name, word)| (name, word.to_owned()));
                ([workload.clone(), replica.clone(), interface, operation, outcome], stats)
            })
        })
    };
    let (name, help) = ("lattice_unit_nats_operations", "What guests asked of NATS, by how it ended");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, stats) in operations() {
        ConstCounter::new(stats.count()).encode(family.encode_family(&labels)?)?;
    }
    let (name, help) = ("lattice_unit_nats_operation_seconds", "How long that took");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, stats) in operations() {
        let bounds = OPERATION_BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(stats.buckets).collect();
        family.encode_family(&labels)?.encode_histogram(
            stats.sum.as_secs_f64(),
            stats.count(),
            &buckets,
            NO_EXEMPLARS,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    /// One replica that did something.
    #[derive(Debug)]
    struct One(OperationStats);

    impl Collector for One {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            let stats = UnitStats { operations: vec![self.0.clone()], ..UnitStats::default() };
            encode_operations(&mut encoder, &[([("workload", "shop".into()), ("replica", "0".into())], stats)])
        }
    }

    #[test]
    fn operations_are_a_counter_and_a_histogram_of_the_same_labels() {
        let mut buckets = [0; OPERATION_BUCKETS.len() + 1];
        (buckets[0], buckets[11]) = (2, 1);
        let sum = std::time::Duration::from_millis(12_500);
        let stats =
            OperationStats { interface: "lattice:nats/kv", operation: "write", outcome: "timeout-maybe", buckets, sum };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(One(stats)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let labels = "workload=\"shop\",replica=\"0\",interface=\"lattice:nats/kv\",operation=\"write\",outcome=\"timeout-maybe\"";
        for line in [
            format!("lattice_unit_nats_operations_total{{{labels}}} 3\n"),
            format!("lattice_unit_nats_operation_seconds_sum{{{labels}}} 12.5\n"),
            format!("lattice_unit_nats_operation_seconds_count{{{labels}}} 3\n"),
            format!("lattice_unit_nats_operation_seconds_bucket{{le=\"0.0001\",{labels}}} 2\n"),
            format!("lattice_unit_nats_operation_seconds_bucket{{le=\"10.0\",{labels}}} 2\n"),
            format!("lattice_unit_nats_operation_seconds_bucket{{le=\"+Inf\",{labels}}} 3\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
