//! What the fuzz targets share: good examples to begin with, so that the engine need not find a whole spec byte by byte.

use std::{env, fs, path::Path};

/// Put the examples into the corpus: the first folder among the arguments, as libFuzzer reads them. Called before the
/// engine looks there. What was found in earlier runs stays.
pub fn begin_with<E: AsRef<[u8]>>(examples: impl IntoIterator<Item = E>) {
    let Some(corpus) = env::args().skip(1).find(|argument| Path::new(argument).is_dir()) else { return };
    for (number, example) in examples.into_iter().enumerate() {
        let path = Path::new(&corpus).join(format!("example-{number}"));
        if let Err(error) = fs::write(&path, example) {
            eprintln!("cannot write {}: {error}", path.display());
        }
    }
}

/// Those of one of the parsers in `lattice::testing`.
pub fn begin_with_parser(name: &str) {
    let parsers = lattice::testing::parsers::PARSERS;
    begin_with(parsers.iter().filter(|parser| parser.name == name).flat_map(|parser| parser.examples));
}
