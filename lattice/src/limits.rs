//! Every bound that more than one crate must agree on. Each is derived from another or says where it comes from, and
//! relations between them are asserted at compile time.

use std::time::Duration;

/// Instances, at a time, of one replica.
pub const INSTANCES_MAX: u32 = 1024;
/// Requests, at a time, in one instance.
pub const CONCURRENCY_MAX: u32 = 256;
/// Requests that may wait for one replica.
pub const QUEUE_MAX: u32 = 65_536;
/// Longest time of one request.
pub const WALL_MAX: Duration = Duration::from_secs(3600);
/// Conditions on labels of one workload.
pub const REQUIREMENTS_MAX: usize = 64;
/// Preferences, spreads, relations to other workloads, or tolerations of one workload.
pub const RULES_MAX: usize = 16;
/// Taints of one node.
pub const TAINTS_MAX: usize = 16;
/// Largest spec document, in bytes, as it arrives: well under the smallest payload limit that nats-server ships with
/// (1 MiB), so that the record around it always fits one message.
pub const SPEC_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a spec document.
pub const SPEC_DEPTH_MAX: usize = 32;
/// Components and services of one workload.
pub const COMPONENTS_MAX: usize = 32;
/// Links between the components of one workload.
pub const LINKS_MAX: usize = 256;
/// Longest script that says how components are composed, in bytes. The spec around it has room for four of them.
pub const SCRIPT_BYTES_MAX: usize = SPEC_BYTES_MAX / 4;
/// Longest name of an interface in a link, in bytes.
pub const INTERFACE_BYTES_MAX: usize = 512;
/// Routes of one workload.
pub const ROUTES_MAX: usize = 256;
/// Workloads that one names as its callers.
pub const CALLERS_MAX: usize = 256;
/// Grants of one kind of one workload.
pub const GRANTS_MAX: usize = 256;
/// Schedules of one workload.
pub const SCHEDULES_MAX: usize = 16;
/// Subscriptions of one workload.
pub const MESSAGES_MAX: usize = 16;
/// Volumes of one workload.
pub const VOLUMES_MAX: usize = 16;
/// Files of one volume whose text is in the spec.
pub const VOLUME_FILES_MAX: usize = 256;
/// Least and largest size of an empty volume, in bytes.
pub const VOLUME_BYTES_MIN: u64 = 64 << 10;
pub const VOLUME_BYTES_MAX: u64 = 64 << 30;
/// Replicas of one workload.
pub const REPLICAS_MAX: u32 = 10_000;
/// Environment variables or configuration entries of one component.
pub const ENTRIES_MAX: usize = 512;
/// Longest key of one entry of configuration by name, in bytes.
pub const CONFIG_KEY_BYTES_MAX: usize = 256;
/// Longest value of one entry, in bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 16 * 1024;
/// Keys and values under one name, in bytes: every node keeps all of them in memory.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Names in a lattice.
pub const CONFIGS_MAX: usize = 1024;
/// Names that one component refers to, for its configuration or its environment.
pub const CONFIGS_NAMED_MAX: usize = 16;
/// Secrets that one component is given.
pub const SECRETS_NAMED_MAX: usize = 64;
/// Bytes of one secret.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Labels of one node.
pub const LABELS_MAX: usize = 64;
/// Longest label value, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 255;
/// GPUs of one node.
pub const GPUS_MAX: usize = 16;
/// Features, limits and quirks that a node tells of one GPU.
pub const GPU_FEATURES_MAX: usize = 64;
pub const GPU_LIMITS_MAX: usize = 64;
pub const GPU_QUIRKS_MAX: usize = 16;
/// Longest name of one of them, and longest text about a GPU, in bytes.
pub const GPU_NAME_BYTES_MAX: usize = 64;
pub const GPU_TEXT_BYTES_MAX: usize = 256;
/// Least and most memory of a GPU that a replica may claim, in bytes; and most slots.
pub const GPU_MEMORY_BYTES_MIN: u64 = 1 << 20;
pub const GPU_MEMORY_BYTES_MAX: u64 = 1 << 40;
pub const GPU_SLOTS_MAX: u32 = 64;
/// Claims of one workload, of which one counts.
pub const GPU_ALTERNATIVES_MAX: usize = 8;
/// Largest component, in bytes, that admission reads and nodes fetch.
pub const COMPONENT_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Largest payload of one NATS message where the server does not say otherwise.
pub const NATS_PAYLOAD_BYTES_DEFAULT: usize = 1024 * 1024;
/// Largest linear memory of one instance, in bytes. Nodes reserve address space for it, instance by instance.
pub const INSTANCE_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Revisions of a spec that the store keeps: the most that a NATS KV bucket can (ADR-8).
pub const SPEC_HISTORY: u8 = 64;
/// Longest line of guest output that is passed on whole, in bytes.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Lines of guest output that a node keeps for `logs` without `--follow`, for each slot.
pub const LOG_LINES_KEPT: usize = 500;
/// Longest text of a failure that is stored in a slot or an event, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// Largest report of a node, in bytes. A quarter of what servers carry by default: reports reach every node.
pub const REPORT_BYTES_MAX: usize = NATS_PAYLOAD_BYTES_DEFAULT / 4;

/// How long a client of the control interface waits for an answer by default.
pub const CTL_TIMEOUT: Duration = Duration::from_secs(5);

const _: () =
    assert!(CONFIG_BYTES_MAX <= SPEC_BYTES_MAX / 4, "a request with its escapes is as long as a spec at most");
const _: () = assert!(2 * SPEC_BYTES_MAX <= NATS_PAYLOAD_BYTES_DEFAULT, "a put reply holds the spec and a plan");

/// A text of somebody else as one line of at most `max` bytes: it can't forge a line of a log or move a terminal's cursor.
pub fn one_line(text: &str, max: usize) -> String {
    clip(text, max).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cut a text to at most `max` bytes, at a character border.
pub fn clip(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}
