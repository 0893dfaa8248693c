//! How much of the bodies that come from other nodes this one holds until they are read: the window that each exchange
//! gives its peer. It begins small, and grows as it is read, out of room that all share; so the many that nobody
//! reads have little each, and the few that are read fast have enough for a long way.
//!
//! Who asks for more gets no more than a part of what is free (the dynamic threshold of Choudhury and Hahne, 1998): many
//! that want all leave some for whoever comes next.

use lattice::exchange::HTTP_WINDOW_BYTES;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What a window begins with: bytes that fit are sent at once, whatever the distance.
const FIRST_BYTES: u32 = 64 << 10;
/// What it begins with where there are as many exchanges as a node takes.
const LEAST_BYTES: u32 = 16 << 10;
/// Of all that have only begun, from where on each gets less.
const BEGUN_BYTES: usize = 128 << 20;
/// What all together may have beyond that.
const SHARED_BYTES: usize = 128 << 20;
/// One of so many parts of what is free is the most that one takes.
const PARTS: usize = 64;

/// Of one node, for either direction.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    open: AtomicUsize,
    /// Of [`SHARED_BYTES`].
    taken: AtomicUsize,
}

/// Of one exchange. Gives back what it has when it is dropped.
#[derive(Debug)]
pub(crate) struct Window {
    windows: Arc<Windows>,
    bytes: u32,
    /// Beyond what it began with.
    taken: u32,
    /// Since it last grew.
    consumed: usize,
}

impl Windows {
    pub(crate) fn open(self: &Arc<Self>) -> Window {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        let each = u32::try_from(BEGUN_BYTES / open).unwrap_or(u32::MAX);
        Window { windows: self.clone(), bytes: each.clamp(LEAST_BYTES, FIRST_BYTES), taken: 0, consumed: 0 }
    }

    /// What there is of so many bytes for one that has `bytes`.
    fn take(&self, bytes: u32, more: u32) -> u32 {
        let mut got = 0;
        let _ = self.taken.fetch_update(Relaxed, Relaxed, |taken| {
            let free = SHARED_BYTES.saturating_sub(taken);
            let most = u32::try_from(free / PARTS).unwrap_or(u32::MAX).min(HTTP_WINDOW_BYTES);
            got = most.saturating_sub(bytes).min(more);
            (got > 0).then(|| taken + got as usize)
        });
        got
    }
}

impl Window {
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// So many bytes were read. Answers with the window's size where it is another one from now on.
    pub(crate) fn consumed(&mut self, bytes: usize) -> Option<u32> {
        self.consumed += bytes;
        if self.consumed < self.bytes as usize || self.bytes >= HTTP_WINDOW_BYTES {
            return None;
        }
        self.consumed = 0;
        let more = self.windows.take(self.bytes, self.bytes);
        self.bytes += more;
        self.taken += more;
        (more > 0).then_some(self.bytes)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.open.fetch_sub(1, Relaxed);
        self.windows.taken.fetch_sub(self.taken as usize, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read until it grows no more.
    fn read(window: &mut Window) {
        while window.consumed(window.bytes() as usize).is_some() {}
    }

    fn all(windows: &[Window]) -> usize {
        windows.iter().map(|window| window.bytes() as usize).sum()
    }

    #[test]
    fn a_window_grows_while_it_is_read() {
        let windows = Arc::new(Windows::default());
        let mut window = windows.open();
        assert_eq!(window.bytes(), FIRST_BYTES);
        assert_eq!(window.consumed(FIRST_BYTES as usize - 1), None);
        assert_eq!(window.consumed(1), Some(2 * FIRST_BYTES));
        assert_eq!(window.consumed(FIRST_BYTES as usize), None, "a window of the new size, from then on");
        read(&mut window);
        assert_eq!(window.bytes(), HTTP_WINDOW_BYTES);
        drop(window);
        assert_eq!((windows.open.load(Relaxed), windows.taken.load(Relaxed)), (0, 0), "all was given back");
    }

    #[test]
    fn many_have_a_bounded_sum_and_who_comes_late_has_some() {
        const MANY: usize = 8192;
        let windows = Arc::new(Windows::default());
        let mut open: Vec<_> = (0..MANY).map(|_| windows.open()).collect();
        assert_eq!(open[MANY - 1].bytes(), LEAST_BYTES);
        assert!(all(&open) < 5 * BEGUN_BYTES / 2, "{}", all(&open));
        let begun = all(&open);
        open.iter_mut().for_each(read);
        assert!(all(&open) <= begun + SHARED_BYTES);
        drop(open.split_off(MANY / 2));
        let mut late = windows.open();
        read(&mut late);
        assert!(late.bytes() > 2 * LEAST_BYTES, "{}", late.bytes());
    }

    #[test]
    fn as_many_as_use_a_line_well_have_all_of_it() {
        let windows = Arc::new(Windows::default());
        let mut open: Vec<_> = (0..PARTS).map(|_| windows.open()).collect();
        open.iter_mut().for_each(read);
        assert!(open.iter().all(|window| window.bytes() == HTTP_WINDOW_BYTES));
    }
}
