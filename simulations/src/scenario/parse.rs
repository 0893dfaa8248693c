//! The words of a scenario, one command a line:
//!
//! ```text
//! seed N                                  of everything that is left to chance [default: 1]
//! node ID [slots=N] [memory=SIZE] [cpus=N] [zone=Z] [taint=T]…
//! nodes N [slots=N] [memory=SIZE] [cpus=N]  n1 to nN; odd ones in zone b, even ones in zone a
//! put W {FIELDS}                          a spec, without its name and component
//! refused put W {FIELDS}                  one that must be refused
//! scale W N      delete W      cordon ID      uncordon ID
//! rebalance [N]                           move replicas to better places, N at a time [default: 1]
//! kill WHO       start WHO                kill -9; WHO is ids, or `all`
//! suspend WHO    resume WHO               SIGSTOP, SIGCONT
//! leave WHO                               SIGTERM
//! mute WHO  deaf WHO  silent WHO  down WHO  up WHO      the way to NATS: see `network::Link`
//! clock ID TIME                           its wall clock is set wrong: 1h, -5m
//! stall TIME                              the store has no leader
//! depose TIME                             a leader of before answers reads
//! expire                                  all sessions expire
//! lose-writes TIME                        the store loses what it acknowledged within that time
//! recreate state|specs                    a bucket is deleted and made again
//! weather [SETTING=N]…                    in thousandths: see `network::Weather`
//! peace                                   nothing goes wrong any more
//! after TIME                              let time pass
//! settle [anywhere]                       wait until all is at rest, and say who holds what [or not, where chance decides]
//! keep W N                                from now on at least N replicas answer at every moment
//! kept W                                  up to here; says how few did
//! steer W pause|resume|promote|abort      a rollout
//! send W N                                N messages to W, on tasks.W
//! sour W                                  what the newest spec of W runs answers half of its requests with errors
//! expect share W N                        of a hundred requests at each node, those that go to what the newest spec runs
//! expect messages W handled|refused|unheard|unconfirmed|lost N      what became of messages to W so far
//! expect answering W N    expect runs ID SLOT…    expect generation W N    expect fired N
//! ```

use crate::{
    messages::End,
    network::{Link, Weather},
    world::Fault,
};
use lattice::{
    gpu::Offer,
    id::{NodeId, WorkloadName},
    record::Capacity,
    spec::Taint,
    store::Bucket,
    units,
};
use std::{str::FromStr, time::Duration};

pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) lines: Vec<Line>,
}

pub(super) struct Line {
    pub(super) number: usize,
    /// Empty for what stands on the line of another one.
    pub(super) text: String,
    pub(super) command: Command,
}

pub(super) enum Command {
    Node {
        id: NodeId,
        capacity: Capacity,
        gpus: Vec<Offer>,
        zone: String,
        taints: Vec<Taint>,
    },
    After(Duration),
    /// Whether to say who holds what: where chance decides it, nobody should expect it.
    Settle {
        is_told: bool,
    },
    Put {
        workload: WorkloadName,
        fields: String,
        is_refused: bool,
    },
    Scale {
        workload: WorkloadName,
        replicas: u32,
    },
    Delete(WorkloadName),
    Steer {
        workload: WorkloadName,
        action: String,
    },
    Rebalance {
        at_once: u32,
    },
    Sour(WorkloadName),
    Send {
        workload: WorkloadName,
        number: u64,
    },
    Cordon {
        node: NodeId,
        is_cordoned: bool,
    },
    OfNodes(Members, Befalls),
    OfStore(Fault),
    Clock {
        node: NodeId,
        millis: i64,
    },
    Weather(Vec<(String, u64)>),
    Peace,
    Keep {
        workload: WorkloadName,
        at_least: usize,
    },
    Expect(Promise),
}

pub(super) enum Members {
    All,
    These(Vec<NodeId>),
}

#[derive(Clone, Copy)]
pub(super) enum Befalls {
    Kill,
    Start,
    Suspend,
    Resume,
    Leave,
    Link(Link),
    FailGpus(bool),
}

pub(super) enum Promise {
    Kept(WorkloadName),
    Answering {
        workload: WorkloadName,
        replicas: usize,
    },
    Runs {
        node: NodeId,
        slots: Vec<String>,
    },
    Generation {
        workload: WorkloadName,
        generation: u64,
    },
    Fired {
        at_least: u64,
    },
    Share {
        workload: WorkloadName,
        percent: u32,
    },
    /// None for those that were handled.
    Messages {
        workload: WorkloadName,
        end: Option<End>,
        number: usize,
    },
}

pub(super) fn parse(text: &str) -> Result<Scenario, String> {
    let mut scenario = Scenario { seed: 1, lines: Vec::new() };
    for (number, line) in (1..).zip(text.lines()) {
        let text = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = text.split_whitespace().collect();
        let wrong = |why: String| format!("line {number}, {text:?}: {why}");
        match words[..] {
            [] => continue,
            ["seed", seed] => scenario.seed = read(seed).map_err(wrong)?,
            ["nodes", count, ref settings @ ..] => {
                for i in 1..=read::<u64>(count).map_err(wrong)? {
                    let zone = if i % 2 == 0 { "a" } else { "b" };
                    let command = node(&format!("n{i}"), zone, settings).map_err(wrong)?;
                    let text = if i == 1 { text.to_owned() } else { String::new() };
                    scenario.lines.push(Line { number, text, command });
                }
            }
            _ => {
                let command = command(text, &words).map_err(wrong)?;
                scenario.lines.push(Line { number, text: text.to_owned(), command });
            }
        }
    }
    Ok(scenario)
}

fn read<T: FromStr>(word: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    word.parse().map_err(|error| format!("{word:?}: {error}"))
}

/// `250ms`, `5s`, `2m`, `1h`.
fn time(word: &str) -> Result<Duration, String> {
    let end = word.find(|character: char| !character.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(end);
    let number: u64 = read(number)?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        "h" => Ok(Duration::from_secs(3600 * number)),
        _ => Err(format!("{word:?} is no time: write 250ms, 5s, 2m or 1h")),
    }
}

fn node(id: &str, zone: &str, settings: &[&str]) -> Result<Command, String> {
    let mut capacity = Capacity { slots: 4, memory: 256 << 20, millicores: 0 };
    let (mut zone, mut taints, mut gpus) = (zone.to_owned(), Vec::new(), Vec::new());
    for setting in settings {
        match setting.split_once('=') {
            Some(("slots", slots)) => capacity.slots = read(slots)?,
            Some(("memory", memory)) => capacity.memory = read::<units::Bytes>(memory)?.0,
            Some(("cpus", cpus)) => capacity.millicores = read::<units::Millicores>(cpus)?.0,
            Some(("zone", name)) => zone = name.to_owned(),
            Some(("taint", taint)) => taints.push(read(taint)?),
            Some(("gpu", gpu)) => gpus.push(offer(gpus.len(), gpu)?),
            _ => return Err(format!("{setting:?} is no setting of a node")),
        }
    }
    Ok(Command::Node { id: read(id)?, capacity, zone, taints, gpus })
}

/// `discrete/4GiB/2`: class, memory, slots.
fn offer(number: usize, text: &str) -> Result<Offer, String> {
    let bad = || format!("{text:?} is no GPU: write discrete/4GiB/2");
    let parts: Vec<&str> = text.split('/').collect();
    let &[class, memory, slots] = parts.as_slice() else { return Err(bad()) };
    let class = serde_json::from_value(class.into()).map_err(|_| bad())?;
    Ok(crate::node::gpu(number, class, read::<units::Bytes>(memory)?.0, read(slots)?))
}

fn members(words: &[&str]) -> Result<Members, String> {
    match words {
        [] => Err("which nodes? Write ids, or `all`".into()),
        ["all"] => Ok(Members::All),
        ids => Ok(Members::These(ids.iter().map(|id| read(id)).collect::<Result<_, _>>()?)),
    }
}

fn put(text: &str, workload: &str, is_refused: bool) -> Result<Command, String> {
    let fields = text.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}')).unwrap_or_default();
    Ok(Command::Put { workload: read(workload)?, fields: fields.trim().to_owned(), is_refused })
}

fn weather(settings: &[&str]) -> Result<Command, String> {
    let setting = |word: &&str| {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no setting"))?;
        Weather::default().setting(name).ok_or_else(|| format!("there is no setting {name}"))?;
        Ok((name.to_owned(), read(value)?))
    };
    Ok(Command::Weather(settings.iter().map(setting).collect::<Result<_, String>>()?))
}

fn command(text: &str, words: &[&str]) -> Result<Command, String> {
    let befalls = |what, who: &[&str]| Ok(Command::OfNodes(members(who)?, what));
    match words {
        ["node", id, settings @ ..] => node(id, "a", settings),
        ["put", workload, ..] => put(text, workload, false),
        ["refused", "put", workload, ..] => put(text, workload, true),
        ["scale", workload, replicas] => Ok(Command::Scale { workload: read(workload)?, replicas: read(replicas)? }),
        ["delete", workload] => Ok(Command::Delete(read(workload)?)),
        ["steer", workload, action] => Ok(Command::Steer { workload: read(workload)?, action: (*action).to_owned() }),
        ["rebalance"] => Ok(Command::Rebalance { at_once: 1 }),
        ["rebalance", at_once] => Ok(Command::Rebalance { at_once: read(at_once)? }),
        ["send", workload, number] => Ok(Command::Send { workload: read(workload)?, number: read(number)? }),
        ["sour", workload] => Ok(Command::Sour(read(workload)?)),
        ["cordon", node] => Ok(Command::Cordon { node: read(node)?, is_cordoned: true }),
        ["uncordon", node] => Ok(Command::Cordon { node: read(node)?, is_cordoned: false }),
        ["kill", who @ ..] => befalls(Befalls::Kill, who),
        ["start", who @ ..] => befalls(Befalls::Start, who),
        ["suspend", who @ ..] => befalls(Befalls::Suspend, who),
        ["resume", who @ ..] => befalls(Befalls::Resume, who),
        ["leave", who @ ..] => befalls(Befalls::Leave, who),
        ["gpus-fail", who @ ..] => befalls(Befalls::FailGpus(true), who),
        ["gpus-pass", who @ ..] => befalls(Befalls::FailGpus(false), who),
        ["up", who @ ..] => befalls(Befalls::Link(Link::Up), who),
        ["mute", who @ ..] => befalls(Befalls::Link(Link::Mute), who),
        ["deaf", who @ ..] => befalls(Befalls::Link(Link::Deaf), who),
        ["silent", who @ ..] => befalls(Befalls::Link(Link::Silent), who),
        ["down", who @ ..] => befalls(Befalls::Link(Link::Down), who),
        ["clock", node, by] => {
            let (sign, by) = by.strip_prefix('-').map_or((1, *by), |by| (-1, by));
            let millis = i64::try_from(time(by)?.as_millis()).map_err(|error| error.to_string())?;
            Ok(Command::Clock { node: read(node)?, millis: sign * millis })
        }
        ["stall", by] => Ok(Command::OfStore(Fault::Stall(time(by)?))),
        ["depose", by] => Ok(Command::OfStore(Fault::Depose(time(by)?))),
        ["expire"] => Ok(Command::OfStore(Fault::Expire)),
        ["lose-writes", ago] => Ok(Command::OfStore(Fault::LoseWrites(time(ago)?))),
        ["recreate", name] => {
            let bucket = Bucket::ALL.into_iter().find(|bucket| bucket.name() == *name);
            Ok(Command::OfStore(Fault::Recreate(bucket.ok_or_else(|| format!("there is no bucket {name}"))?)))
        }
        ["weather", settings @ ..] => weather(settings),
        ["peace"] => Ok(Command::Peace),
        ["after", by] => Ok(Command::After(time(by)?)),
        ["settle"] => Ok(Command::Settle { is_told: true }),
        ["settle", "anywhere"] => Ok(Command::Settle { is_told: false }),
        ["keep", workload, number] => Ok(Command::Keep { workload: read(workload)?, at_least: read(number)? }),
        ["kept", workload] => Ok(Command::Expect(Promise::Kept(read(workload)?))),
        ["expect", "answering", workload, number] => {
            Ok(Command::Expect(Promise::Answering { workload: read(workload)?, replicas: read(number)? }))
        }
        ["expect", "runs", node, slots @ ..] => {
            let slots = slots.iter().map(|slot| (*slot).to_owned()).collect();
            Ok(Command::Expect(Promise::Runs { node: read(node)?, slots }))
        }
        ["expect", "generation", workload, number] => {
            Ok(Command::Expect(Promise::Generation { workload: read(workload)?, generation: read(number)? }))
        }
        ["expect", "share", workload, number] => {
            Ok(Command::Expect(Promise::Share { workload: read(workload)?, percent: read(number)? }))
        }
        ["expect", "messages", workload, became, number] => {
            let end = match *became {
                "handled" => None,
                "refused" => Some(End::Refused),
                "unheard" => Some(End::Unheard),
                "unconfirmed" => Some(End::Unconfirmed),
                "lost" => Some(End::Lost),
                _ => return Err(format!("messages are not {became:?}")),
            };
            Ok(Command::Expect(Promise::Messages { workload: read(workload)?, end, number: read(number)? }))
        }
        ["expect", "fired", number] => Ok(Command::Expect(Promise::Fired { at_least: read(number)? })),
        _ => Err("no such command; they are listed in simulations/src/scenario/parse.rs".into()),
    }
}
