//! Values that nobody is shown: neither a log nor a status, an event or an error. Held in memory that is overwritten when
//! the last holder lets go. What a library copies meanwhile (buffers of a connection, a guest's memory) is not.

use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// One value. Clones share it. There is no way to print or serialise it; whoever needs the bytes says so by
/// [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes over: no copy is left behind.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_shown() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(…) Some(Secret(…))");
        assert_eq!(secret.reveal(), b"hunter2");
    }
}
