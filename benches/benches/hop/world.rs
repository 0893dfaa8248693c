//! Two nodes' routers on connections of their own to one nats-server, and the peer's two ends on the same ones.

use crate::{Answer, CASES, CLIENT, Case, component::Component, page_request};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use http_body_util::BodyExt as _;
use lattice::{
    Fut,
    frame::{Frame, ResponseHead},
    http::{CallError, Instances, Request, Response, full},
    id::{LatticeId, WorkloadName},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{Bus, Items, Message},
    view::LatticeView,
};
use lattice_benches::{small, world};
use lattice_nats::{ConnectOptions, SystemClock, SystemRng};
use lattice_router::{Router, RouterOptions};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

const NEAR: u32 = 0;
const FAR: u32 = 1;
/// The far router's subscription takes a moment. An attempt before it is given up after this.
const ATTEMPT: Duration = Duration::from_millis(50);
const ATTEMPTS_MAX: u32 = 100;

pub(crate) struct World {
    pub(crate) near: Router,
    pub(crate) far: Router,
    pub(crate) near_bus: Arc<dyn Bus>,
    pub(crate) request_frame: Bytes,
    has_component: bool,
    stop: CancellationToken,
    /// Serves the far router's peers; answers as the peer.
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) async fn start(url: &str) -> Self {
        let mut view = world::nodes(FAR + 1);
        world::ask_for(&mut view, 0, 1, vec![world::route(small::HOST, "/")]);
        world::place_all(&mut view, FAR, 1);
        let view = Arc::new(view);

        let component = Component::start().await;
        let has_component = component.is_some();
        let (near_bus, far_bus) = (connect(url).await, connect(url).await);
        let near = router(NEAR, near_bus.clone(), view.clone(), Node { ready: false, component: None });
        let far = router(FAR, far_bus.clone(), view, Node { ready: true, component });

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (served, until) = (far.clone(), stop.clone());
        tasks.spawn(async move { served.serve_peers(until, Duration::ZERO).await.expect("connected") });
        let mut attempts = 0;
        while near.handle(page_request(&CASES[0]), CLIENT).await.status() != StatusCode::OK {
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "the far router answers");
        }
        let request_frame = encode(small::request_frame(small::request_head()));
        let mut world = Self { near, far, near_bus, request_frame, has_component, stop, tasks };
        for case in CASES.iter().filter(|case| Self::answered(case, has_component)) {
            let questions = far_bus.subscribe(case.subject.to_owned(), None).await.expect("connected");
            let reply = encode(world.response_frame(case).await);
            let answers = answer_as_peer(far_bus.clone(), questions, reply);
            world.tasks.spawn(world.stop.clone().run_until_cancelled_owned(answers).map(drop));
        }
        world
    }

    pub(crate) fn answers(&self, case: &Case) -> bool {
        Self::answered(case, self.has_component)
    }

    fn answered(case: &Case, has_component: bool) -> bool {
        matches!(case.answer, Answer::Page(_)) || has_component
    }

    /// What goes over NATS when the far node answers.
    async fn response_frame(&self, case: &Case) -> Frame {
        match &case.answer {
            Answer::Page(page) => small::response_frame(small::response_head(), page.clone()),
            Answer::Component => {
                let (head, body) = self.far.handle(page_request(case), CLIENT).await.into_parts();
                assert_eq!(head.status, StatusCode::OK);
                let body = body.collect().await.expect("the body is whole").to_bytes();
                small::response_frame(ResponseHead { status: head.status, headers: head.headers }, body)
            }
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

fn encode(frame: Frame) -> Bytes {
    frame.encode(0, NATS_PAYLOAD_BYTES_DEFAULT).expect("it fits")
}

async fn connect(url: &str) -> Arc<dyn Bus> {
    let options = ConnectOptions { servers: vec![url.to_owned()], ..ConnectOptions::default() };
    lattice_nats::connect(options).await.expect("the server listens").bus()
}

fn router(node: u32, bus: Arc<dyn Bus>, view: Arc<LatticeView>, instances: Node) -> Router {
    let lattice = LatticeId::new("bench").expect("a good name");
    let options = RouterOptions { start_wait: ATTEMPT, ..RouterOptions::new(world::node_id(node), lattice) };
    let (clock, rng) = (Arc::new(SystemClock::default()), Arc::new(SystemRng));
    // A view that never changes: the table of the first one stays in force.
    let (_, view) = watch::channel(view);
    Router::new(options, bus, clock, rng, Arc::new(instances), view, &mut Registry::default())
}

async fn answer_as_peer(bus: Arc<dyn Bus>, mut questions: Items<Message>, payload: Bytes) {
    while let Some(question) = questions.next().await {
        let Some(subject) = question.reply else { continue };
        let answer = Message { subject, payload: payload.clone(), ..Message::default() };
        bus.publish(answer).await.expect("connected");
    }
}

/// What answers on a node: by the path, the same page to everything, or the component.
struct Node {
    ready: bool,
    component: Option<Component>,
}

impl Instances for Node {
    fn is_ready(&self, _: &WorkloadName) -> bool {
        self.ready
    }

    fn call(&self, _: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        let case = CASES.iter().find(|case| case.path.starts_with(request.uri().path())).filter(|_| self.ready);
        let answer = match (case.map(|case| &case.answer), &self.component) {
            (Some(Answer::Component), Some(component)) => return component.call(request),
            (Some(Answer::Page(page)), _) => {
                let mut response = Response::new(full(page.clone()));
                *response.headers_mut() = small::response_headers();
                Ok(response)
            }
            _ => Err(CallError::NotHere),
        };
        Box::pin(std::future::ready(answer))
    }
}
