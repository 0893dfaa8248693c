//! An answer is one message. What may be long is cut to what fits, and says how much more there is; what may be longer all the
//! same is refused here, so that a client is answered whatever there is.

use super::{Admission, error_answer};
use lattice::{
    ctl::{CtlError, ErrorCode, HEADER_OMITTED, Reply},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{Answer, Headers},
};
use serde::Serialize;

/// Names of one kind in one item of an answer: of a few hundred nobody reads more, and programs ask for each by itself.
pub(super) const NAMES_MAX: usize = 256;
/// Slots of one node in one item of an answer.
pub(super) const SLOTS_NAMED_MAX: usize = 1000;
/// What an answer says beside its payload: subject, headers.
const HEADER_BYTES: usize = 1024;

impl Admission {
    /// Bytes of the items in one answer. Commas, and what is around them, have as much again.
    pub(super) fn room(&self) -> usize {
        self.platform.bus.payload_bytes_max().min(NATS_PAYLOAD_BYTES_DEFAULT) / 2
    }

    /// The answer, or in its place why it can't be sent.
    pub(super) fn sendable(&self, answer: Answer) -> Answer {
        let (length, most) = (answer.payload.len(), self.platform.bus.payload_bytes_max().saturating_sub(HEADER_BYTES));
        if length <= most {
            return answer;
        }
        let text = format!("the answer has {length} bytes, and {most} fit a message");
        error_answer(&CtlError::new(ErrorCode::Unavailable, text).hint("raise max_payload of the NATS server"))
    }
}

pub(super) fn ok<T: Serialize>(value: T) -> Result<Answer, CtlError> {
    let payload = serde_json::to_vec(&Reply::Ok(value))
        .map_err(|error| CtlError::new(ErrorCode::Unavailable, format!("the answer can't be written: {error}")))?;
    Ok(Answer { headers: Headers::new(), payload: payload.into() })
}

/// A part of a list.
#[derive(Debug, PartialEq)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// How many more there are.
    pub(super) omitted: usize,
}

impl<T: Serialize> Page<T> {
    /// As many items, from the first key, as fit so many bytes, and one at least: else who asks for the next ones could not
    /// go on. Those after them are not made.
    pub(super) fn fill<K>(keys: impl IntoIterator<Item = K>, room: usize, make: impl Fn(K) -> Option<T>) -> Self {
        let mut keys = keys.into_iter();
        let (mut items, mut left) = (Vec::new(), room);
        while let Some(key) = keys.next() {
            let Some(item) = make(key) else { continue };
            let length = json_length(&item);
            if length > left && !items.is_empty() {
                return Self { items, omitted: keys.count().saturating_add(1) };
            }
            left = left.saturating_sub(length);
            items.push(item);
        }
        Self { items, omitted: 0 }
    }

    pub(super) fn answer(self) -> Result<Answer, CtlError> {
        let mut answer = ok(self.items)?;
        if self.omitted > 0 {
            answer.headers.insert(HEADER_OMITTED.to_owned(), self.omitted.to_string());
        }
        Ok(answer)
    }
}

/// Leaves what fits an answer, from the first; how many items that leaves out.
pub(super) fn cut_to_fit<T: Serialize>(items: &mut Vec<T>, mut room: usize) -> usize {
    let fits = |item: &&T| {
        let left = room.checked_sub(json_length(item));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let shown = items.iter().take_while(fits).count();
    cut(items, shown)
}

/// The same of items in an order that is kept: those go first of which `rank` is less.
pub(super) fn cut_by_rank<T: Serialize, R: Ord>(items: &mut Vec<T>, room: usize, rank: impl Fn(&T) -> R) -> usize {
    if items.iter().map(json_length).sum::<usize>() <= room {
        return 0;
    }
    let mut ranked: Vec<(usize, T)> = std::mem::take(items).into_iter().enumerate().collect();
    ranked.sort_by_key(|(_, item)| rank(item)); // stable
    let omitted = cut_to_fit(&mut ranked, room);
    ranked.sort_by_key(|(position, _)| *position);
    items.extend(ranked.into_iter().map(|(_, item)| item));
    omitted
}

/// Leaves so many items at most; how many that leaves out.
pub(super) fn cut<T>(items: &mut Vec<T>, most: usize) -> usize {
    let omitted = items.len().saturating_sub(most);
    items.truncate(most);
    omitted
}

/// A count as it travels.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Longer than any message where it can't be written.
fn json_length<T: Serialize>(item: &T) -> usize {
    serde_json::to_vec(item).map_or(usize::MAX / 2, |json| json.len())
}

#[cfg(test)]
mod tests;
