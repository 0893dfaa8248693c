//! `cargo xtask models`: brings the ONNX models that tests run into `target/models/`, from a package that is pinned by its hash in
//! `xtask/models.txt`. It must not run anything of the package.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{nats, workspace};

/// Where tests look for models.
pub(crate) const MODELS_VARIABLE: &str = "LATTICE_MODELS";
const FILES: [&str; 1] = ["ch_ppocr_mobile_v2.0_cls_infer.onnx"];

/// Answers the folder.
pub(crate) fn run() -> Result<PathBuf> {
    let folder = workspace::root().join("target/models");
    if FILES.iter().all(|file| folder.join(file).is_file()) {
        return Ok(folder);
    }
    workspace::timed("installing models with pip", || {
        fs::create_dir_all(&folder)?;
        let work = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&folder)?;
        let unpacked = nats::unpack_wheel(&workspace::root().join("xtask/models.txt"), work.path())?;
        for file in FILES {
            let from = unpacked.join("rapidocr_onnxruntime/models").join(file);
            fs::rename(&from, folder.join(file)).with_context(|| format!("the wheel holds no {}", from.display()))?;
        }
        Ok(())
    })?;
    Ok(folder)
}
