//! Room on a node: who makes it for whom, and what an instance of many parts takes of it.

use super::*;
use futures_util::future::join_all;
use lattice_runtime::{NoRoom, Part, PartRole, Retirement, StartError};

struct Node {
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new(change: impl FnOnce(&mut RuntimeOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = RuntimeOptions::new(dir.path().join("code"));
        change(&mut options);
        Self { runtime: Runtime::new(options).unwrap(), _dir: dir }
    }

    async fn component(&self, bytes: Bytes) -> Component {
        self.runtime.load(Digest::of(&bytes), bytes).await.unwrap()
    }

    async fn start(&self, component: Component, min_warm: u32) -> Result<Unit, StartError> {
        let mut config = config();
        config.reuse.min_warm = min_warm;
        Unit::start(&self.runtime, alone(&self.runtime, component), config).await
    }
}

/// So many requests at the same time, each in an instance of its own.
async fn busy(unit: &Unit, instances: usize) {
    let answers = join_all((0..instances).map(|_| text(unit, get("/sleep/100")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn idle_instances_make_room_and_warm_ones_last() {
    let node = Node::new(|options| options.max_instances = 4);
    let faults = node.component(guest("faults")).await;
    let one = node.start(faults.clone(), 1).await.unwrap();
    busy(&one, 4).await;
    assert_eq!(one.stats().instances_live, 4);
    let other = node.start(faults.clone(), 1).await.unwrap();
    busy(&other, 3).await;
    assert_eq!((one.stats().instances_live, other.stats().instances_live), (1, 3), "the warm one is left");
    assert_eq!(one.stats().instances_retired, [(Retirement::Room, 3)].into());
    // What the others can spare comes before what anybody wants to keep, however long unused.
    let third = node.start(faults, 1).await.unwrap();
    assert_eq!((one.stats().instances_live, other.stats().instances_live), (1, 2));
    busy(&third, 4).await;
    assert_eq!((one.stats().instances_live, other.stats().instances_live, third.stats().instances_live), (0, 0, 4));
    // Nobody's housekeeping takes them back, and a request does.
    assert_eq!(text(&one, get("/")).await.unwrap().0, 200);
    assert_eq!((one.stats().instances_live, third.stats().instances_live), (1, 3));
}

/// Instances of parts that nobody calls make room as well, for units and for other parts; what is kept warm goes last.
#[tokio::test]
async fn idle_parts_make_room() {
    let node = Node::new(|options| options.max_instances = 3);
    let (caller, part) = (node.component(guest("part-caller")).await, node.component(guest("part")).await);
    let start = async |role| {
        let part = Part::new(parts::name("part"), part.clone(), role);
        let edges = parts::edges("part", &parts::INTERFACES);
        let assembly = node.runtime.assemble(caller.clone(), vec![part], edges).unwrap();
        Unit::start(&node.runtime, assembly, config()).await.unwrap()
    };
    let live = |unit: &Unit| (unit.stats().instances_live, parts::part(unit).instances_live);
    let lazy = start(parts::lazy()).await;
    assert_eq!(parts::body(&lazy, "/add/1").await, "1");
    assert_eq!(live(&lazy), (1, 1));
    let isolated = start(PartRole::Isolated).await;
    assert_eq!((live(&lazy), live(&isolated)), ((1, 0), (1, 1)), "nobody wants to keep the lazy one");
    assert_eq!(parts::body(&lazy, "/add/1").await, "1");
    assert_eq!(live(&lazy), (1, 1), "a part is made in the place of one that is idle");
    assert_eq!(live(&isolated).0 + live(&isolated).1, 1);
}

/// In the middle of a guest's work, on its own stack, with instances that have stacks as well.
#[tokio::test]
async fn memory_that_a_guest_asks_for_is_taken_from_idle_instances() {
    for version in BOTH {
        let node = Node::new(|options| options.memory_bytes_total = 40 << 20);
        let faults = node.component(guest(faults(version))).await;
        let (idle, hog) = (node.start(faults.clone(), 0).await.unwrap(), node.start(faults, 0).await.unwrap());
        // Half of the node's memory is divided between the two, so a quarter is its own.
        const OWN: u64 = 10 << 20;
        let live = u64::from(idle.stats().instances_live + hog.stats().instances_live);
        let each = node.runtime.memory_bytes_used() / live;
        let many = OWN / each + 3;
        busy(&idle, many as usize).await;
        assert_eq!(u64::from(idle.stats().instances_live), many);
        let error = text(&hog, get("/memory")).await.unwrap_err().to_string();
        assert!(error.contains("more memory than is left on this node"), "{version}: {error}");
        let left = u64::from(idle.stats().instances_live);
        assert!(
            left < many && (left * each).abs_diff(OWN) < 2 * each,
            "{version}: {left} of {many}, {each} bytes each"
        );
        assert_eq!(text(&idle, get("/")).await.unwrap().0, 200, "{version}");
    }
}

/// A component of many parts with a memory each, as composed ones are. It answers nothing.
fn of_parts(parts: usize) -> Bytes {
    let instances = (0..parts).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect::<String>();
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $m (memory (export "m") 1) (func (export "handle") (param i32 i32)))
            {instances}
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $i0 "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap().into()
}

#[tokio::test]
async fn a_composition_of_many_parts_may_have_all_its_instances() {
    // The default node and the default unit, of 32 parts.
    let node = Node::new(|_| ());
    let unit = node.start(node.component(of_parts(32)).await, 64).await.unwrap();
    assert_eq!(unit.stats().instances_live, 64);
    drop(unit);

    // What a node lacks is named, and idle instances of whoever has it make room.
    let node = Node::new(|options| options.max_instances = 2);
    let six = node.component(of_parts(6)).await;
    let Err(StartError::NoRoom { what: NoRoom::Pool(what), .. }) = node.start(six.clone(), 2).await else {
        panic!("12 memories of 8");
    };
    assert!(what.contains("memory"), "{what}");
    let one = node.start(six.clone(), 1).await.unwrap();
    let _other = node.start(six, 1).await.unwrap();
    assert_eq!(one.stats().instances_live, 0);
}
