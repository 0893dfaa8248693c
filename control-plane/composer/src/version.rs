//! Names of imports and exports: which export fits an import by name and version. Knows nothing of types.

use semver::Version;

/// How well an export fits an import. The best is the greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// A compatible version that is not older; the newest is the best.
    Compatible(Version),
    /// The same name.
    Exact,
}

/// `acme:auth/check@1.0.0` as the interface and its version, which is `None` where there is none that can be read.
pub(crate) fn split(name: &str) -> (&str, Option<Version>) {
    match name.split_once('@') {
        Some((interface, version)) => (interface, Version::parse(version).ok()),
        None => (name, None),
    }
}

/// How an export fits an import, or `None` if it does not.
pub(crate) fn fit(import: &str, export: &str) -> Option<Fit> {
    if import == export {
        return Some(Fit::Exact);
    }
    let ((wanted, Some(asked)), (given, Some(offered))) = (split(import), split(export)) else { return None };
    let fits = wanted == given && is_compatible(&asked, &offered) && offered >= asked;
    fits.then_some(Fit::Compatible(offered))
}

/// Whether two imports of different components become one import of the whole, in the later version of both.
pub(crate) fn unify(a: &str, b: &str) -> bool {
    let ((first, Some(one)), (second, Some(other))) = (split(a), split(b)) else { return a == b };
    first == second && (one == other || is_compatible(&one, &other))
}

/// The same interface, in a version that does not fit.
pub(crate) fn is_near(import: &str, export: &str) -> bool {
    split(import).0 == split(export).0 && fit(import, export).is_none()
}

/// The same major, or the same minor below 1.0. A version before a release, or below 0.1, agrees with itself only.
fn is_compatible(a: &Version, b: &Version) -> bool {
    let is_released = |version: &Version| version.pre.is_empty();
    is_released(a) && is_released(b) && a.major == b.major && (a.major > 0 || (a.minor == b.minor && a.minor > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_fits_if_it_is_compatible_and_not_older() {
        for (import, export, fits) in [
            ("a:b/c", "a:b/c", true),
            ("run", "run", true),
            ("a:b/c", "a:b/d", false),
            ("a:b/c", "a:b/c@1.0.0", false),
            ("a:b/c@1.0.0", "a:b/c", false),
            ("a:b/c@1.0.0", "a:b/c@1.2.0", true),
            ("a:b/c@1.2.0", "a:b/c@1.0.0", false),
            ("a:b/c@1.0.0", "a:b/c@2.0.0", false),
            ("a:b/c@1.0.0", "a:b/d@1.0.0", false),
            ("a:b/c@0.2.0", "a:b/c@0.2.3", true),
            ("a:b/c@0.2.0", "a:b/c@0.3.0", false),
            ("a:b/c@0.0.1", "a:b/c@0.0.2", false),
            ("a:b/c@0.0.1", "a:b/c@0.0.1", true),
            ("a:b/c@1.0.0-rc.1", "a:b/c@1.0.0", false),
            ("a:b/c@1.0.0", "a:b/c@1.1.0-rc.1", false),
            ("a:b/c@1.0.0-rc.1", "a:b/c@1.0.0-rc.1", true),
        ] {
            assert_eq!(fit(import, export).is_some(), fits, "{import} from {export}");
        }
        assert!(fit("a:b/c@1.0.0", "a:b/c@1.0.0") > fit("a:b/c@1.0.0", "a:b/c@1.1.0"));
        assert!(fit("a:b/c@1.0.0", "a:b/c@1.10.0") > fit("a:b/c@1.0.0", "a:b/c@1.9.0"));
        assert!(is_near("a:b/c@1.0.0", "a:b/c@2.0.0") && is_near("a:b/c@1.0.0", "a:b/c"));
        assert!(unify("a:b/c@1.0.0", "a:b/c@1.2.0") && unify("a:b/c", "a:b/c") && unify("a:b/c@0.0.1", "a:b/c@0.0.1"));
        assert!(!unify("a:b/c@1.0.0", "a:b/c@2.0.0") && !unify("a:b/c@1.0.0", "a:b/c") && !unify("a:b/c", "a:b/d"));
        assert!(!is_near("a:b/c@1.0.0", "a:b/c@1.1.0") && !is_near("a:b/c@1.0.0", "a:b/d@1.0.0"));
    }
}
