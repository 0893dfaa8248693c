//! Folders of files that can be had again: those unused for longest go when there are too many bytes of them.

use std::{fs, io, path::Path, time::Duration};

/// What is not whole after this time was left behind by a crash.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(3600);

/// Removes files from a folder without folders: those unused for longest, until at most `bytes_max` are left, and what is
/// not whole and old. `newest` stays. A file is whole if it has this suffix; when it was last used is its time of
/// modification.
pub fn prune(dir: &Path, suffix: &str, bytes_max: u64, newest: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        files.push((about.modified()?, about.len(), entry.path()));
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (modified, length, path) in files {
        let is_whole = path.extension().is_some_and(|extension| extension == suffix);
        let is_left_over = !is_whole && modified.elapsed().is_ok_and(|age| age > LEFT_OVER_AFTER);
        if path != newest && (is_left_over || is_whole && total > bytes_max) {
            fs::remove_file(&path)?;
            total -= length;
        }
    }
    Ok(())
}
