//! Turns an interface into itself, seen otherwise: it exports `wasi:config/store` and imports it, and shows whoever asks it
//! only the keys that begin with its environment variable `CONFIG_PREFIX`, without that prefix. A component that is composed
//! with it sees no other keys, and needs no change: it imports what it always did.
//!
//! Any interface can be virtualized like this: to limit it, to answer from memory in a test, to count or to log.

use crate::exports::wasi::config::store::{Error, Guest};
use crate::wasi::config::store;

wit_bindgen::generate!({ path: "wit", generate_all });
export!(View);

struct View;

impl Guest for View {
    fn get(key: String) -> Result<Option<String>, Error> {
        store::get(&(prefix() + &key)).map_err(pass_on)
    }

    fn get_all() -> Result<Vec<(String, String)>, Error> {
        let prefix = prefix();
        let all = store::get_all().map_err(pass_on)?.into_iter();
        Ok(all.filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value))).collect())
    }
}

fn prefix() -> String {
    std::env::var("CONFIG_PREFIX").unwrap_or_default()
}

/// The same error of another interface: what is imported and what is exported are two types.
fn pass_on(error: store::Error) -> Error {
    match error {
        store::Error::Upstream(text) => Error::Upstream(text),
        store::Error::Io(text) => Error::Io(text),
    }
}
