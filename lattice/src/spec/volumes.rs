//! `volumes`: directories that a guest sees.

use super::parse::SpecError;
use crate::{
    id::ComponentName,
    limits::{VOLUME_BYTES_MAX, VOLUME_BYTES_MIN, VOLUME_FILES_MAX, VOLUMES_MAX},
    units::Bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A directory that the guest sees: exactly one of `empty`, `host` and `files` says what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name of the volume, unique within the workload.
    pub name: ComponentName,
    /// Where the guest finds it: `/data`. No two volumes have the same.
    pub mount: MountPath,
    /// A directory of the replica's own, empty when the replica starts and removed when it stops. All instances of the
    /// replica share it; no other replica and no later generation sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<EmptyVolume>,
    /// A directory of the node. Only nodes whose operator allowed it (`lattice node --allow-host-path`) take the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostVolume>,
    /// Files that can only be read, by name, with their text. Names have letters, digits, `.`, `_` and `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
}

/// Room for files that need not last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EmptyVolume {
    /// Most that all files together may have, holes included. A write beyond it fails as on a full disk. `64KiB` to
    /// `64GiB`. It holds 4096 files and directories at most.
    pub size: Bytes,
}

/// A directory of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostVolume {
    /// Absolute path of the directory. It must be there when a replica starts.
    pub path: MountPath,
    /// Whether the guest can only read. Default true: what a guest may change is to be said.
    #[serde(default = "yes")]
    pub read_only: bool,
}

fn yes() -> bool {
    true
}

/// An absolute path in normal form: it has no segment that is empty, `.` or `..`, and is not the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountPath(String);

impl MountPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it is one of these directories or lies below one.
    pub fn is_within(&self, directories: &[String]) -> bool {
        directories.iter().any(|directory| {
            let rest = self.0.strip_prefix(directory.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl FromStr for MountPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an absolute path in plain form; write /data");
        let rest = text.strip_prefix('/').ok_or_else(bad)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_plain = |segment: &str| {
            !matches!(segment, "" | "." | "..") && !segment.contains(|c: char| c.is_control() || c == '\\')
        };
        if text.len() > 1024 || !rest.split('/').all(is_plain) {
            return Err(bad());
        }
        Ok(Self(format!("/{rest}")))
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes that empty volumes of one replica may take of their node.
pub fn empty_bytes(volumes: &[VolumeSpec]) -> u64 {
    volumes.iter().filter_map(|volume| volume.empty).fold(0, |sum, empty| sum.saturating_add(empty.size.0))
}

pub(super) fn check(volumes: &[VolumeSpec]) -> Result<(), SpecError> {
    if volumes.len() > VOLUMES_MAX {
        return Err(SpecError::new("volumes", format!("at most {VOLUMES_MAX} volumes are allowed")));
    }
    for (i, volume) in volumes.iter().enumerate() {
        let field = |name: &str| format!("volumes[{i}].{name}");
        let before = || volumes.iter().take(i);
        if before().any(|other| other.name == volume.name) {
            return Err(SpecError::new(field("name"), format!("{:?} is there twice", volume.name)));
        }
        if before().any(|other| other.mount == volume.mount) {
            return Err(SpecError::new(field("mount"), format!("{} is there twice", volume.mount)));
        }
        let VolumeSpec { empty, host, files, .. } = volume;
        if [empty.is_some(), host.is_some(), files.is_some()].iter().filter(|is_set| **is_set).count() != 1 {
            return Err(SpecError::new(format!("volumes[{i}]"), "a volume is one of `empty`, `host` and `files`")
                .hint("volumes: [{name: scratch, mount: /data, empty: {size: 64MiB}}]"));
        }
        if let Some(EmptyVolume { size }) = empty
            && !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&size.0)
        {
            let (least, most) = (Bytes(VOLUME_BYTES_MIN), Bytes(VOLUME_BYTES_MAX));
            return Err(SpecError::new(field("empty.size"), format!("{size} is not from {least} to {most}")));
        }
        if let Some(files) = files {
            if files.len() > VOLUME_FILES_MAX {
                return Err(SpecError::new(field("files"), format!("at most {VOLUME_FILES_MAX} files are allowed")));
            }
            let is_good = |name: &&String| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                (1..=255).contains(&name.len()) && name.bytes().all(allowed) && !matches!(name.as_str(), "." | "..")
            };
            if let Some(name) = files.keys().find(|name| !is_good(name)) {
                let message = format!("{name:?} is not a file's name: it has letters, digits, '.', '_' and '-'");
                return Err(SpecError::new(field("files"), message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain_and_absolute() {
        for (text, expect) in [("/data", "/data"), ("/srv/x/", "/srv/x"), ("/a b/ü", "/a b/ü")] {
            assert_eq!(text.parse::<MountPath>().unwrap().as_str(), expect);
        }
        for bad in ["", "/", "data", "./data", "/a/../b", "/a/./b", "//a", "/a//b", "/a\\b", "/a\nb"] {
            assert!(bad.parse::<MountPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn within_is_by_whole_segments() {
        let path = |text: &str| text.parse::<MountPath>().unwrap();
        let allowed = ["/srv/x".to_owned(), "/opt/".to_owned()];
        for (text, expect) in
            [("/srv/x", true), ("/srv/x/y", true), ("/srv/xy", false), ("/srv", false), ("/opt/a", true), ("/o", false)]
        {
            assert_eq!(path(text).is_within(&allowed), expect, "{text}");
        }
        assert!(path("/any").is_within(&["/".to_owned()]));
        assert!(!path("/any").is_within(&[]));
    }

    #[test]
    fn a_volume_is_one_thing() {
        let read = |volumes: &str| {
            let digest = crate::id::Digest::of(b"");
            let text = format!("{{name: a, components: [{{name: a, source: '{digest}'}}], volumes: [{volumes}]}}");
            super::super::parse(text.as_bytes()).map(|spec| spec.volumes).map_err(|error| error.field)
        };
        let good =
            read("{name: s, mount: /s, empty: {size: 1MiB}}, {name: h, mount: /h, host: {path: /srv/x}}").unwrap();
        assert_eq!(empty_bytes(&good), 1 << 20);
        assert_eq!(
            good.iter().filter_map(|volume| volume.host.as_ref()).map(|host| host.read_only).collect::<Vec<_>>(),
            [true]
        );
        assert!(read("{name: f, mount: /f, files: {a.conf: text}}").is_ok());
        for (bad, field) in [
            ("{name: s, mount: /s}", "volumes[0]"),
            ("{name: s, mount: /s, empty: {size: 1MiB}, files: {}}", "volumes[0]"),
            ("{name: s, mount: /s, empty: {size: 1KiB}}", "volumes[0].empty.size"),
            ("{name: s, mount: s, empty: {size: 1MiB}}", "volumes[0].mount"),
            ("{name: s, mount: /s, files: {a/b: x}}", "volumes[0].files"),
            ("{name: s, mount: /s, files: {..: x}}", "volumes[0].files"),
            ("{name: s, mount: /s, files: {}}, {name: s, mount: /t, files: {}}", "volumes[1].name"),
            ("{name: s, mount: /s, files: {}}, {name: t, mount: /s/, files: {}}", "volumes[1].mount"),
            ("{name: s, mount: /s, host: {path: /srv/../etc}}", "volumes[0].host.path"),
        ] {
            assert_eq!(read(bad), Err(field.to_owned()), "{bad}");
        }
    }
}
