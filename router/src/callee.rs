//! Whom a request is for: the instances of a workload, or those of them that run what it is to be answered by.

use http::{HeaderMap, HeaderName};
use lattice::{
    Fut,
    http::{CallError, HEADER_AMONG, Instances, Request, Response},
    id::WorkloadName,
    record::Among,
};
use lattice_route_table::RouteEntry;
use std::sync::Arc;

const AMONG: HeaderName = HeaderName::from_static(HEADER_AMONG);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Callee<'a> {
    pub(crate) workload: &'a WorkloadName,
    pub(crate) among: Option<Among>,
}

impl<'a> Callee<'a> {
    pub(crate) fn of(route: &'a RouteEntry) -> Self {
        Self { workload: &route.workload, among: route.among }
    }

    pub(crate) fn is_ready(self, instances: &dyn Instances) -> bool {
        match self.among {
            None => instances.is_ready(self.workload),
            Some(among) => instances.is_ready_among(self.workload, among),
        }
    }

    pub(crate) fn has_room(self, instances: &dyn Instances) -> bool {
        match self.among {
            None => instances.has_room(self.workload),
            Some(among) => instances.has_room_among(self.workload, among),
        }
    }

    pub(crate) fn call(self, instances: &dyn Instances, request: Request) -> Fut<'static, Result<Response, CallError>> {
        match self.among {
            None => instances.call(self.workload, request),
            Some(among) => instances.call_among(self.workload, among, request),
        }
    }

    /// Say it to another node. To be followed by [`unsay`].
    pub(crate) fn say(self, headers: &mut HeaderMap) {
        if let Some(among) = self.among {
            headers.insert(AMONG, crate::headers::value(among.to_string()));
        }
    }
}

/// What was said for one node must not be there for the next one.
pub(crate) fn unsay(headers: &mut HeaderMap) {
    headers.remove(AMONG);
}

/// What another node said of who may answer, taken away from what the component sees. Nothing where it can't be read.
pub(crate) fn heed(headers: &mut Arc<HeaderMap>) -> Option<Option<Among>> {
    if !headers.contains_key(AMONG) {
        return Some(None);
    }
    let said = Arc::make_mut(headers).remove(AMONG)?;
    said.to_str().ok()?.parse().ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use lattice::id::Generation;

    #[test]
    fn what_is_said_to_another_node_is_heard_there_and_seen_by_no_component() {
        let workload = "w".parse().unwrap();
        let mut headers = HeaderMap::new();
        Callee { workload: &workload, among: Some(Among::Without(Generation(7))) }.say(&mut headers);
        let mut there = Arc::new(headers.clone());
        assert_eq!(heed(&mut there), Some(Some(Among::Without(Generation(7)))));
        assert!(there.is_empty());
        assert_eq!(heed(&mut there), Some(None));
        unsay(&mut headers);
        assert!(headers.is_empty());
        for bad in ["", "x", "7, 8", "\u{e9}"] {
            let value = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            assert_eq!(heed(&mut Arc::new(HeaderMap::from_iter([(AMONG, value)]))), None, "{bad}");
        }
    }
}
