//! Components that the host links: what crosses, and what each kind of part does when all goes well.

use super::*;
use lattice::id::ComponentName;
use lattice_runtime::{Edge, Part, PartRole, PartState, PartStats, Restart};

pub(crate) const INTERFACES: [&str; 4] = ["counter", "text", "values", "faults"];

pub(crate) fn name(name: &str) -> ComponentName {
    ComponentName::new(name).unwrap()
}

pub(crate) fn service() -> PartRole {
    PartRole::Service { restart: Restart::default() }
}

pub(crate) fn lazy() -> PartRole {
    PartRole::Lazy { idle: Duration::from_secs(30) }
}

/// From the main component to a part, one edge for each interface.
pub(crate) fn edges(to: &str, interfaces: &[&str]) -> Vec<Edge> {
    let edge = |interface| {
        let interface = format!("example:parts/{interface}@0.1.0");
        Edge { from: None, import: interface.clone(), to: name(to), export: interface }
    };
    interfaces.iter().copied().map(edge).collect()
}

/// `part-caller` with `part` in that role.
pub(crate) async fn assembly(role: PartRole, change: impl FnOnce(&mut Part)) -> Assembly {
    let mut part = Part::new(name("part"), component("part").await, role);
    change(&mut part);
    RUNTIME.assemble(component("part-caller").await, vec![part], edges("part", &INTERFACES)).unwrap()
}

pub(crate) async fn unit(role: PartRole) -> Unit {
    Unit::start(&RUNTIME, assembly(role, |_| ()).await, config()).await.unwrap()
}

pub(crate) fn part(unit: &Unit) -> PartStats {
    unit.stats().parts.remove(0)
}

pub(crate) async fn body(unit: &Unit, path: &str) -> String {
    text(unit, get(path)).await.unwrap().1
}

#[tokio::test]
async fn values_of_every_type_cross_whole() {
    for role in [lazy(), PartRole::Isolated, service()] {
        let unit = unit(role.clone()).await;
        assert_eq!(body(&unit, "/values").await, "whole", "{role:?}");
        assert_eq!(body(&unit, "/upper/gr%C3%BC").await, "GR%C3%BC".to_uppercase(), "{role:?}");
        assert_eq!(body(&unit, "/flip/abc").await, "cba", "{role:?}");
        assert_eq!(body(&unit, "/variable/NONE").await, "err no environment variable NONE", "{role:?}");
        assert_eq!((part(&unit).calls, part(&unit).failures), (4, 0), "{role:?}");
    }
}

#[tokio::test]
async fn a_part_has_an_environment_of_its_own() {
    let assembly = assembly(PartRole::Isolated, |part| part.env = [("A".to_owned(), "1".to_owned())].into()).await;
    let unit = Unit::start(&RUNTIME, assembly, config()).await.unwrap();
    assert_eq!(body(&unit, "/variable/A").await, "ok 1");
    assert_eq!(body(&unit, "/variable/GREETING").await, "err no environment variable GREETING", "that of the unit");
}

#[tokio::test]
async fn a_lazy_part_is_made_when_it_is_called_and_goes_when_it_is_not() {
    let unit = unit(PartRole::Lazy { idle: Duration::from_millis(50) }).await;
    assert_eq!((part(&unit).instances_live, part(&unit).state), (0, PartState::Ready));
    assert_eq!(body(&unit, "/add/2").await, "2");
    assert_eq!((part(&unit).instances_live, part(&unit).instances_created), (1, 1));
    until("nobody calls it any more", || part(&unit).instances_live == 0).await;
    assert_eq!(body(&unit, "/add/3").await, "3", "a fresh one");
}

#[tokio::test]
async fn an_isolated_part_is_there_from_the_start_and_used_again() {
    let unit = unit(PartRole::Isolated).await;
    assert_eq!(part(&unit).instances_live, 1);
    assert_eq!((body(&unit, "/add/2").await, body(&unit, "/add/3").await), ("2".into(), "5".into()));
    assert_eq!(part(&unit).instances_created, 1);
}

#[tokio::test]
async fn all_instances_of_a_unit_call_one_service() {
    let assembly = assembly(service(), |_| ()).await;
    let config = UnitConfig { reuse: Reuse { enabled: false, ..Reuse::default() }, ..config() };
    let unit = Unit::start(&RUNTIME, assembly, config).await.unwrap();
    let calls = (0..20).map(|_| body(&unit, "/add/1"));
    let mut sums: Vec<u32> =
        futures_util::future::join_all(calls).await.into_iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=20).collect::<Vec<_>>());
    assert_eq!((part(&unit).instances_created, part(&unit).calls), (1, 20));
}
